//! Plays the session over the jail's API: prepares, starts, answers `Go`, waits.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use portcullis::jail::{self, Footing, JailRequest, UserNames, bwrap};
use portcullis::policy::FilesystemPolicy;
use portcullis::wire::Channel;
use portcullis::wire::init::{Go, InitPlan, InitReport};

use crate::order::{Order, Outcome};

/// Runs an order to its end.
fn play(order: &Order) -> Outcome {
    match run(order) {
        Ok(outcome) => outcome,
        Err(error) => Outcome {
            refused: Some(error.to_string()),
            ..Outcome::default()
        },
    }
}

fn run(order: &Order) -> Result<Outcome, Box<dyn std::error::Error>> {
    let policy = FilesystemPolicy {
        mode: order.mode,
        writable: order.writable.clone(),
        readable: order.readable.clone(),
        masked: order.masked.clone(),
        protected: order.protected.clone(),
    };
    let init = File::open(&order.init)?;
    let footing = Footing::settle()?;
    let prepared = jail::prepare(&JailRequest {
        footing,
        policy: &policy,
        workspace: &order.workspace,
        home: &order.home,
        user: user(),
        hostname: "jail".to_owned(),
        hidden: order.hidden.clone(),
        shown: order.shown.clone(),
        files: order.files.clone(),
        replaced: order.replaced.clone(),
        sockets: &order.sockets,
        limits: &portcullis::policy::ResourceLimits::default(),
        session: "test".to_owned(),
        init: &init,
    })?;
    let found = footing.find_bwrap("/usr/bin:/bin".as_ref(), |_| true, &[])?;
    let bwrap = bwrap::ask(found)?.answer()?;
    let (readable, writable) = prepared.landlock_paths();
    let plan = InitPlan {
        takeover: prepared.takeover(),
        listen: order.listen.clone(),
        network: false,
        datagrams: None,
        readable,
        writable,
        sockets: prepared.socket_paths().to_vec(),
        rlimits: portcullis::wire::init::Rlimits::default(),
        landlock_floor: order.floor,
        bwrap: bwrap.version.clone(),
        argv: order.argv.clone(),
        env: order.env.clone(),
    };
    let sockets = prepared.sockets().to_vec();
    let (ours, theirs) = Channel::pair()?;
    let running = prepared.start(&bwrap, &plan, OwnedFd::from(theirs))?;
    footing.step_down()?;
    let mut outcome = Outcome {
        sockets,
        ..Outcome::default()
    };
    let received = ours.recv_with::<InitReport>()?;
    let report = received.message;
    outcome.listeners = received.fds.len();
    if matches!(report, InitReport::Confined(_)) {
        ours.send(&Go {})?;
    }
    outcome.report = Some(match ours.recv() {
        Ok(failure) => failure,
        Err(_) => report,
    });
    outcome.status = running.finish()?.code();
    Ok(outcome)
}

fn user() -> UserNames {
    UserNames {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        user: "dev".to_owned(),
        group: "dev".to_owned(),
    }
}

/// Reads an order from a file and runs it.
pub(crate) fn play_file(path: &Path) {
    let order: Order = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let outcome = serde_json::to_vec(&play(&order)).unwrap();
    std::fs::write(&order.outcome, outcome).unwrap();
}
