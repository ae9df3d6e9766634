//! Where an export goes: standard output, or a file that appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::export::Format;
use crate::cli::audit::tail;
use crate::cli::failure::Failure;
use crate::cli::print::{self, escape};
use crate::exit::Exit;

/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

/// Where an export goes. Dropped without [`Output::keep`], a file is as if it had never been.
pub(super) struct Output {
    writer: Writer,
    file: Option<Unfinished>,
}

/// A file under a temporary name beside the wanted one.
struct Unfinished {
    temporary: PathBuf,
    wanted: PathBuf,
}

/// Writes to it. All clones write to the same place.
#[derive(Clone)]
pub(super) struct Writer(Arc<Mutex<BufWriter<Target>>>);

enum Target {
    File(File),
    Stdout,
    Terminal(Terminal),
}

impl Output {
    /// Opens it, readable by the caller alone.
    pub(super) fn open(path: Option<&Path>, format: Format) -> Result<Self, Failure> {
        let (target, file) = match path {
            Some(path) => {
                let unfinished = Unfinished::beside(path);
                let mut options = OpenOptions::new();
                let opened = options.write(true).create_new(true).mode(0o600);
                let opened = opened.open(&unfinished.temporary);
                let opened = opened.map_err(|error| failure(path, &error))?;
                (Target::File(opened), Some(unfinished))
            }
            None if io::stdout().is_terminal() => {
                let json = format != Format::Csv;
                (Target::Terminal(Terminal::new(json)), None)
            }
            None => (Target::Stdout, None),
        };
        let writer = BufWriter::with_capacity(BUFFER, target);
        Ok(Self {
            writer: Writer(Arc::new(Mutex::new(writer))),
            file,
        })
    }

    /// What a form writes to.
    pub(super) fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Keeps what was written.
    pub(super) fn keep(mut self) -> Result<(), Failure> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let kept = self.writer.sync().and_then(|()| file.keep());
        kept.map_err(|error| {
            drop(fs::remove_file(&file.temporary));
            failure(&file.wanted, &error)
        })
    }

    /// It takes no more.
    pub(super) fn failure(&self, error: &io::Error) -> Failure {
        let wanted = self.file.as_ref().map(|file| file.wanted.as_path());
        failure(wanted.unwrap_or(Path::new("standard output")), error)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            drop(fs::remove_file(&file.temporary));
        }
    }
}

impl Unfinished {
    fn beside(wanted: &Path) -> Self {
        let name = wanted.file_name().unwrap_or_default().to_string_lossy();
        let temporary = format!(".{name}.{}.part", std::process::id());
        Self {
            temporary: wanted.with_file_name(temporary),
            wanted: wanted.to_owned(),
        }
    }

    fn keep(&self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.wanted)
    }
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    let path = escape(&path.to_string_lossy());
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Unavailable,
    };
    let cure = "check its folder and the space there";
    Failure::new(exit, format!("export to {path}: {error}; {cure}"))
}

impl Writer {
    fn with<T>(&self, act: impl FnOnce(&mut BufWriter<Target>) -> io::Result<T>) -> io::Result<T> {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until it is on the disk.
    fn sync(&self) -> io::Result<()> {
        self.with(|writer| {
            writer.flush()?;
            match writer.get_ref() {
                Target::File(file) => file.sync_all(),
                Target::Stdout | Target::Terminal(_) => Ok(()),
            }
        })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(BufWriter::flush)
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout => print::bytes(bytes).map(|()| bytes.len()),
            Self::Terminal(terminal) => terminal.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Stdout => Ok(()),
            Self::Terminal(terminal) => terminal.flush(),
        }
    }
}

/// A terminal, which obeys what stands in records unless it is escaped.
struct Terminal {
    json: bool,
    line: Vec<u8>,
}

impl Terminal {
    fn new(json: bool) -> Self {
        let line = Vec::new();
        Self { json, line }
    }

    fn print(&mut self) -> io::Result<()> {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if self.json {
            print::line(tail::shown(&line))
        } else {
            print::line(escape(line.trim_end_matches('\r')))
        }
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => self.print()?,
                byte => self.line.push(*byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
