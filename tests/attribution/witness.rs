//! The witness by itself, without the kernel's answers about sockets: it reads the tables of proc(5) then. The jail is a
//! namespace of processes, in the network of the test.

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};

use portcullis::audit::{Process, ProcessUnknown};
use portcullis::jail::{Footing, Witness};
use portcullis::wire::Channel;
use portcullis::wire::witness::{Asked, Maker, Protocol, Told};

use crate::place::{program, until};

const CLIENT: &str = "import socket, sys\n\
    kept = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
    asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    asks.sendto(b'x', ('127.0.0.1', int(sys.argv[2])))\n\
    sys.stdin.readline()\n\
    kept.close()\n\
    sys.stdin.readline()\n";

fn children(of: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

#[test]
fn without_socket_diagnostics_the_tables_tell_and_nobody_outside_is_ever_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let names = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ports = [
        listener.local_addr().unwrap().port().to_string(),
        names.local_addr().unwrap().port().to_string(),
    ];
    let child = Command::new("/usr/bin/unshare")
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            "\"$@\"; :",
            "sh",
        ])
        .args(["/usr/bin/python3", "-c", CLIENT])
        .args(&ports)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let (kept, client) = listener.accept().unwrap();
    let (_, sender) = names.recv_from(&mut [0]).unwrap();
    let first = children(child.0.id())[0];
    let init = children(first)[0];
    let program_file = File::open(env!("CARGO_BIN_EXE_portcullis-init")).unwrap();
    let pid = rustix::process::Pid::from_raw(init.try_into().unwrap()).unwrap();
    let witness = Witness::start(&program_file, Footing::Own).unwrap();
    witness.watch(pid, None).unwrap();
    let channel = Channel::from(witness.channel().unwrap());
    let ask = |id, protocol, client, server| {
        let asked = Asked {
            id,
            protocol,
            client,
            server,
        };
        channel.send(&asked).unwrap();
        let told: Told = channel.recv().unwrap();
        assert_eq!(told.id, id);
        told.maker
    };
    let server = kept.local_addr().unwrap();
    let mut argv = vec![
        "/usr/bin/python3".to_owned(),
        "-c".to_owned(),
        CLIENT.to_owned(),
    ];
    argv.extend(ports);
    let python = Maker::Process(Box::new(Process {
        pid: 2,
        host_pid: init,
        exe: program("python3"),
        argv,
        parents: Vec::new(),
        shared_with: 0,
    }));
    assert_eq!(ask(1, Protocol::Tcp, client, server), python);
    let names_at = names.local_addr().unwrap();
    assert_eq!(ask(2, Protocol::Udp, sender, names_at), python);
    // The test's own connection: it stands, and nobody in the jail has it.
    let own = TcpStream::connect(server).unwrap();
    let own_at = own.local_addr().unwrap();
    let not_found = Maker::Unknown(ProcessUnknown::NotFound);
    assert_eq!(ask(3, Protocol::Tcp, own_at, server), not_found);
    let gone = Maker::Unknown(ProcessUnknown::Gone);
    child.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut id = 3;
    until("the connection is closed", || {
        id += 1;
        ask(id, Protocol::Tcp, client, server) == gone
    });
    // A later gate has a channel of its own, and the first is not listened to any more.
    let later = Channel::from(witness.channel().unwrap());
    let asked = Asked {
        id: 9,
        protocol: Protocol::Udp,
        client: sender,
        server: names_at,
    };
    later.send(&asked).unwrap();
    assert_eq!(later.recv::<Told>().unwrap().maker, python);
    assert!(channel.recv::<Told>().is_err());
}
