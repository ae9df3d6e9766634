//! systemd's journal, by its native protocol (systemd, "Native Journal Protocol"): a datagram an entry; one that is
//! too large for a datagram goes as a sealed memfd.

use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::super::source::Item;
use super::SinkError;

/// How long the journal may take to make room for one entry.
const SEND: Duration = Duration::from_secs(5);

/// The journal.
pub(in super::super) struct Journald {
    path: PathBuf,
}

impl Journald {
    pub(super) fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path }
    }

    pub(super) fn send(&self, items: &[Item]) -> Result<(), SinkError> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND))?;
        socket.connect(&self.path)?;
        for item in items {
            let entry = entry(item);
            match socket.send(&entry) {
                Ok(_) => {}
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) =>
                {
                    send_large(&socket, &entry)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn send_large(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("portcullis", flags)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(entry)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    let fds = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&[])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// `NAME=value` a line; a value with a newline after its length.
fn entry(item: &Item) -> Vec<u8> {
    let seen = &item.seen;
    let priority = if seen.reason().is_some() { "5" } else { "6" };
    let number = |name| seen.number(name).map(|number| number.to_string());
    let (seq, conn, port) = (seen.seq.to_string(), number("conn"), number("port"));
    let reason = seen.reason();
    let fields = [
        ("MESSAGE", Some(item.text.as_str())),
        ("PRIORITY", Some(priority)),
        ("SYSLOG_IDENTIFIER", Some("portcullis")),
        ("SYSLOG_FACILITY", Some("13")),
        ("PORTCULLIS_SESSION", Some(seen.session.as_str())),
        ("PORTCULLIS_SEQ", Some(seq.as_str())),
        ("PORTCULLIS_HASH", Some(seen.hash.as_str())),
        ("PORTCULLIS_USER", Some(seen.user.as_str())),
        ("PORTCULLIS_HOST_ID", Some(seen.host_id.as_str())),
        ("PORTCULLIS_EVENT", Some(seen.event.as_str())),
        ("PORTCULLIS_CONN", conn.as_deref()),
        ("PORTCULLIS_VERDICT", seen.text("verdict")),
        ("PORTCULLIS_REASON", reason.as_deref()),
        ("PORTCULLIS_RULE", seen.text("rule")),
        ("PORTCULLIS_HOST", seen.text("host")),
        ("PORTCULLIS_PORT", port.as_deref()),
    ];
    let mut entry = Vec::new();
    for (name, value) in fields {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            continue;
        };
        entry.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{IoSliceMut, Read, Seek};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    #[test]
    fn what_fits_no_datagram_goes_as_a_sealed_file() {
        let (ours, journals) = UnixDatagram::pair().unwrap();
        let large = vec![b'x'; 1 << 20];
        assert!(ours.send(&large).is_err());
        send_large(&ours, &large).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 8];
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&journals, &mut into, &mut ancillary, RecvFlags::empty()).unwrap();
        assert_eq!(got.bytes, 0);
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let mut file = std::fs::File::from(fd.unwrap());
        assert!(file.write_all(b"more").is_err(), "it is sealed");
        file.rewind().unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, large);
    }
}
