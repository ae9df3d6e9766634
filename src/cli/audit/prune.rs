//! `portcullis audit prune`: removes and packs logs by the rules of retention, a line a step.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::places::{Places, prune_failure};
use super::{FolderArg, finish, no_sessions, phrase};
use crate::audit::bodies;
use crate::audit::ledger::FOLDER;
use crate::audit::notary;
use crate::audit::retention::files::{Gone, prune_output};
use crate::audit::retention::ledger::pack_closed;
use crate::audit::retention::pack::Packed;
use crate::audit::retention::rules::{Keep, amount, time};
use crate::audit::retention::{Prune, Retention, Step, Why};
use crate::audit::segment::SegmentName;
use crate::audit::settings::Settings;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print::{self, escape, line};
use crate::exit::Exit;
use crate::session::caller::Caller;
use crate::session::socket;
use crate::session::terminal::log;

/// What to remove.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove segments of logs that were last written longer ago, as `90d` or `12h` [default: retention.logs.age]
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Remove the oldest segments until all together are no more than this, as `20G` [default: retention.logs.size]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Pack closed segments that were last written longer ago, or `never` [default: retention.pack_after, else 24h]
    #[arg(long, value_name = "TIME|never")]
    pack_after: Option<String>,
    /// Print one JSON object a step, and one that sums them up
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArg,
}

impl PruneArgs {
    /// What the service keeps, by the rules of the host.
    pub(super) fn of_the_host() -> Self {
        Self {
            dry_run: false,
            older_than: None,
            max_size: None,
            pack_after: None,
            json: false,
            folder: FolderArg {
                path: Some(notary::LOGS.into()),
            },
        }
    }
}

/// A step, for programs.
#[derive(Debug, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Said {
    Removed {
        file: PathBuf,
        bytes: u64,
        why: Why,
    },
    Kept {
        log: PathBuf,
        segments: u64,
        broken: String,
    },
    Bodies {
        folder: PathBuf,
        #[serde(flatten)]
        gone: Counts,
    },
    Output {
        #[serde(flatten)]
        gone: Counts,
    },
    Packed {
        file: PathBuf,
        bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        packed: Option<u64>,
    },
    NotPacked {
        file: PathBuf,
        error: String,
    },
    Summary(Sum),
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Counts {
    count: u64,
    bytes: u64,
}

/// What it came to.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Sum {
    dry_run: bool,
    /// Segments that were removed, and their bytes.
    removed: u64,
    removed_bytes: u64,
    /// Segments that were packed, and the bytes that this saved.
    packed: u64,
    saved_bytes: u64,
    /// Logs that are broken and stay.
    broken: u64,
    /// Segments that could not be packed.
    failed: u64,
    /// Files beside the logs.
    files: u64,
    files_bytes: u64,
}

/// Does it.
pub(super) fn prune(arguments: &PruneArgs) -> Outcome {
    let path = arguments.folder.path()?;
    let retention = rules(arguments, &path)?;
    let Some(places) = Places::hold(&arguments.folder)? else {
        return no_sessions(&path);
    };
    let contents = places.contents()?;
    let ledger = match &contents {
        Some(_) if !arguments.dry_run => Some(places.ledger()?),
        _ => None,
    };
    let mut told = Told {
        json: arguments.json,
        sum: Sum {
            dry_run: arguments.dry_run,
            ..Sum::default()
        },
    };
    let mut held = std::collections::BTreeSet::new();
    let mut failure = None;
    for (uid, folder) in &places.folders {
        let prune = Prune {
            folder,
            contents: contents.as_ref(),
            ledger: ledger.as_ref(),
            uid: *uid,
            retention,
            dry_run: arguments.dry_run,
        };
        held.extend(prune.held().map_err(|error| prune_failure(&error))?);
        let run = prune.run(&mut |step| told.step(folder.path(), step));
        // One user's folder is in nobody else's way.
        if let Err(error) = run
            && let Some(before) = failure.replace(prune_failure(&error))
        {
            print::error(before.message);
        }
    }
    if let (Some(_), Some(after)) = (&contents, retention.pack_after) {
        let folder = path.join(FOLDER);
        let packed = pack_closed(&folder, ledger.as_ref(), after, &mut |closed| {
            let file = folder.join(closed.segment.file_name());
            match closed.packed {
                None => told.packed(file, closed.bytes, None),
                Some(Ok(packed)) => told.packed(file, closed.bytes, Some(packed)),
                Some(Err(error)) => told.not_packed(file, &error),
            }
        });
        if let Err(error) = packed {
            let error = Failure::new(Exit::Unavailable, escape(&error.to_string()));
            if let Some(before) = failure.replace(error) {
                print::error(before.message);
            }
        }
    }
    // What the service's sessions print is kept by their users.
    if path != Path::new(notary::LOGS) && arguments.folder.path.is_none() {
        told.output(retention.output, held, arguments.dry_run)?;
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let sum = told.sum;
    told.say(&Said::Summary(sum), || sum.words());
    if sum.broken > 0 || sum.failed > 0 {
        return Ok(Exit::No);
    }
    finish(Ok(()))
}

/// The rules of the file for these logs, and the flags over them.
fn rules(arguments: &PruneArgs, path: &Path) -> Result<Retention, Failure> {
    let settings = if path == Path::new(notary::LOGS) {
        Settings::of_the_host()
    } else {
        Settings::own(std::env::var_os)
    };
    let settings = settings.map_err(|error| Failure::new(Exit::Config, error))?;
    let mut retention = settings.retention;
    let usage = |why: String| Failure::new(Exit::Usage, escape(&why));
    if let Some(text) = &arguments.older_than {
        retention.logs.age = Some(time("--older-than", text).map_err(usage)?);
    }
    if let Some(text) = &arguments.max_size {
        retention.logs.size = Some(amount("--max-size", text).map_err(usage)?);
    }
    match arguments.pack_after.as_deref() {
        None => {}
        Some("never") => retention.pack_after = None,
        Some(text) => retention.pack_after = Some(time("--pack-after", text).map_err(usage)?),
    }
    Ok(retention)
}

struct Told {
    json: bool,
    sum: Sum,
}

impl Told {
    fn step(&mut self, folder: &Path, step: Step) {
        let file = |name: SegmentName| folder.join(name.file_name());
        let shown = |path: &Path| escape(&path.to_string_lossy());
        match step {
            Step::Removed(removal) => {
                let (bytes, why) = (removal.stored.bytes, removal.why);
                self.sum.removed += 1;
                self.sum.removed_bytes += bytes;
                let file = file(removal.stored.name);
                let text = format!("{}, {}, by {why}", shown(&file), phrase::bytes(bytes));
                let done = self.sum.word("removed", "remove ");
                self.say(&Said::Removed { file, bytes, why }, || {
                    format!("{done}   {text}")
                });
            }
            Step::Broken(session, segments, broken) => {
                self.sum.broken += 1;
                let log = file(SegmentName::first(session));
                let text = format!(
                    "BROKEN    {session}  {}; it is evidence, and {segments} of its segments stay",
                    escape(&broken)
                );
                let said = Said::Kept {
                    log,
                    segments,
                    broken,
                };
                self.say(&said, || text);
            }
            Step::Bodies(gone) => {
                let folder = folder.join(bodies::FOLDER);
                let text = format!("{} in {}", self.count(gone), shown(&folder));
                let done = self.sum.word("removed", "remove ");
                let gone = counts(gone);
                self.say(&Said::Bodies { folder, gone }, || {
                    format!("{done}   {text}")
                });
            }
            Step::Packed(stored, packed) => self.packed(file(stored.name), stored.bytes, packed),
            Step::NotPacked(stored, error) => self.not_packed(file(stored.name), &error),
        }
    }

    fn packed(&mut self, file: PathBuf, bytes: u64, packed: Option<Packed>) {
        self.sum.packed += 1;
        let to = packed.map(|packed| packed.after);
        let saved = to.map_or(0, |after| bytes.saturating_sub(after));
        self.sum.saved_bytes += saved;
        let shown = escape(&file.to_string_lossy());
        let text = format!("{shown}, {}", phrase::bytes(bytes));
        let to_text = to.map_or_else(String::new, |to| format!(" to {}", phrase::bytes(to)));
        let done = self.sum.word("packed ", "pack   ");
        let said = Said::Packed {
            file,
            bytes,
            packed: to,
        };
        self.say(&said, || format!("{done}   {text}{to_text}"));
    }

    fn not_packed(&mut self, file: PathBuf, error: &std::io::Error) {
        self.sum.failed += 1;
        let (shown, error) = (escape(&file.to_string_lossy()), error.to_string());
        let text = format!("FAILED    {shown}: {}; it stays as it is", escape(&error));
        self.say(&Said::NotPacked { file, error }, || text);
    }

    /// What detached sessions printed that are over.
    fn output(
        &mut self,
        keep: Keep,
        mut stays: std::collections::BTreeSet<crate::ids::SessionId>,
        dry_run: bool,
    ) -> Result<(), Failure> {
        if keep == Keep::default() {
            return Ok(());
        }
        let caller = Caller::current();
        stays.extend(socket::sessions(&caller));
        let folder = log::folder(&caller);
        let gone = prune_output(&folder, keep, &stays, dry_run).map_err(|error| {
            let folder = escape(&folder.to_string_lossy());
            Failure::new(
                Exit::Unavailable,
                format!("{folder}: {error}; check the folder"),
            )
        })?;
        if gone.count > 0 {
            let text = format!(
                "{} in {}",
                self.count(gone),
                escape(&folder.to_string_lossy())
            );
            let done = self.sum.word("removed", "remove ");
            let said = Said::Output { gone: counts(gone) };
            self.say(&said, || format!("{done}   {text}"));
        }
        Ok(())
    }

    fn count(&mut self, gone: Gone) -> String {
        self.sum.files += gone.count;
        self.sum.files_bytes += gone.bytes;
        let files = if gone.count == 1 { "file" } else { "files" };
        format!("{} {files}, {}", gone.count, phrase::bytes(gone.bytes))
    }

    /// A closed pipe stops nothing: what was begun is done.
    fn say(&self, said: &Said, words: impl FnOnce() -> String) {
        let text = if self.json {
            serde_json::to_string(said).unwrap_or_default()
        } else {
            words()
        };
        line(text).ok();
    }
}

fn counts(gone: Gone) -> Counts {
    Counts {
        count: gone.count,
        bytes: gone.bytes,
    }
}

impl Sum {
    fn word(&self, done: &'static str, would: &'static str) -> &'static str {
        if self.dry_run { would } else { done }
    }

    fn words(&self) -> String {
        let would = if self.dry_run { "would be " } else { "" };
        let mut parts = Vec::new();
        if self.removed > 0 {
            let bytes = phrase::bytes(self.removed_bytes);
            let s = if self.removed == 1 { "" } else { "s" };
            parts.push(format!(
                "{} segment{s} ({bytes}) {would}removed",
                self.removed
            ));
        }
        if self.files > 0 {
            let bytes = phrase::bytes(self.files_bytes);
            parts.push(format!(
                "{} files beside them ({bytes}) {would}removed",
                self.files
            ));
        }
        if self.packed > 0 && self.dry_run {
            parts.push(format!("{} would be packed", self.packed));
        } else if self.packed > 0 {
            let bytes = phrase::bytes(self.saved_bytes);
            parts.push(format!("{} packed, which saved {bytes}", self.packed));
        }
        if self.broken > 0 {
            parts.push(format!(
                "{} broken logs stay: see portcullis audit verify",
                self.broken
            ));
        }
        if self.failed > 0 {
            parts.push(format!("{} could not be packed", self.failed));
        }
        if parts.is_empty() {
            return "nothing to do: no segment is older or more than the rules keep".to_owned();
        }
        parts.join(", ")
    }
}
