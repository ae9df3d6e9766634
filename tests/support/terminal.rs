//! A person at a terminal: a pseudo-terminal whose other end the test holds.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use crate::cli::{USER, Who};

/// A person's terminal with a program on it.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: File,
    pub(crate) slave: OwnedFd,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub(crate) fn new(program: &Command, who: Who, size: (u16, u16)) -> Self {
        Self::answering(program, who, size, |_| Vec::new())
    }

    /// One that says this to what is printed.
    pub(crate) fn answering(
        program: &Command,
        who: Who,
        (rows, columns): (u16, u16),
        mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let mut command = Command::new("setsid");
        // With the new terminal as the controlling one, as a person's is.
        command.args(["--ctty", "--wait"]);
        command.arg(program.get_program());
        command.args(program.get_args()).env_clear();
        command.current_dir(program.get_current_dir().unwrap());
        command.envs(program.get_envs().filter_map(|(k, v)| Some((k, v?))));
        if who == Who::User {
            command.uid(USER).gid(USER);
        }
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let child = command.spawn().unwrap();
        drop(command);
        let master = File::from(pty.master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut stream, sink) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(got) = stream.read(&mut chunk) {
                if got == 0 {
                    break;
                }
                let printed = chunk.get(..got).unwrap();
                sink.lock().unwrap().extend(printed);
                let said = answer(printed);
                stream.write_all(&said).ok();
            }
        });
        Self {
            master,
            slave: pty.slave,
            child,
            shown,
        }
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    pub(crate) fn shows(&self, text: &str) {
        until(&format!("{text:?} on the screen"), || {
            self.shown().contains(text)
        });
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Waits for the program's end.
    pub(crate) fn status(&mut self) -> Option<i32> {
        let mut ended = None;
        until("the program ends", || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        ended.and_then(|status| status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
