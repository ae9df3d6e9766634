//! The folder of one process under `/proc` (proc(5)), held open: everything about the process is read through it,
//! so that it is about this process and not about a later one with its number. Of one that has ended nothing can
//! be read any more (ESRCH).
//!
//! Trusts: the kernel. Every read has a bound; what a process shows of itself is only bytes.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, openat, readlinkat};
use rustix::io::{Errno, retry_on_intr};

use crate::audit::process::MAX_ARGUMENTS;

/// Bytes that are read of a command line.
const COMMAND_LINE: usize = 4 << 10;

/// Bytes that are read of a small file.
const SMALL: usize = 4 << 10;

/// The most bytes of a list of children.
const CHILDREN: usize = 16 << 10;

/// The most threads of one process that are looked at.
const THREADS: usize = 1024;

/// Bytes of one read of a folder.
const ENTRIES: usize = 8 << 10;

/// One process.
#[derive(Debug)]
pub(super) struct Folder {
    open: OwnedFd,
    /// Its number in our namespace.
    pub(super) number: u32,
    /// Its number in the jail, once it was asked for: it never changes.
    inside: OnceCell<u32>,
}

/// What `/proc/pid/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Its parent's number in our namespace.
    pub(super) parent: u32,
    /// When it started, in clock ticks since boot.
    pub(super) started: u64,
}

impl Folder {
    /// The process that has this number now.
    pub(super) fn of(number: u32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // openat(2), as every other call here: the one that the helper may make.
        let path = format!("/proc/{number}");
        let folder = openat(rustix::fs::CWD, path, flags, Mode::empty())?;
        Ok(Self::with(folder, number))
    }

    /// A folder that is open.
    pub(super) fn with(folder: OwnedFd, number: u32) -> Self {
        Self {
            open: folder,
            number,
            inside: OnceCell::new(),
        }
    }

    /// The beginning of a file.
    pub(super) fn read(&self, name: &str, most: usize) -> io::Result<Vec<u8>> {
        read_in(self.open.as_fd(), name, most)
    }

    /// Who its parent is and when it started.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        let file = open_in(self.open.as_fd(), "stat")?;
        let mut line = [0; SMALL];
        // The kernel gives the line in one piece.
        let length = retry_on_intr(|| rustix::io::read(&file, &mut line))?;
        stat(line.get(..length).unwrap_or_default())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Its numbers, from our namespace inwards.
    pub(super) fn numbers(&self) -> io::Result<Vec<u32>> {
        let text = self.read("status", SMALL)?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let numbers = line.unwrap_or_default().split_ascii_whitespace();
        Ok(numbers.filter_map(|word| word.parse().ok()).collect())
    }

    /// Its number so many namespaces below ours.
    pub(super) fn inside(&self, depth: usize) -> io::Result<u32> {
        if let Some(known) = self.inside.get() {
            return Ok(*known);
        }
        let number = self.numbers()?.get(depth).copied().unwrap_or_default();
        Ok(*self.inside.get_or_init(|| number))
    }

    /// The file that it executes; nothing where the kernel does not say.
    pub(super) fn executes(&self) -> io::Result<Vec<u8>> {
        match readlinkat(&self.open, "exe", Vec::new()) {
            Ok(path) => Ok(path.into_bytes()),
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Its command line, cut where it is too long.
    pub(super) fn command_line(&self) -> io::Result<Vec<String>> {
        Ok(arguments(&self.read("cmdline", COMMAND_LINE + 1)?))
    }

    /// The numbers of its threads.
    pub(super) fn threads(&self) -> io::Result<Vec<u32>> {
        list(self.open.as_fd(), "task")
    }

    /// The numbers of its children, by this thread of it.
    pub(super) fn children(&self, thread: u32) -> io::Result<Vec<u32>> {
        let text = self.read(&format!("task/{thread}/children"), CHILDREN)?;
        let text = String::from_utf8_lossy(&text);
        Ok(text
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect())
    }

    /// Whether this descriptor of it is that socket.
    pub(super) fn has_at(&self, number: u32, socket: &str) -> bool {
        is_at(self.open.as_fd(), &format!("fd/{number}"), socket)
    }

    /// The descriptor by which it, or this thread of it, has a socket. Looks at no more than `left` descriptors, and
    /// takes those that it looked at from that.
    pub(super) fn has(
        &self,
        thread: Option<u32>,
        socket: &Socket,
        left: &mut usize,
    ) -> io::Result<Option<u32>> {
        let place = thread.map_or_else(String::new, |thread| format!("task/{thread}/"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |name: &str| {
            let path = format!("{place}{name}");
            openat(&self.open, path, flags, Mode::empty())
        };
        match open("fd") {
            Ok(table) => search(&table, left, |entry| {
                is_at(table.as_fd(), entry, &socket.name)
            }),
            // Of a process that has made itself unreadable (PR_SET_DUMPABLE) that folder is root's alone. What
            // else is told of each descriptor is for all who may trace it (Linux 5.14).
            Err(Errno::ACCESS | Errno::PERM) => {
                let table = open("fdinfo")?;
                search(&table, left, |entry| {
                    is_told_at(table.as_fd(), entry, socket)
                })
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether the process that has this number just now has that socket there: enough to pass one over.
pub(super) fn has_at_now(process: u32, number: u32, socket: &str) -> bool {
    is_at(
        rustix::fs::CWD,
        &format!("/proc/{process}/fd/{number}"),
        socket,
    )
}

/// A socket, by what tells it from any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    /// As a link in `/proc/pid/fd` has it.
    name: String,
    inode: u64,
    /// The mount on which the kernel has its sockets.
    mount: Option<u64>,
}

impl Socket {
    pub(super) fn new(inode: u64, mount: Option<u64>) -> Self {
        Self {
            name: format!("socket:[{inode}]"),
            inode,
            mount,
        }
    }

    /// As a link has it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The mount on which all sockets are, by one of our own.
pub(super) fn mount_of_sockets(socket: BorrowedFd<'_>) -> Option<u64> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", socket.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    field(&text, "mnt_id:")
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

fn is_at(table: BorrowedFd<'_>, entry: &str, socket: &str) -> bool {
    readlinkat(table, entry, Vec::new()).is_ok_and(|link| link.as_bytes() == socket.as_bytes())
}

fn is_told_at(table: BorrowedFd<'_>, entry: &str, socket: &Socket) -> bool {
    let Ok(text) = read_in(table, entry, SMALL) else {
        return false;
    };
    let text = String::from_utf8_lossy(&text);
    field(&text, "ino:") == Some(socket.inode)
        && socket.mount.is_some()
        && field(&text, "mnt_id:") == socket.mount
}

fn search(
    table: &OwnedFd,
    left: &mut usize,
    found: impl Fn(&str) -> bool,
) -> io::Result<Option<u32>> {
    let mut hit = None;
    entries(table.as_fd(), |entry| {
        let Some(rest) = left.checked_sub(1) else {
            return false;
        };
        *left = rest;
        if found(entry) {
            hit = entry.parse().ok();
        }
        hit.is_none()
    })?;
    Ok(hit)
}

fn list(folder: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(folder, name, flags, Mode::empty())?;
    let mut numbers = Vec::new();
    entries(folder.as_fd(), |entry| {
        numbers.extend(entry.parse::<u32>());
        numbers.len() < THREADS
    })?;
    Ok(numbers)
}

/// Gives the names in an open folder that are numbers, until one is enough.
fn entries(folder: BorrowedFd<'_>, mut each: impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(ENTRIES);
    let mut folder = RawDir::new(folder, buffer.spare_capacity_mut());
    while let Some(entry) = folder.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().unwrap_or_default();
        if name.starts_with(|c: char| c.is_ascii_digit()) && !each(name) {
            break;
        }
    }
    Ok(())
}

fn open_in(folder: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

fn read_in(folder: BorrowedFd<'_>, name: &str, most: usize) -> io::Result<Vec<u8>> {
    let file = open_in(folder, name)?;
    let mut bytes = vec![0; most.min(SMALL + 1)];
    let mut length = 0;
    loop {
        if length == bytes.len() {
            if length >= most {
                break;
            }
            bytes.resize((length * 2).min(most), 0);
        }
        let room = bytes.get_mut(length..).unwrap_or_default();
        match retry_on_intr(|| rustix::io::read(&file, &mut *room))? {
            0 => break,
            got => length += got,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// `pid (name) state ppid …`; the name may hold anything, so the last parenthesis counts. The 22nd word is when
/// it started.
fn stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let parent = words.nth(1)?.parse().ok()?;
    let started = words.nth(17)?.parse().ok()?;
    Some(Stat { parent, started })
}

/// Arguments as they stand in memory, each ended by a NUL.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let cut = bytes.len() > COMMAND_LINE;
    let bytes = bytes.get(..COMMAND_LINE).unwrap_or(bytes);
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut all = bytes.split(|byte| *byte == 0);
    let mut found: Vec<String> = all.by_ref().take(MAX_ARGUMENTS).map(text).collect();
    let more = all.count();
    if more > 0 {
        let least = if cut { "at least " } else { "" };
        found.push(format!("… {least}{more} more arguments"));
    } else if cut && let Some(last) = found.last_mut() {
        last.push('…');
    }
    found
}

/// Bytes as text: what is no UTF-8 as `\x` and two digits a byte.
pub(super) fn text(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_move_the_fields() {
        let line = b"7 (a) S 1 (b) S 4 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9";
        let expected = Stat {
            parent: 4,
            started: 12345,
        };
        assert_eq!(stat(line), Some(expected));
        assert_eq!(stat(b"7 (a"), None);
    }

    #[test]
    fn command_lines_are_cut_in_bytes_and_in_number_and_keep_odd_bytes() {
        assert_eq!(arguments(b""), Vec::<String>::new());
        assert_eq!(arguments(b"a\0\0b\xff\xc3\xa9\0"), ["a", "", "b\\xffé"]);
        let many = b"x\0".repeat(100);
        let read = arguments(&many);
        assert_eq!(read.len(), MAX_ARGUMENTS + 1);
        assert_eq!(read[MAX_ARGUMENTS], "… 36 more arguments");
        let long = vec![b'y'; COMMAND_LINE + 1];
        assert_eq!(arguments(&long), ["y".repeat(COMMAND_LINE) + "…"]);
    }

    #[test]
    fn a_folder_that_is_held_open_never_shows_the_next_process_with_its_number() {
        #[expect(clippy::disallowed_methods, reason = "a child of the test's own")]
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let held = Folder::of(child.id()).unwrap();
        assert_eq!(held.stat().unwrap().parent, std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        // Whoever has its number now: none of these is about them.
        let gone = |error: io::Error| error.raw_os_error() == Some(Errno::SRCH.raw_os_error());
        assert!(held.stat().is_err_and(gone));
        assert!(held.command_line().is_err_and(gone));
        assert!(held.numbers().is_err_and(gone));
        let socket = Socket::new(1, None);
        assert!(held.has(None, &socket, &mut 10).is_err());
        assert!(!held.has_at(0, "x"));
    }

    #[test]
    fn a_socket_is_found_by_its_link_and_by_what_is_told_of_it_and_no_further_than_allowed() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = u32::try_from(socket.as_raw_fd()).unwrap();
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let mount = mount_of_sockets(socket.as_fd());
        let wanted = Socket::new(inode, mount);
        let own = Folder::of(std::process::id()).unwrap();
        assert_eq!(own.has(None, &wanted, &mut 10_000).unwrap(), Some(number));
        assert!(own.has_at(number, wanted.name()));
        assert_eq!(own.has(None, &wanted, &mut 0).unwrap(), None);
        let told = openat(&own.open, "fdinfo", OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(is_told_at(told.as_fd(), &number.to_string(), &wanted));
        let elsewhere = Socket::new(inode, mount.map(|mount| mount + 1));
        assert!(!is_told_at(told.as_fd(), &number.to_string(), &elsewhere));
    }
}
