//! Writing what was read from logs, by a thread of its own and in one transaction, while more is read.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, scope};

use rusqlite::Connection;

use super::build::{Segment, Segments};
use super::chunk::Chunk;
use super::{Stamp, Trouble, codec};
use crate::audit::facts::{Link, Place};
use crate::audit::segment::SegmentName;
use crate::ids::SessionId;

/// How far logs have been read, to go on there the next time.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) segments: Vec<Segment>,
    /// What the next records of a session may go back to.
    pub(super) links: Vec<(SessionId, Vec<(Link, Place)>)>,
}

/// What is written.
enum Piece {
    Rows(Chunk),
    /// The last one.
    Read(Read),
}

/// The way to the thread that writes. It holds nothing: whoever reads waits while a chunk before is written,
/// so that two of them exist at most.
pub(super) struct Chunks(SyncSender<Piece>);

impl Chunks {
    /// Passes rows on. An error: the thread has ended, and says itself why.
    pub(super) fn pass(&self, chunk: Chunk) -> Result<(), Trouble> {
        self.0.send(Piece::Rows(chunk)).map_err(|_| stopped())
    }
}

fn stopped() -> Trouble {
    Trouble::Io(std::io::Error::other("writing stopped"))
}

/// Calls `read`, which passes rows on, and writes them meanwhile. Nothing is kept where either fails.
/// `moved`: segments that went away or came back.
pub(super) fn written(
    db: &mut Connection,
    moved: Vec<(u64, bool)>,
    read: impl FnOnce(&Chunks) -> Result<Read, Trouble>,
) -> Result<(), Trouble> {
    scope(|scope| {
        let (send, receive) = sync_channel(0);
        let chunks = Chunks(send);
        let thread = Builder::new().name("index".to_owned());
        let writer = thread.spawn_scoped(scope, move || write(db, &moved, &receive))?;
        let read = read(&chunks).and_then(|read| {
            let last = chunks.0.send(Piece::Read(read));
            last.map_err(|_| stopped())
        });
        drop(chunks);
        let wrote = writer.join().unwrap_or_else(|_| Err(stopped()));
        // Where writing failed, reading did because of it.
        wrote.and_then(|whole| if whole { Ok(()) } else { read })
    })
}

/// Writes all pieces. `false`: the last one did not come, and nothing was written.
fn write(
    db: &mut Connection,
    moved: &[(u64, bool)],
    pieces: &Receiver<Piece>,
) -> Result<bool, Trouble> {
    let transaction = db.transaction()?;
    for (id, gone) in moved {
        transaction.execute("UPDATE segment SET gone = ? WHERE id = ?", (gone, id))?;
    }
    for piece in pieces {
        match piece {
            Piece::Rows(chunk) => chunk.write(&transaction)?,
            Piece::Read(read) => {
                for segment in &read.segments {
                    put_segment(&transaction, segment)?;
                }
                for (session, open) in &read.links {
                    put_links(&transaction, *session, open)?;
                }
                transaction.commit()?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn put_segment(db: &Connection, segment: &Segment) -> Result<(), Trouble> {
    let Segment { stamp, name, .. } = segment;
    let stamp = format!(
        "{} {} {} {}",
        stamp.device, stamp.inode, stamp.size, stamp.written
    );
    let insert = "INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    db.prepare_cached(insert)?.execute((
        segment.id,
        name.session.to_string(),
        name.number,
        name.packed,
        stamp,
        segment.bytes,
        segment.seq,
        segment.last,
        &segment.head,
        &segment.broken,
        segment.ended,
        segment.gone,
    ))?;
    Ok(())
}

/// Remembers what later records may go back to.
fn put_links(db: &Connection, session: SessionId, open: &[(Link, Place)]) -> Result<(), Trouble> {
    let session = session.to_string();
    if open.is_empty() {
        let delete = "DELETE FROM links WHERE session = ?";
        db.prepare_cached(delete)?.execute([session])?;
        return Ok(());
    }
    let mut kept = Vec::new();
    for (link, place) in open {
        let (kind, number) = match link {
            Link::Conn(number) => (0, *number),
            Link::Question(number) => (1, *number),
        };
        let parts = [kind, number, u64::from(place.segment), place.offset];
        for part in parts {
            codec::put(&mut kept, part);
        }
    }
    let insert = "INSERT OR REPLACE INTO links VALUES (?, ?)";
    db.prepare_cached(insert)?.execute((session, kept))?;
    Ok(())
}

/// What the next records of sessions may go back to, as far as something of them was read before.
pub(super) fn links(
    db: &Connection,
    changed: &[(SegmentName, Stamp)],
    known: &Segments,
) -> Result<HashMap<SessionId, Vec<(Link, Place)>>, Trouble> {
    let mut all = HashMap::new();
    let mut query = db.prepare_cached("SELECT open FROM links WHERE session = ?")?;
    for (name, _) in changed {
        let session = name.session;
        let mut of_session = known.range((session, 0)..=(session, u32::MAX));
        if of_session.next().is_none() || all.contains_key(&session) {
            continue;
        }
        let mut rows = query.query([session.to_string()])?;
        if let Some(row) = rows.next()? {
            let kept: Vec<u8> = row.get(0)?;
            all.insert(session, links_of(&kept)?);
        }
    }
    Ok(all)
}

fn links_of(kept: &[u8]) -> Result<Vec<(Link, Place)>, Trouble> {
    let damaged = || Trouble::disagrees("its list of connections is damaged");
    let mut rest = kept;
    let mut links = Vec::new();
    while !rest.is_empty() {
        let mut next = || codec::take(&mut rest).ok_or_else(damaged);
        let (kind, number) = (next()?, next()?);
        let link = match kind {
            0 => Link::Conn(number),
            _ => Link::Question(number),
        };
        let segment = u32::try_from(next()?).map_err(|_| damaged())?;
        let offset = next()?;
        links.push((link, Place { segment, offset }));
    }
    Ok(links)
}
