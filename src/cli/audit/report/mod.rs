//! `portcullis audit report`: one session's story as a page to keep: HTML without anything from elsewhere, or
//! Markdown.
//!
//! Owns: what is gathered ([`gather`]), what stands at the top of each page ([`head`]), how time is cut up ([`series`]), the pages ([`html`], [`markdown`]) and
//! their drawings ([`chart`]). Trusts: nothing in a record. All text goes into a page through the page's own
//! escape, and every table has an end.

mod chart;
mod gather;
mod head;
mod html;
mod markdown;
mod series;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::logs::Logs;
use super::{FolderArg, escape, naming};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print;
use crate::exit::Exit;

/// The most rows of a table.
const ROWS: usize = 100;

/// What to report on.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Session id or its beginning
    #[arg(value_name = "SESSION")]
    id: String,
    /// What to write
    #[arg(long, value_enum, default_value = "html")]
    format: Format,
    /// Write to this file, for you alone to read [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    folder: FolderArg,
}

/// A form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A web page
    Html,
    /// Markdown
    Md,
}

/// Gathers and writes.
pub(super) fn report(arguments: &ReportArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let logs = Logs::find(&arguments.folder)?;
    let logs = logs.ok_or_else(|| naming::unknown(&path, &arguments.id))?;
    let session = naming::find(&logs, &arguments.id)?;
    let story = gather::gather(&logs, session)?;
    let page = match arguments.format {
        Format::Html => html::page(&story),
        Format::Md => markdown::page(&story),
    };
    let page = page.map_err(|error| Failure::new(Exit::Internal, error))?;
    let exit = if story.report.broken.is_some() {
        print::error(format_args!(
            "the log of session {session} does not hold: the report says from where on"
        ));
        Exit::No
    } else {
        Exit::Success
    };
    let Some(output) = &arguments.output else {
        // A closed pipe is the reader's choice.
        drop(print::bytes(page.as_bytes()));
        return Ok(exit);
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(output)
        .and_then(|mut file| file.write_all(page.as_bytes()));
    written.map_err(|error| {
        let output = escape(&output.to_string_lossy());
        let why = format!("report {output}: {error}; write it to another place with -o");
        Failure::new(Exit::Unavailable, why)
    })?;
    Ok(exit)
}
