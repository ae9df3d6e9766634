//! Acts inside a jail and says what the kernel answered (`probe ACTS`, a JSON list); with
//! `probe session ORDER` it plays the session outside, with `probe enter …` the daemon. Speaks through its standard output.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_in_result,
    clippy::disallowed_methods,
    reason = "acts as hostile code does, and may panic"
)]

#[path = "../support/act.rs"]
mod act;
mod enter;
#[path = "../support/jail.rs"]
mod jail;
#[path = "../support/order.rs"]
mod order;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use act::{Act, Answer};
use nix::libc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[1] == "session" {
        return jail::play_file(arguments[2].as_ref());
    }
    if arguments[1] == "enter" {
        return enter::enter(&arguments[2..]);
    }
    let acts: Vec<Act> = serde_json::from_str(&arguments[1]).unwrap();
    let answers: Vec<Answer> = acts.iter().map(answer).collect();
    println!("{}", serde_json::to_string(&answers).unwrap());
}

fn answer(act: &Act) -> Answer {
    let result = match act {
        Act::Call(number, args) => return in_child(|| call(*number, args)),
        Act::Int80 => return in_child(int80),
        other => perform(other),
    };
    match result {
        Ok(said) => Answer::Done(said),
        Err(error) => Answer::Errno(error.raw_os_error().unwrap_or(0)),
    }
}

fn perform(act: &Act) -> io::Result<String> {
    let open_for_writing = |path: &Path| OpenOptions::new().write(true).open(path);
    match act {
        Act::Read(path) => {
            return Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned());
        }
        Act::Write(path) => drop(open_for_writing(path)?),
        Act::Reopen(fd) => drop(open_for_writing(Path::new(&format!("/proc/self/fd/{fd}")))?),
        Act::Create(path) => drop(fs::File::create_new(path)?),
        Act::Mkdir(path) => fs::create_dir(path)?,
        Act::Remove(path) => remove(path)?,
        Act::Rename(from, to) => fs::rename(from, to)?,
        Act::Exchange(from, to) => exchange(from, to)?,
        Act::Link(from, to) => fs::hard_link(from, to)?,
        Act::Symlink(target, path) => std::os::unix::fs::symlink(target, path)?,
        Act::Chmod(path, mode) => fs::set_permissions(path, PermissionsExt::from_mode(*mode))?,
        Act::List(path) => return list(path),
        Act::WritableBelow(path) => return Ok(writable_below(path).join("\n")),
        Act::Descriptors => return Ok(descriptors()),
        Act::Environment => return Ok(environment()),
        Act::Terminal(request) => terminal(*request)?,
        Act::AskUnix(path) => return ask_unix(path),
        Act::WaitFor(path) => {
            while !path.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        other => speak(other)?,
    }
    Ok(String::new())
}

fn speak(act: &Act) -> io::Result<()> {
    match act {
        Act::ConnectTcp(to) => drop(TcpStream::connect_timeout(to, Duration::from_secs(20))?),
        Act::SendUdp(to) => {
            let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
                .parse()
                .unwrap();
            UdpSocket::bind(any)?.send_to(b"x", to)?;
        }
        Act::BindTcp(at) => bind_tcp(*at)?,
        Act::ConnectAbstract(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            drop(UnixStream::connect_addr(&address)?);
        }
        Act::ConnectUnix(path) => drop(UnixStream::connect(path)?),
        Act::ListenUnix(path) => {
            let _listener = UnixListener::bind(path)?;
            drop(UnixStream::connect(path)?);
        }
        Act::SetOption(level, name, value) => set_option(*level, *name, *value)?,
        other => panic!("not about sockets: {other:?}"),
    }
    Ok(())
}

fn ask_unix(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(b"ping")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// Does it in a child, so that a signal or a successful escape does not end the probe.
fn in_child(act: impl FnOnce() -> io::Result<i64>) -> Answer {
    // SAFETY: the probe has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let code = match act() {
                Ok(_) => 0,
                Err(error) => error.raw_os_error().unwrap_or(255),
            };
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the status is a valid place.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            if libc::WIFSIGNALED(status) {
                return Answer::Killed(libc::WTERMSIG(status));
            }
            match libc::WEXITSTATUS(status) {
                0 => Answer::done(),
                errno => Answer::Errno(errno),
            }
        }
    }
}

fn call(number: i64, args: &[u64; 6]) -> io::Result<i64> {
    let [a1, a2, a3, a4, a5, a6] = *args;
    // SAFETY: tests pass numbers and null pointers only.
    let result = unsafe { libc::syscall(number, a1, a2, a3, a4, a5, a6) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// getpid as i386 numbers it.
fn int80() -> io::Result<i64> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut result: i64 = 20;
        // SAFETY: the call touches no memory; the kernel may clobber r8 to r11.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") result, out("r8") _, out("r9") _,
                out("r10") _, out("r11") _);
        }
        if result < 0 {
            return Err(io::Error::from_raw_os_error(
                i32::try_from(-result).unwrap(),
            ));
        }
        Ok(result)
    }
    #[cfg(not(target_arch = "x86_64"))]
    Err(io::ErrorKind::Unsupported.into())
}

fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        other => other,
    }
}

fn list(path: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join("\n"))
}

fn writable_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> = fs::read_dir(folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        for path in entries {
            match fs::symlink_metadata(&path).map(|data| data.file_type()) {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() && perform(&Act::Write(path.clone())).is_ok() => {
                    found.push(path.to_string_lossy().into_owned());
                }
                _ => {}
            }
        }
    }
    found
}

fn descriptors() -> String {
    let open = |number: &i32| {
        // SAFETY: asks about a number.
        unsafe { libc::fcntl(*number, libc::F_GETFD) != -1 }
    };
    let open: Vec<String> = (0..4096).filter(open).map(|fd| fd.to_string()).collect();
    open.join(",")
}

fn environment() -> String {
    let mut all: Vec<String> = std::env::vars()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    all.sort();
    all.join("\n")
}

fn terminal(request: u64) -> io::Result<()> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let byte = b'x';
    // SAFETY: the request reads one byte.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, tty.as_raw_fd(), request, &raw const byte) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn bind_tcp(at: SocketAddr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(bind(&socket, &at)?)
}

fn set_option(level: i32, name: i32, value: i32) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
    // SAFETY: the value is an int, and its length says so.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
