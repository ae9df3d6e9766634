//! Our own programs, started to run beside us: without a copy of this process in between, which fork(2)
//! would make (posix_spawn(3), which glibc builds on CLONE_VFORK). One takes 0.2 ms less that way, and
//! the pages that we write afterwards need no copying: a start has three of them.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execv;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, kill_process, waitpid};

/// What becomes of a program's standard error; its input and output are `/dev/null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// It is ours.
    Inherited,
    /// Nobody sees it.
    Dropped,
}

/// A child of ours. Dropping it neither ends nor reaps it.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    reaped: bool,
}

/// The path of a program that is installed beside this one.
pub fn installed(name: &str) -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Has a program take the place of this one, with all that is ours (execve(2)). Answers only when it cannot.
pub fn become_it(program: &Path, arguments: impl Iterator<Item = OsString>) -> io::Error {
    let become_it = || -> io::Result<Infallible> {
        let path = CString::new(program.as_os_str().as_bytes())?;
        let words = arguments.map(|word| CString::new(word.into_vec()));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        Ok(execv(&path, &words)?)
    };
    match become_it() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Starts a program with this argument, an empty environment, an empty signal mask, a process group of its
/// own, and of our descriptors these alone, under these numbers (above 2, each once). Whatever else is
/// open here has to be close-on-exec.
pub fn start(
    program: &Path,
    argument: Option<&str>,
    errors: Errors,
    fds: &[(OwnedFd, i32)],
) -> io::Result<Process> {
    let highest = fds.iter().map(|(_, number)| *number).max().unwrap_or(2);
    let mut actions = PosixSpawnFileActions::init()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // Above all numbers that are assigned, so that no source is overwritten before its turn.
    let aside =
        |fd: &dyn std::os::fd::AsFd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), highest + 1);
    let null = aside(&null)?;
    let streams = match errors {
        Errors::Inherited => 0..=1,
        Errors::Dropped => 0..=2,
    };
    for stream in streams {
        actions.add_dup2(null.as_raw_fd(), stream)?;
    }
    let mut sources = Vec::new();
    for (fd, number) in fds {
        let source = aside(fd)?;
        actions.add_dup2(source.as_raw_fd(), *number)?;
        sources.push(source);
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_pgroup(nix::unistd::Pid::from_raw(0))?;
    // Rust's runtime ignores SIGPIPE, and an ignored signal stays so.
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    let name = CString::new(program.as_os_str().as_bytes())?;
    let argument = argument.map(CString::new).transpose()?;
    let argv: Vec<CString> = std::iter::once(name.clone()).chain(argument).collect();
    let no_environment: [CString; 0] = [];
    let pid = posix_spawn(
        name.as_c_str(),
        &actions,
        &attributes,
        &argv,
        &no_environment,
    )?;
    let pid = Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Process { pid, reaped: false })
}

impl Process {
    /// Its number: its own until it is reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end, and reaps it.
    pub fn wait(&mut self) -> io::Result<()> {
        while !self.reap(WaitOptions::empty())? {}
        Ok(())
    }

    /// Reaps it if it has ended, and tells whether it has.
    pub fn try_wait(&mut self) -> io::Result<bool> {
        self.reap(WaitOptions::NOHANG)
    }

    /// Kills it (SIGKILL). Reaped already is as good as killed.
    pub fn kill(&self) -> io::Result<()> {
        if self.reaped {
            return Ok(());
        }
        Ok(kill_process(self.pid, rustix::process::Signal::KILL)?)
    }

    fn reap(&mut self, options: WaitOptions) -> io::Result<bool> {
        if !self.reaped {
            match waitpid(Some(self.pid), options) {
                Ok(ended) => self.reaped = ended.is_some(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(self.reaped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// What a shell that is started this way writes to its descriptor 3, given more descriptors.
    fn said(script: &str, more: Vec<(OwnedFd, i32)>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("script");
        std::fs::write(&file, script).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let fds: Vec<_> = std::iter::once((OwnedFd::from(writer), 3))
            .chain(more)
            .collect();
        // As a session does first: whoever runs the tests may have left something open.
        crate::sys::fd::cloexec_from(3).unwrap();
        let (shell, file) = (Path::new("/bin/sh"), file.to_str());
        let mut process = start(shell, file, Errors::Dropped, &fds).unwrap();
        drop(fds);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        process.wait().unwrap();
        assert!(process.try_wait().unwrap());
        process.kill().unwrap();
        text
    }

    #[test]
    fn a_program_gets_its_argument_and_its_descriptors_and_nothing_more() {
        let null = || {
            let null = File::open("/dev/null").unwrap();
            // Above the shell's own.
            rustix::io::fcntl_dupfd_cloexec(&null, 20).unwrap()
        };
        // Swapped numbers: neither source may be overwritten before it is placed.
        let (a, b) = (null(), null());
        let (first, second) = (a.as_raw_fd(), b.as_raw_fd());
        let text = said(
            "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done >&3",
            vec![(a, second), (b, first)],
        );
        let mut found: Vec<&str> = text.lines().collect();
        let mut expected: Vec<String> = [0, 1, 2, 3, first, second].map(|fd| fd.to_string()).into();
        // The shell's own: its script, the standard output that it keeps while it redirects, and the
        // folder that it lists.
        found.retain(|fd| *fd != "4" && !(10..20).contains(&fd.parse::<i32>().unwrap()));
        expected.sort();
        found.sort_unstable();
        assert_eq!(found, expected);
        let text = said("tr '\\0' '\\n' </proc/$$/environ >&3", Vec::new());
        assert_eq!(text, "");
        // By the shell alone: while another program runs for it, it blocks signals.
        let script = "while read name mask; do case $name in SigBlk:|SigIgn:) echo $mask;; esac
            done </proc/$$/status >&3";
        let text = said(script, Vec::new());
        let masks: Vec<u64> = text
            .lines()
            .map(|mask| u64::from_str_radix(mask, 16).unwrap())
            .collect();
        // What else is ignored is so by whoever runs the tests.
        let pipe = 1 << (nix::libc::SIGPIPE - 1);
        assert_eq!((masks[0], masks[1] & pipe), (0, 0));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_at_once() {
        let error = start(Path::new("/nonexistent"), None, Errors::Dropped, &[]);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
