//! Children: started with exactly the descriptors they are given, at the numbers they expect.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

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

    /// Starts it.
    pub fn start(mut self) -> io::Result<Child> {
        self.command
            .fd_mappings(self.mappings)
            .map_err(|_| io::Error::other("two descriptors for one number"))?;
        self.command.spawn()
    }
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
