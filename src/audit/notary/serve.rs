//! Step 6: one thread, one loop. Wait for changes, read what is new, bind what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::follow::Followed;
use super::tell;
use crate::audit::folder::{LogFolder, session_of, users};
use crate::audit::ledger::read::{Bound, LogName};
use crate::audit::ledger::{INTERVAL, Ledger, LedgerEvent, RECORDS};
use crate::exit::Exit;

/// How long the ledger's lock is waited for: whoever rotates the key has it for a moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// Changes that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);

/// What there is to work with.
pub(super) struct Opened {
    pub(super) logs: PathBuf,
    pub(super) signals: SignalFd,
    pub(super) watch: Watch,
    pub(super) ledger: Ledger,
    pub(super) bound: HashMap<LogName, Bound>,
}

/// What changes in the folders.
pub(super) struct Watch {
    changes: Inotify,
    top: WatchDescriptor,
    users: BTreeMap<u32, WatchDescriptor>,
    /// Logs that have changed; `None`: everything may have.
    changed: Option<BTreeSet<LogName>>,
}

/// Serves until a signal asks to end.
pub(super) fn serve(opened: Opened) -> Exit {
    let mut notary = Notary {
        logs: opened.logs,
        ledger: opened.ledger,
        bound: opened.bound,
        followed: BTreeMap::new(),
        alarms: Vec::new(),
        failed: None,
        since: None,
        told: false,
    };
    let (signals, mut watch) = (opened.signals, opened.watch);
    loop {
        let changed = watch.take(&notary.logs);
        notary.look(changed);
        notary.bind_if_due();
        match wait(&signals, &watch, notary.patience()) {
            Ok(Woken::Ending) => {
                notary.look(watch.take(&notary.logs));
                notary.bind();
                return Exit::Success;
            }
            Ok(Woken::Changes | Woken::Time) => {}
            Err(error) => {
                tell(format_args!("wait: {error}"));
                return Exit::Internal;
            }
        }
    }
}

enum Woken {
    Ending,
    Changes,
    Time,
}

fn wait(signals: &SignalFd, watch: &Watch, patience: Option<Duration>) -> io::Result<Woken> {
    let mut fds = [
        PollFd::new(signals, PollFlags::IN),
        PollFd::from_borrowed_fd(watch.changes.as_fd(), PollFlags::IN),
    ];
    let timeout = patience
        .map(Timespec::try_from)
        .transpose()
        .map_err(io::Error::other)?;
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let [ending, changes] = fds.map(|fd| !fd.revents().is_empty());
    if ending || !changes {
        return Ok(if ending { Woken::Ending } else { Woken::Time });
    }
    // More comes: a write(2) a batch of records.
    let gather = Timespec::try_from(GATHER).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&gather)) {
        Ok(_) | Err(Errno::INTR) => Ok(Woken::Changes),
        Err(errno) => Err(errno.into()),
    }
}

// === impl Watch ===

const ENTRIES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    // The daemon makes a folder, then gives it away and shows it to us.
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_ONLYDIR);

impl Watch {
    /// Watches the folder of logs.
    pub(super) fn new(logs: &Path) -> io::Result<Self> {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let top = changes.add_watch(logs, ENTRIES)?;
        Ok(Self {
            changes,
            top,
            users: BTreeMap::new(),
            changed: None,
        })
    }

    /// What has changed since; `None`: everything may have.
    fn take(&mut self, logs: &Path) -> Option<BTreeSet<LogName>> {
        loop {
            match self.changes.read_events() {
                Ok(events) => events
                    .iter()
                    .for_each(|event| self.event(event.wd, event.mask, event.name.as_deref())),
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        let changed = self.changed.replace(BTreeSet::new());
        if changed.is_none() {
            self.watch_users(logs);
        }
        changed
    }

    fn event(&mut self, watch: WatchDescriptor, mask: AddWatchFlags, name: Option<&OsStr>) {
        let session = name.and_then(OsStr::to_str).and_then(session_of);
        let user = self
            .users
            .iter()
            .find(|(_, descriptor)| **descriptor == watch);
        match (user, session, &mut self.changed) {
            (Some((uid, _)), Some(session), Some(changed)) => {
                changed.insert((Some(*uid), session));
            }
            // Another user, or more than the kernel could tell.
            _ if watch == self.top || mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => {
                self.changed = None;
            }
            _ => {}
        }
    }

    /// Watches the folders of all users; before they are looked at.
    fn watch_users(&mut self, logs: &Path) {
        for uid in users(logs) {
            let flags = ENTRIES
                | AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVED_FROM;
            match self.changes.add_watch(&logs.join(uid.to_string()), flags) {
                Ok(watch) => drop(self.users.insert(uid, watch)),
                Err(errno) => tell(format_args!(
                    "folder {uid}: {errno}; its logs are looked at only now and then"
                )),
            }
        }
    }
}

// === Notary ===

struct Notary {
    logs: PathBuf,
    ledger: Ledger,
    /// What the ledger said at the start.
    bound: HashMap<LogName, Bound>,
    /// `None`: it has ended and is bound, or is broken.
    followed: BTreeMap<LogName, Option<Followed>>,
    /// Logs that are broken, which the ledger does not say yet.
    alarms: Vec<LedgerEvent>,
    /// When the ledger could not be written last.
    failed: Option<Instant>,
    /// Since when something is not bound.
    since: Option<Instant>,
    /// That the ledger cannot be written was told.
    told: bool,
}

impl Notary {
    /// Reads what is new in these; `None`: in all there are.
    fn look(&mut self, changed: Option<BTreeSet<LogName>>) {
        let names = changed.unwrap_or_else(|| self.everything());
        let mut folders = BTreeMap::new();
        for name in names {
            let (uid, _) = name;
            let folder = folders.entry(uid).or_insert_with(|| self.folder(uid));
            let Some(folder) = folder else { continue };
            let bound = &self.bound;
            let slot = self
                .followed
                .entry(name)
                .or_insert_with(|| Followed::new(name, bound.get(&name)));
            let Some(log) = slot else { continue };
            let path = folder.path().join(crate::audit::folder::file_name(name.1));
            let read = match log.read(folder) {
                Ok(Some(_)) => {
                    // Pruned, which is on record before it is done; or taken back by its writer.
                    match self.ledger.pruned(name) {
                        Ok(Some(end)) if end.segment >= log.segment() => log.begin_behind(end),
                        _ => log.restart(),
                    }
                    log.read(folder)
                }
                read => read,
            };
            match read {
                Ok(None) => {}
                Ok(Some(found)) => {
                    let (record, flaw) = (found.record, found.flaw.escape_debug());
                    tell(format_args!(
                        "ALARM: audit log {}: record {record}: {flaw}",
                        path.display()
                    ));
                    self.alarms.push(log.broken(&found));
                    *slot = None;
                }
                Err(error) => tell(format_args!("audit log {}: {error}", path.display())),
            }
        }
        let waits = self
            .followed
            .values()
            .flatten()
            .any(|log| log.unbound() > 0);
        let waits = waits || !self.alarms.is_empty();
        self.since = waits.then(|| self.since.unwrap_or_else(Instant::now));
    }

    fn everything(&self) -> BTreeSet<LogName> {
        let mut names = BTreeSet::new();
        for uid in users(&self.logs) {
            if let Some(folder) = self.folder(Some(uid))
                && let Ok(sessions) = folder.sessions()
            {
                names.extend(sessions.into_iter().map(|session| (Some(uid), session)));
            }
        }
        names
    }

    fn folder(&self, uid: Option<u32>) -> Option<LogFolder> {
        let uid = uid?;
        let folder = LogFolder::open(&self.logs.join(uid.to_string()));
        folder
            .inspect_err(|error| tell(format_args!("{error}")))
            .ok()
    }

    /// How long there is until something is due.
    fn patience(&self) -> Option<Duration> {
        let due = self.failed.or(self.since)? + INTERVAL;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn bind_if_due(&mut self) {
        if self
            .failed
            .is_some_and(|failed| failed.elapsed() < INTERVAL)
        {
            return;
        }
        let mut waiting = self
            .followed
            .values()
            .flatten()
            .filter(|log| log.unbound() > 0);
        let late = self.since.is_some_and(|since| since.elapsed() >= INTERVAL);
        if late
            || !self.alarms.is_empty()
            || waiting.any(|log| log.ended() || log.unbound() >= RECORDS)
        {
            self.bind();
        }
    }

    /// Binds whatever is not bound.
    fn bind(&mut self) {
        let mut events = self.alarms.clone();
        let mut names = Vec::new();
        for (name, log) in &self.followed {
            let Some(log) = log.as_ref().filter(|log| log.unbound() > 0) else {
                continue;
            };
            let folder = self.folder(name.0);
            match folder.map(|folder| log.sync(&folder)) {
                Some(Ok(())) => {
                    events.push(log.head());
                    names.push(*name);
                }
                Some(Err(error)) => tell(format_args!("session {}: {error}", name.1)),
                None => {}
            }
        }
        if events.is_empty() {
            self.since = None;
            return;
        }
        match self.ledger.append(&events, PATIENCE) {
            Ok(()) => {
                self.alarms.clear();
                for name in names {
                    let Some(slot) = self.followed.get_mut(&name) else {
                        continue;
                    };
                    if let Some(log) = slot {
                        log.is_bound();
                    }
                    // What comes after its end is found by who verifies it.
                    if slot.as_ref().is_some_and(Followed::ended) {
                        *slot = None;
                    }
                }
                (self.failed, self.since) = (None, None);
                if std::mem::take(&mut self.told) {
                    tell(format_args!(
                        "the ledger can be written again; everything is bound"
                    ));
                }
            }
            Err(error) => {
                self.failed = Some(Instant::now());
                if !std::mem::replace(&mut self.told, true) {
                    tell(format_args!(
                        "ALARM: {error}; sessions go on, and nothing of them is bound"
                    ));
                }
            }
        }
    }
}
