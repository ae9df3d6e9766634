//! The inode of a socket → the process of the jail that holds it.
//!
//! Looked at are the jail's processes alone: the descendants of its process 1 (bubblewrap's), to which every orphan in
//! it falls. First those that were found lately, then all, then the tables of single threads, which a program can
//! have for itself (unshare(2), `CLONE_FILES`). Where several are found the one that started first is named: a
//! socket that was inherited was made by it, or before it. How many looked at is bounded, and so is the time.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::folder::{Folder, Socket, Stat, has_at_now, text};
use crate::audit::process::{MAX_PARENTS, Parent, Process, ProcessUnknown};

/// Processes that are looked at for one connection.
const PROCESSES: usize = 1024;

/// Descriptors that are looked at for one connection.
const DESCRIPTORS: usize = 32 << 10;

/// Descriptors of one process that are: one with a great many does not hide the others.
const EACH: usize = 4 << 10;

/// The longest search.
const TIME: Duration = Duration::from_millis(200);

/// Processes that were found last, each with the descriptor of it that was found last.
const RECENT: usize = 16;

/// Processes whose folders are held open.
const HELD: usize = 64;

/// Descriptors behind the last one at which the next connection of a program is likely.
const NEXT: u32 = 3;

/// The jail's processes.
#[derive(Debug)]
pub(super) struct Jail {
    /// Its process 1.
    first: Folder,
    /// How many namespaces of numbers below ours it is.
    depth: usize,
    /// The mount on which the kernel has its sockets.
    mount: Option<u64>,
    recent: VecDeque<Recent>,
    held: VecDeque<Rc<Folder>>,
}

#[derive(Debug)]
struct Recent {
    process: Rc<Folder>,
    /// Where its last connection was.
    at: u32,
}

/// What is left of a search's bounds.
#[derive(Debug)]
struct Left {
    processes: usize,
    descriptors: usize,
    until: Instant,
    /// Whether some process could not be looked at, or was not, for want of these.
    missed: bool,
}

impl Left {
    fn one_more(&mut self) -> bool {
        let enough = self.processes > 0 && self.descriptors > 0 && Instant::now() < self.until;
        self.processes = self.processes.saturating_sub(1);
        self.missed |= !enough;
        enough
    }

    /// Where a process, or this thread of it, has a socket, as far as there is room to look.
    fn look(
        &mut self,
        process: &Folder,
        thread: Option<u32>,
        socket: &Socket,
    ) -> io::Result<Option<u32>> {
        let room = self.descriptors.min(EACH);
        let mut left = room;
        let found = process.has(thread, socket, &mut left);
        self.descriptors = self.descriptors.saturating_sub(room - left);
        self.missed |= left == 0;
        found
    }
}

impl Jail {
    /// The jail to which this process belongs.
    pub(super) fn of(init: &Folder, mount: Option<u64>) -> io::Result<Self> {
        let first = Folder::of(init.stat()?.parent)?;
        let numbers = first.numbers()?;
        // Read through init's folder again, which fails once init has ended: the number was its parent's.
        if init.stat()?.parent != first.number || numbers.last() != Some(&1) {
            return Err(io::Error::other(
                "the parent of init is not the jail's process 1",
            ));
        }
        Ok(Self {
            first,
            depth: numbers.len().saturating_sub(1),
            mount,
            recent: VecDeque::new(),
            held: VecDeque::new(),
        })
    }

    /// Its process 1, which lives as long as it does.
    pub(super) fn first(&self) -> &Folder {
        &self.first
    }

    /// The process that holds this socket.
    pub(super) fn holder(&mut self, inode: u64) -> Result<Process, ProcessUnknown> {
        let socket = Socket::new(inode, self.mount);
        let mut left = Left {
            processes: PROCESSES,
            descriptors: DESCRIPTORS,
            until: Instant::now() + TIME,
            missed: false,
        };
        let mut holders = self.among_recent(&socket, &mut left);
        if holders.is_empty() {
            holders = self.among_all(&socket, &mut left, Tables::OfProcesses);
        }
        if holders.is_empty() {
            holders = self.among_all(&socket, &mut left, Tables::OfThreads);
        }
        let shared_with = u32::try_from(holders.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let oldest = holders
            .into_iter()
            .min_by_key(|holder| (holder.stat.started, holder.process.number));
        let Some(holder) = oldest else {
            return Err(if left.missed {
                ProcessUnknown::Unreadable
            } else {
                ProcessUnknown::NotFound
            });
        };
        let described = self.describe(&holder, shared_with);
        self.remember(holder);
        // It ended meanwhile.
        described.map_err(|_| ProcessUnknown::Gone)
    }

    /// Those that were found lately, and where one holds it, who shares with it: whom it has from, and whom it
    /// has given to.
    fn among_recent(&mut self, socket: &Socket, left: &mut Left) -> Vec<Holder> {
        let near = |recent: &Recent| {
            let next = recent.at.saturating_add(NEXT);
            let mut places =
                (recent.at..=next).filter(|at| recent.process.has_at(*at, socket.name()));
            places.next()
        };
        let mut found = self
            .recent
            .iter()
            .find_map(|recent| Some((Rc::clone(&recent.process), near(recent)?)));
        if found.is_none() {
            let look = |recent: &Recent, left: &mut Left| {
                let held = left.look(&recent.process, None, socket);
                Some((Rc::clone(&recent.process), held.ok()??))
            };
            found = self.recent.iter().find_map(|recent| look(recent, left));
        }
        let Some((process, at)) = found else {
            // Whoever has ended is not looked at again.
            self.recent.retain(|recent| recent.process.stat().is_ok());
            return Vec::new();
        };
        let Ok(stat) = process.stat() else {
            return Vec::new();
        };
        let ancestors = self.ancestors(&process, stat);
        let mut holders: Vec<Holder> = self
            .relatives(&process, &ancestors, (at, socket))
            .into_iter()
            .map(|(process, stat)| Holder::new(process, at, stat))
            .collect();
        holders.push(Holder {
            ancestors: Some(ancestors),
            ..Holder::new(process, at, stat)
        });
        holders
    }

    /// Whom a process has this socket from, and whom it has left it to: they have it at the same place.
    fn relatives(
        &mut self,
        process: &Folder,
        ancestors: &[(Rc<Folder>, Stat)],
        (at, socket): (u32, &Socket),
    ) -> Vec<(Rc<Folder>, Stat)> {
        let mut relatives = ancestors.to_vec();
        for child in children_of(process).into_iter().take(PROCESSES) {
            // The number alone tells of most that they have not.
            if has_at_now(child, at, socket.name()) {
                relatives.extend(self.open(child));
            }
        }
        relatives.retain(|(relative, _)| relative.has_at(at, socket.name()));
        relatives
    }

    /// All of the jail.
    fn among_all(&mut self, socket: &Socket, left: &mut Left, tables: Tables) -> Vec<Holder> {
        let mut holders = Vec::new();
        let mut waiting: VecDeque<u32> = children_of(&self.first).into();
        while let Some(number) = waiting.pop_front() {
            if !left.one_more() {
                break;
            }
            // Ended meanwhile; who it leaves is a child of process 1 by now, and perhaps not seen.
            let Ok((process, stat)) = self.open(number) else {
                continue;
            };
            let at = match tables {
                Tables::OfProcesses => left.look(&process, None, socket),
                Tables::OfThreads => of_threads(&process, socket, left),
            };
            match at {
                Ok(at) => holders.extend(at.map(|at| Holder::new(Rc::clone(&process), at, stat))),
                Err(error) => left.missed |= !has_ended(&error),
            }
            waiting.extend(children_of(&process));
        }
        holders
    }

    /// Says who a process is.
    fn describe(&mut self, holder: &Holder, shared_with: u32) -> io::Result<Process> {
        let process = &holder.process;
        let mut exe = process.executes()?;
        let mut argv = process.command_line()?;
        let again = process.executes()?;
        if again != exe {
            // It executed something else in between.
            argv = process.command_line()?;
            exe = again;
        }
        let mut parents = Vec::new();
        let ancestors = holder.ancestors.clone();
        let ancestors = ancestors.unwrap_or_else(|| self.ancestors(process, holder.stat));
        for (parent, _) in ancestors {
            parents.push(Parent {
                pid: parent.inside(self.depth).unwrap_or_default(),
                exe: parent
                    .executes()
                    .map(|path| text(&path))
                    .unwrap_or_default(),
            });
        }
        Ok(Process {
            pid: process.inside(self.depth)?,
            host_pid: process.number,
            exe: text(&exe),
            argv,
            parents,
            shared_with,
        })
    }

    /// Its parent and so on, up to the session's command.
    fn ancestors(&mut self, process: &Rc<Folder>, stat: Stat) -> Vec<(Rc<Folder>, Stat)> {
        let mut chain: Vec<(Rc<Folder>, Stat)> = Vec::new();
        let mut below = (Rc::clone(process), stat);
        while chain.len() < MAX_PARENTS && below.1.parent != self.first.number {
            let Ok((parent, stat)) = self.open(below.1.parent) else {
                break;
            };
            // A parent that ends leaves its children to another: as long as it is this number it was this process
            // all the time.
            if below.0.stat().ok().map(|now| now.parent) != Some(parent.number) {
                break;
            }
            below = (Rc::clone(&parent), stat);
            chain.push((parent, stat));
        }
        chain
    }

    /// The process that has this number now.
    fn open(&mut self, number: u32) -> io::Result<(Rc<Folder>, Stat)> {
        if let Some(at) = self.held.iter().position(|held| held.number == number)
            && let Some(held) = self.held.remove(at)
            && let Ok(stat) = held.stat()
        {
            // It lives, so the number is its own.
            self.held.push_back(Rc::clone(&held));
            return Ok((held, stat));
        }
        let process = Rc::new(Folder::of(number)?);
        let stat = process.stat()?;
        if self.held.len() >= HELD {
            self.held.pop_front();
        }
        self.held.push_back(Rc::clone(&process));
        Ok((process, stat))
    }

    fn remember(&mut self, holder: Holder) {
        let number = holder.process.number;
        self.recent.retain(|recent| recent.process.number != number);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Recent {
            process: holder.process,
            at: holder.at,
        });
    }
}

/// One who holds the socket.
#[derive(Debug)]
struct Holder {
    process: Rc<Folder>,
    at: u32,
    stat: Stat,
    /// Its parent and so on, where they are known already.
    ancestors: Option<Vec<(Rc<Folder>, Stat)>>,
}

impl Holder {
    fn new(process: Rc<Folder>, at: u32, stat: Stat) -> Self {
        Self {
            process,
            at,
            stat,
            ancestors: None,
        }
    }
}

/// Where descriptors are looked for.
#[derive(Debug, Clone, Copy)]
enum Tables {
    /// Where all threads of a process have theirs.
    OfProcesses,
    /// Those of each thread.
    OfThreads,
}

fn of_threads(process: &Folder, socket: &Socket, left: &mut Left) -> io::Result<Option<u32>> {
    for thread in process.threads()? {
        if !left.one_more() {
            break;
        }
        if let Ok(Some(at)) = left.look(process, Some(thread), socket) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn children_of(process: &Folder) -> Vec<u32> {
    let threads = process.threads().unwrap_or_default();
    let children = |thread| process.children(thread).unwrap_or_default();
    threads.into_iter().flat_map(children).collect()
}

fn has_ended(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::SRCH, Errno::NOENT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
