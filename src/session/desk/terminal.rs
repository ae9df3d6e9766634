//! The session's own terminal, at the desk: who is attached, on record.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;

use super::super::companions::AuditWriter;
use super::super::socket::PeerId;
use super::super::terminal::Left;
use super::super::watch::Notice;
use super::{Desk, Tell};
use crate::audit::AuditEvent;
use crate::wire::session::{SessionReply, Size};

impl Desk {
    /// Whether the session has a terminal of its own instead of the caller's standard streams.
    pub fn is_detached(&self) -> bool {
        self.terminal.is_some()
    }

    /// Leaves the terminal to the command, which runs.
    pub fn step_back(&self) -> io::Result<()> {
        if self.is_detached() {
            super::super::terminal::Terminal::step_back()
        } else {
            Ok(())
        }
    }

    /// What else to wait for.
    pub fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let terminal = self.terminal.as_ref();
        terminal.map_or_else(Vec::new, super::super::terminal::Terminal::polled)
    }

    /// Moves what the command prints and what people type.
    pub(super) fn pump(&mut self, audit: Option<&mut AuditWriter>, tell: Tell<'_>) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        let (left, logged) = terminal.attend();
        if let Err(error) = logged {
            tell(Notice::Problem(format!(
                "the session's log ends here: {error}"
            )));
        }
        record_left(left, audit);
    }

    /// Somebody wants to look. Without a record nobody does.
    pub(super) fn attach(
        &mut self,
        peer: PeerId,
        (size, read_only): (Size, bool),
        audit: Option<&mut AuditWriter>,
    ) {
        let by = self.socket.as_ref().map(|socket| socket.name(peer));
        let by = by.unwrap_or_default();
        let Some(terminal) = &mut self.terminal else {
            let failed = "it has no terminal of its own: it was not started with -d";
            self.reply(peer, &SessionReply::Failed(failed.to_owned()));
            return;
        };
        let event = AuditEvent::SessionAttached {
            by: by.clone(),
            read_only,
        };
        if audit.is_none_or(|audit| audit.append(event).is_err()) {
            let failed = "it cannot be recorded that you attach: the audit writer died";
            self.reply(peer, &SessionReply::Failed(failed.to_owned()));
            return;
        }
        match terminal.attach((peer, by), size, read_only) {
            Ok(stream) => {
                if let Some(socket) = &mut self.socket {
                    socket.tell_with(peer, &SessionReply::Attached, &[stream.as_fd()]);
                }
            }
            Err(error) => self.reply(peer, &SessionReply::Failed(error.to_string())),
        }
    }

    pub(super) fn resize(&mut self, peer: PeerId, size: Size) {
        let terminal = self.terminal.as_mut();
        let reply = if terminal.is_some_and(|terminal| terminal.resize(peer, size)) {
            SessionReply::Done(format!("{} by {}", size.columns, size.rows))
        } else {
            SessionReply::Failed("you are not attached".to_owned())
        };
        self.reply(peer, &reply);
    }

    /// What was printed on the terminal before the command could be executed.
    pub fn last_words(&mut self) -> Vec<String> {
        let terminal = self.terminal.as_mut();
        terminal.map_or_else(Vec::new, super::super::terminal::Terminal::last_words)
    }

    /// The command has ended: viewers get the rest, and its status.
    pub fn hang_up(&mut self, status: u8, mut audit: Option<&mut AuditWriter>) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        for (peer, left) in terminal.finish() {
            self.reply(peer, &SessionReply::Ended(status));
            record_left(vec![left], audit.as_deref_mut());
        }
    }
}

/// A record that cannot be kept does not keep anybody.
fn record_left(left: Vec<Left>, mut audit: Option<&mut AuditWriter>) {
    for Left { by, read_only } in left {
        if let Some(audit) = audit.as_deref_mut() {
            drop(audit.append(AuditEvent::SessionDetached { by, read_only }));
        }
    }
}
