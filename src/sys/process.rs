//! Children: started with exactly the descriptors they are given, at the numbers they expect.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A program to start. Nothing is inherited but what is named here: an empty environment, standard
/// streams closed to `/dev/null` unless [`Spawn::inherit_stdio`], and the descriptors of [`Spawn::fd`].
#[derive(Debug)]
pub struct Spawn {
    command: Command,
    mappings: Vec<FdMapping>,
}

impl Spawn {
    /// Starts describing a child. `program` is a path, not a name to look up.
    pub fn new(program: &Path) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that starts children"
        )]
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            command,
            mappings: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Lets the child share our standard streams.
    #[must_use]
    pub fn inherit_stdio(mut self) -> Self {
        self.command
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        self
    }

    /// Lets the child share our standard error.
    #[must_use]
    pub fn inherit_stderr(mut self) -> Self {
        self.command.stderr(Stdio::inherit());
        self
    }

    /// Lets us write to the child's standard input.
    #[must_use]
    pub fn pipe_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Captures the child's standard output.
    #[must_use]
    pub fn pipe_stdout(mut self) -> Self {
        self.command.stdout(Stdio::piped());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives the child a descriptor, under this number.
    #[must_use]
    pub fn fd(mut self, fd: impl Into<OwnedFd>, number: i32) -> Self {
        self.mappings.push(FdMapping {
            parent_fd: fd.into(),
            child_fd: number,
        });
        self
    }

    /// Puts the child into a process group of its own: what the terminal sends to ours is not for it.
    #[must_use]
    pub fn own_process_group(mut self) -> Self {
        use std::os::unix::process::CommandExt;
        self.command.process_group(0);
        self
    }

    /// Has the kernel kill the child when the thread that starts it ends, however that comes about
    /// (PR_SET_PDEATHSIG(2const)).
    #[must_use]
    pub fn die_with_us(mut self) -> Self {
        use std::os::unix::process::CommandExt;
        let us = rustix::process::getpid();
        #[expect(unsafe_code, reason = "runs between fork and exec")]
        // SAFETY: the closure makes two bare system calls (prctl(2), getppid(2)) and allocates nothing.
        unsafe {
            self.command.pre_exec(move || {
                let kill = Some(rustix::process::Signal::KILL);
                rustix::process::set_parent_process_death_signal(kill)?;
                // Dead already: then nobody is told.
                if rustix::process::getppid() == Some(us) {
                    Ok(())
                } else {
                    Err(rustix::io::Errno::SRCH.into())
                }
            });
        }
        self
    }

    /// Has the child go into these control groups before it is executed, so that nothing of it is ever
    /// outside. Where it must and cannot, it does not start.
    #[must_use]
    pub fn join(mut self, groups: Vec<Join>) -> Self {
        use std::os::unix::process::CommandExt;
        #[expect(unsafe_code, reason = "runs between fork and exec")]
        // SAFETY: the closure makes bare system calls (write(2), sendto(2), read(2)) on descriptors that it owns,
        // and allocates nothing. It is run before the descriptors of `Spawn::fd` are put to their numbers.
        unsafe {
            self.command.pre_exec(move || {
                for group in &groups {
                    if let (Err(errno), true) = (group.enter(), group.must) {
                        return Err(errno.into());
                    }
                }
                Ok(())
            });
        }
        self
    }

    /// Lets the child ignore what a terminal's keyboard sends (SIGINT, SIGQUIT): it stays in the
    /// foreground process group, and the keys are for somebody else in it.
    #[must_use]
    pub fn ignore_keyboard_signals(mut self) -> Self {
        use std::os::unix::process::CommandExt;
        #[expect(unsafe_code, reason = "runs between fork and exec")]
        // SAFETY: the closure makes two async-signal-safe calls (signal-safety(7): sigaction) and
        // touches no memory of the parent.
        unsafe {
            self.command.pre_exec(super::signal::ignore_keyboard);
        }
        self
    }

    /// Has the child do this before it is executed. Steps are done in the order in which they were asked for.
    /// It must make bare system calls only, and allocate nothing.
    #[must_use]
    pub(super) fn before_exec(
        mut self,
        step: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        use std::os::unix::process::CommandExt;
        #[expect(unsafe_code, reason = "runs between fork and exec")]
        // SAFETY: the callers, all in `super::identity`, make bare system calls on what they own and allocate
        // nothing.
        unsafe {
            self.command.pre_exec(step);
        }
        self
    }

    /// Starts it.
    pub fn start(mut self) -> io::Result<Child> {
        self.command
            .fd_mappings(self.mappings)
            .map_err(|_| io::Error::other("two descriptors for one number"))?;
        self.command.spawn()
    }

    /// Starts it, with its standard output captured, and waits until `deadline` from now. Then, or when
    /// it says more than [`MAX_OUTPUT`], its whole process group is killed and that is an error.
    pub fn capture(self, deadline: Duration) -> io::Result<Captured> {
        let until = Instant::now() + deadline;
        let mut child = self
            .pipe_stdout()
            .own_process_group()
            .die_with_us()
            .start()?;
        let outcome = drain(&mut child, until);
        if outcome.is_err() {
            let group = rustix::process::Pid::from_child(&child);
            match rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
                // Gone already is as good as killed.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let status = child.wait()?;
        outcome.map(|stdout| Captured { status, stdout })
    }
}

/// A control group to go into.
#[derive(Debug)]
pub struct Join {
    /// Its `cgroup.procs`, or a socket on which somebody with more rights is asked.
    pub way: OwnedFd,
    /// It is such a socket: who writes a byte there is moved, and then gets one.
    pub answers: bool,
    /// Outside of it the child must not be executed.
    pub must: bool,
}

impl Join {
    /// For the one who calls it. Allocates nothing.
    fn enter(&self) -> rustix::io::Result<()> {
        if !self.answers {
            return rustix::io::write(&self.way, b"0").map(drop);
        }
        rustix::net::send(&self.way, b"0", rustix::net::SendFlags::NOSIGNAL)?;
        match rustix::io::read(&self.way, &mut [0])? {
            0 => Err(rustix::io::Errno::PERM),
            _ => Ok(()),
        }
    }
}

/// The most that [`Spawn::capture`] takes of a child's output.
pub const MAX_OUTPUT: usize = 4 << 20;

/// What a captured child said and how it ended.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
}

/// Reads a child's output until it has closed it *and* ended.
fn drain(child: &mut Child, until: Instant) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut buffer = [0; 16 << 10];
    if let Some(stdout) = &mut child.stdout {
        loop {
            await_ready(stdout.as_fd(), until)?;
            let length = stdout.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            output.extend(buffer.iter().take(length));
            if output.len() > MAX_OUTPUT {
                return Err(io::Error::other("more output than expected"));
            }
        }
    }
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    await_ready(pidfd.as_fd(), until)?;
    Ok(output)
}

/// Waits until a descriptor can be read (a pidfd: until the process has ended).
fn await_ready(fd: BorrowedFd<'_>, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills a child of ours with its own children, which a parent that is killed alone leaves behind: it is
/// stopped first, so that it makes no more of them. Gives these children (pidfd_open(2)), which may take a
/// moment to end; `None`: ended already, which is as good as killed.
pub fn kill_with_children(child: &mut Child) -> io::Result<Option<Vec<OwnedFd>>> {
    use rustix::process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open,
        pidfd_send_signal, waitid,
    };
    if child.try_wait()?.is_some() {
        return Ok(None);
    }
    // Not reaped yet, so the number is its own.
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::STOP)?;
    let halted = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), halted)?;
    // Without this file (CONFIG_PROC_CHILDREN) its children are on their own, as without us.
    let number = child.id();
    let listed = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
    // Nobody reaps them meanwhile, so these numbers are their own, too.
    let children: Vec<OwnedFd> = listed
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|number| Pid::from_raw(number.parse().ok()?))
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect();
    child.kill()?;
    child.wait()?;
    for child in &children {
        // Gone with its parent.
        pidfd_send_signal(child, Signal::KILL).ok();
    }
    Ok(Some(children))
}

/// Looks a program up in a `PATH`-like list, as execvp(3) would; a name with a slash is itself.
pub fn find_in_path(name: &OsStr, path: &OsStr) -> Option<OsString> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(name.to_owned());
    }
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|candidate| {
            nix::unistd::access(candidate, nix::unistd::AccessFlags::X_OK).is_ok()
                && candidate.is_file()
        })
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Spawn {
        Spawn::new(Path::new("/bin/sh"))
            .arg("-c")
            .arg(script)
            .env("PATH", "/usr/bin:/bin")
    }

    #[test]
    fn a_captured_child_gives_its_output_and_its_status() {
        let captured = shell("echo out; echo err >&2; exit 3")
            .capture(Duration::from_mins(1))
            .unwrap();
        assert_eq!(
            (captured.stdout.as_slice(), captured.status.code()),
            (b"out\n".as_slice(), Some(3))
        );
    }

    #[test]
    fn a_child_that_hangs_is_killed_with_its_own_children() {
        // The grandchild holds the pipe: reading would not end although the child has.
        for hanging in ["sleep 1000", "sleep 1000 & exit 0", "exec >&-; sleep 1000"] {
            let error = shell(hanging)
                .capture(Duration::from_millis(200))
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{hanging}");
        }
    }

    #[test]
    fn a_child_is_killed_with_its_own_children() {
        let mut child = shell("sleep 1000 & echo; wait")
            .pipe_stdout()
            .start()
            .unwrap();
        let mut line = [0];
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut line).unwrap();
        let children = kill_with_children(&mut child).unwrap();
        assert_eq!(children.map(|children| children.len()), Some(1));
        // The end of the pipe: nobody holds it any more.
        await_ready(output.as_fd(), Instant::now() + Duration::from_secs(30)).unwrap();
        assert_eq!(output.read(&mut line).unwrap(), 0);
        assert!(kill_with_children(&mut child).unwrap().is_none());
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let start = || {
            let child = shell("exec sleep 1000").pipe_stdout().die_with_us().start();
            child.unwrap().stdout.take().unwrap()
        };
        let mut output = std::thread::spawn(start).join().unwrap();
        await_ready(output.as_fd(), Instant::now() + Duration::from_secs(30)).unwrap();
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_child_that_never_stops_talking_is_cut_off() {
        let error = shell("exec yes")
            .capture(Duration::from_mins(1))
            .unwrap_err();
        assert_eq!(error.to_string(), "more output than expected");
    }
}
