//! What the probe can do, and what the kernel can answer.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One thing to try.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Act {
    /// A bare system call, in a child of its own.
    Call(i64, [u64; 6]),
    /// Open for reading; answers the content.
    Read(PathBuf),
    /// Open what is there for writing, and write nothing.
    Write(PathBuf),
    /// Open what is there for writing, through a path that the kernel resolves itself.
    Reopen(i32),
    /// Make a file.
    Create(PathBuf),
    Mkdir(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    /// renameat2(2) with `RENAME_EXCHANGE`.
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    Chmod(PathBuf, u32),
    /// Names of the entries, sorted.
    List(PathBuf),
    /// Every file below that can be opened for writing.
    WritableBelow(PathBuf),
    ConnectTcp(SocketAddr),
    SendUdp(SocketAddr),
    /// Bind a TCP port with `SO_REUSEPORT`.
    BindTcp(SocketAddr),
    ConnectAbstract(String),
    ConnectUnix(PathBuf),
    /// Sends `ping` to a socket; answers what comes back.
    AskUnix(PathBuf),
    /// Binds a socket, and connects to it.
    ListenUnix(PathBuf),
    /// setsockopt(2) with an `int` on a new TCP socket.
    SetOption(i32, i32, i32),
    /// An `ioctl` with one byte on the controlling terminal.
    Terminal(u64),
    /// An i386 system call (getpid) by `int 0x80`, in a child of its own.
    Int80,
    /// Numbers of the open descriptors.
    Descriptors,
    /// The environment, sorted.
    Environment,
    /// Wait until this file is there.
    WaitFor(PathBuf),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(String),
    Errno(i32),
    Killed(i32),
}

impl Answer {
    pub(crate) fn done() -> Self {
        Self::Done(String::new())
    }
}
