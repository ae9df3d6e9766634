//! `portcullis audit show SESSION:SEQ --body`: a body that is kept beside the log.

use std::io::{self, IsTerminal};

use super::finish;
use super::logs::Logs;
use crate::audit::{AuditEvent, bodies};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{self, escape};
use crate::exit::Exit;
use crate::ids::SessionId;

/// Prints the body of one record, of those that hold: as it is, or escaped where a terminal might obey it.
pub(super) fn show(folder: &Logs, (session, seq): (SessionId, u64), records: u64) -> Outcome {
    let mut found = None;
    folder.each_record(session, records, |record, _| {
        if record.seq == seq {
            found = Some(record.event);
        }
        found.is_none()
    })?;
    let Some(AuditEvent::BodyKept(body)) = found else {
        let text = format!(
            "record {seq} of session {session} keeps no body; name one that is a body.kept"
        );
        return Err(Failure::new(Exit::Usage, text));
    };
    let content = folder.read_body(session, &body.sha256).map_err(|error| {
        let place = folder.log(session).with_file_name(bodies::FOLDER);
        let place = place.join(&body.sha256);
        let place = escape(&place.to_string_lossy());
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => Exit::NoPermission,
            _ => Exit::No,
        };
        Failure::new(exit, format!("body {place}: {error}"))
    })?;
    if !io::stdout().is_terminal() {
        return finish(print::bytes(&content));
    }
    let text = String::from_utf8_lossy(&content).into_owned();
    finish(text.lines().map(escape).try_for_each(print::line))
}
