//! Sessions that may send datagrams.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::net::UdpSocket;

use cli::{EVERYONE, Install};

/// A client of RFC 1928 section 7, without a library: argv is the port of the origin.
const CLIENT: &str = r"
import socket, struct, sys
control = socket.create_connection(('127.0.0.1', 8081))
control.sendall(b'\x05\x01\x00')
assert control.recv(2) == b'\x05\x00'
control.sendall(b'\x05\x03\x00\x01' + bytes(6))
reply = control.recv(10)
if reply[1]: sys.exit(f'reply {reply[1]}')
relay = (socket.inet_ntoa(reply[4:8]), struct.unpack('!H', reply[8:])[0])
header = bytes(3) + b'\x01\x7f\x00\x00\x01' + struct.pack('!H', int(sys.argv[1]))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(30)
datagrams.sendto(header + b'ping', relay)
answer = datagrams.recv(2000)
assert answer == header + b'ping', answer
print('pong')
";

fn echo() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], from));
        }
    });
    port
}

#[test]
fn a_program_in_a_jail_sends_datagrams_where_the_profile_allows_it() {
    for who in EVERYONE {
        let install = Install::new(who);
        let port = echo().to_string();
        let text = |on: bool| {
            format!(
                "[network]\nenable_socks5_udp = {on}\n[network.addresses]\nallow = [\"127.0.0.1\"]\n\
                 [[network.rules]]\nhost = \"127.0.0.1\"\nports = [{port}]\nprotocol = \"udp\"\n\
                 action = \"allow\"\n"
            )
        };
        let profile = install.write("profile.toml", &text(true));
        let profile = profile.to_str().unwrap();
        let client = ["python3", "-c", CLIENT, &port];
        let run = install.run(&["-p", profile], &client);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.as_str()),
            (Some(0), "pong\n", ""),
            "{who:?}"
        );
        let closed = install.events("egress.closed");
        assert_eq!(
            (&closed[0]["bytes_up"], &closed[0]["bytes_down"]),
            (&4.into(), &4.into())
        );
        install.write("profile.toml", &text(false));
        let run = install.run(&["-p", profile], &client);
        assert_eq!(run.stderr.lines().next(), Some("reply 7"), "{who:?}");
    }
}
