//! `portcullis audit forward`: one thread a receiver, until a signal ends it or, with `--once`, all is sent.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::FolderArg;
use crate::audit::forward::config::Target;
use crate::audit::forward::metrics::Numbers;
use crate::audit::forward::serve::serve;
use crate::audit::forward::worker::{self, Shared, Status, Surroundings};
use crate::audit::settings::{self, Settings};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::print;
use crate::exit::Exit;

/// What to forward.
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    /// File that says where to [default: $XDG_CONFIG_HOME/portcullis/audit.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End when everything is sent; with 1 if a receiver did not take it
    #[arg(long)]
    once: bool,
    /// Folder that remembers what was sent [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/portcullis/forward]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    folder: FolderArg,
}

/// Forwards.
pub(super) fn forward(arguments: &ForwardArgs) -> Outcome {
    let path = arguments.config.clone().map_or_else(own_config, Ok)?;
    let read = Settings::read(&path).map_err(|error| Failure::new(Exit::Config, error));
    let config = read?.forwarding;
    let targets = config.targets();
    let targets = targets.map_err(|why| Failure::new(Exit::Config, why))?;
    if targets.is_empty() && config.metrics.is_none() {
        let path = print::escape(&path.to_string_lossy());
        let why = format!("{path}: nothing to do: give [[forward]], [[anchor]] or [metrics]");
        return Err(Failure::new(Exit::Config, why));
    }
    let logs = match (&arguments.folder.path, path == Path::new(settings::HOSTS)) {
        (None, true) => PathBuf::from("/var/log/portcullis"),
        _ => arguments.folder.path()?,
    };
    if !logs.is_dir() {
        let logs = print::escape(&logs.to_string_lossy());
        let why = format!("audit folder {logs} is not there; `portcullis run` makes it");
        return Err(Failure::new(Exit::Unavailable, why));
    }
    let state = state(arguments.state.as_deref())?;
    // Before any thread is started, so that all of them have it.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let internal = |error: &dyn std::fmt::Display| Failure::new(Exit::Internal, error);
    signals.thread_block().map_err(|error| internal(&error))?;
    let stop = AtomicBool::new(false);
    let around = Surroundings {
        root: &logs,
        state: &state,
        once: arguments.once,
        stop: &stop,
        tell,
    };
    let shared: Vec<_> = targets.iter().map(|target| named(&target.name)).collect();
    std::thread::scope(|scope| {
        let mut jobs: Vec<(&str, _)> = Vec::new();
        for (target, status) in targets.iter().zip(&shared) {
            let around = around.clone();
            jobs.push((
                &target.name,
                scope.spawn(move || work(target, &around, status)),
            ));
        }
        if let Some(metrics) = config.metrics.as_ref().filter(|_| !arguments.once) {
            let (logs, shared, stop) = (&logs, &shared, &stop);
            let count = move || {
                let numbers = Numbers::new(logs, shared.clone())?;
                runtime()?.block_on(serve(metrics, numbers, stop))
            };
            let count = move || count().map_err(|error: io::Error| error.to_string());
            jobs.push(("metrics", scope.spawn(count)));
        }
        let mut exit = Exit::Success;
        while !jobs.is_empty() {
            if signaled(&signals) {
                stop.store(true, Ordering::Relaxed);
            }
            // One that cannot work is told at once; the others go on.
            for (name, job) in jobs.extract_if(.., |(_, job)| job.is_finished()) {
                let failed = match job.join() {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => error,
                    Err(_) => "it died".to_owned(),
                };
                tell(&format!("{name}: {failed}"));
                exit = Exit::No;
            }
        }
        Ok(exit)
    })
}

fn named(name: &str) -> Shared {
    let name = name.to_owned();
    Shared::new(
        Status {
            name,
            ..Status::default()
        }
        .into(),
    )
}

fn tell(line: &str) {
    print::error(format_args!("forward: {}", print::escape(line)));
}

fn work(target: &Target, around: &Surroundings<'_>, status: &Shared) -> Result<(), String> {
    let runtime = runtime().map_err(|error| error.to_string())?;
    let worked = runtime.block_on(worker::run(target, around, status));
    worked.map_err(|error| error.to_string())
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Waits a little for a signal that ends us.
fn signaled(signals: &SigSet) -> bool {
    let wait = nix::sys::signalfd::SignalFd::with_flags(
        signals,
        nix::sys::signalfd::SfdFlags::SFD_CLOEXEC | nix::sys::signalfd::SfdFlags::SFD_NONBLOCK,
    );
    std::thread::sleep(Duration::from_millis(50));
    wait.ok()
        .and_then(|wait| wait.read_signal().ok().flatten())
        .is_some()
}

fn own_config() -> Result<PathBuf, Failure> {
    settings::own_path(std::env::var_os).ok_or_else(|| {
        let why = "neither XDG_CONFIG_HOME nor HOME is an absolute path; give --config";
        Failure::new(Exit::Config, why)
    })
}

fn state(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let folder = given
        .map(Path::to_owned)
        .or_else(|| absolute("STATE_DIRECTORY"))
        .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("portcullis/forward")))
        .or_else(|| Some(absolute("HOME")?.join(".local/state/portcullis/forward")));
    let folder = folder.ok_or_else(|| {
        let why = "neither XDG_STATE_HOME nor HOME is an absolute path; give --state";
        Failure::new(Exit::Config, why)
    })?;
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    made.map_err(|error| {
        let shown = print::escape(&folder.to_string_lossy());
        Failure::new(Exit::Unavailable, format!("state folder {shown}: {error}"))
    })?;
    Ok(folder)
}
