//! Plays systemd's part for a service that has descriptors kept: takes them over a notification socket
//! (sd_notify(3)), and passes them to the next process of the service (sd_listen_fds(3)).

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Said by [`FdStore`] to itself.
const SETTLE: &str = "X_SETTLE=1";

/// What is kept, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct FdStore {
    kept: Arc<Mutex<Vec<(String, OwnedFd)>>>,
    ready: Arc<Mutex<usize>>,
    /// How often [`FdStore::settle`] was heard.
    settled: Arc<Mutex<usize>>,
    path: PathBuf,
}

impl FdStore {
    /// Listens on this path.
    pub(crate) fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let store = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let shared = store.clone();
        std::thread::spawn(move || {
            while let Some((text, fds)) = receive(&socket) {
                shared.take(&text, fds);
            }
        });
        store
    }

    fn take(&self, text: &str, fds: Vec<OwnedFd>) {
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        let name = name.unwrap_or("stored").to_owned();
        let has = |wanted: &str| text.lines().any(|line| line == wanted);
        let mut kept = self.kept.lock().unwrap();
        if has("FDSTOREREMOVE=1") {
            kept.retain(|(known, _)| *known != name);
        } else if has("FDSTORE=1") {
            kept.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
        }
        if has(SETTLE) {
            *self.settled.lock().unwrap() += 1;
        }
        if has("READY=1") {
            *self.ready.lock().unwrap() += 1;
        }
    }

    /// How often the service has said that it is ready.
    pub(crate) fn ready(&self) -> usize {
        *self.ready.lock().unwrap()
    }

    /// Waits until everything that was said before is heard: systemd reads what a service has said before it
    /// notices that it ended.
    fn settle(&self) {
        let before = *self.settled.lock().unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(SETTLE.as_bytes(), &self.path).unwrap();
        while *self.settled.lock().unwrap() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Copies of what is kept.
    pub(crate) fn kept(&self) -> Vec<(String, OwnedFd)> {
        self.settle();
        let kept = self.kept.lock().unwrap();
        kept.iter()
            .map(|(name, fd)| (name.clone(), fd.try_clone().unwrap()))
            .collect()
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    );
    let got = got.ok()?.bytes;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Some((String::from_utf8_lossy(&bytes[..got]).into_owned(), fds))
}
