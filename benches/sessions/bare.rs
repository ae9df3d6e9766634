//! What a session is compared to: bubblewrap alone, with the very mounts of a session.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use portcullis::jail::{JailRequest, Running, UserNames, bwrap, prepare};
use portcullis::policy::profile::builtin;
use portcullis::policy::{FilesystemMode, Profile};
use portcullis::wire::init::{InitPlan, Rlimits};

use crate::{AT_ONCE, COMMAND};

/// Starts so many bubblewraps alone, with the mounts of a session and a command that sleeps in the place of
/// init, and keeps all of them until the last runs; how many a second.
pub(crate) fn bare(count: usize, workspace: &Path, folder: &Path) -> f64 {
    let script = folder.join("init");
    fs::write(&script, format!("#!/bin/sh\necho >&3\n{COMMAND}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    // A jail dies with the thread that started it.
    let done = Barrier::new(AT_ONCE);
    let since = Instant::now();
    let longest = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let jails: Vec<Running> = (0..count / AT_ONCE)
                    .map(|_| jail(workspace, &script))
                    .collect();
                let elapsed = since.elapsed();
                let mut longest = longest.lock().unwrap();
                *longest = (*longest).max(elapsed);
                drop(longest);
                done.wait();
                drop(jails);
            });
        }
    });
    let longest = longest.lock().unwrap();
    count as f64 / longest.as_secs_f64()
}

/// Read-only, so that no placeholder is needed.
fn jail(workspace: &Path, script: &Path) -> Running {
    let mut load = |name: &str| Ok(builtin(name).map(str::to_owned));
    let mut policy = Profile::read("base", &mut load).unwrap().filesystem;
    policy.mode = FilesystemMode::ReadOnly;
    let init = File::open(script).unwrap();
    let prepared = prepare(&JailRequest {
        footing: portcullis::jail::Footing::Own,
        policy: &policy,
        workspace,
        home: Path::new("/root"),
        user: UserNames {
            uid: 0,
            gid: 0,
            user: "bench".to_owned(),
            group: "bench".to_owned(),
        },
        hostname: "bench".to_owned(),
        hidden: Vec::new(),
        shown: Vec::new(),
        files: Vec::new(),
        replaced: Vec::new(),
        sockets: &BTreeMap::new(),
        limits: &portcullis::policy::ResourceLimits::default(),
        session: "test".to_owned(),
        init: &init,
    });
    let path = std::env::var_os("PATH").unwrap();
    let found = bwrap::find(OsStr::new(&path), |_| true, &[]).unwrap();
    let bubblewrap = bwrap::Bwrap {
        path: found,
        version: String::new(),
    };
    let plan = InitPlan {
        takeover: None,
        listen: Vec::new(),
        network: false,
        datagrams: None,
        readable: Vec::new(),
        sockets: Vec::new(),
        writable: Vec::new(),
        rlimits: Rlimits::default(),
        landlock_floor: 0,
        bwrap: String::new(),
        argv: Vec::new(),
        env: Vec::new(),
    };
    let (mut ready, says) = std::io::pipe().unwrap();
    let running = prepared
        .unwrap()
        .start(&bubblewrap, &plan, says.into())
        .unwrap();
    ready.read_exact(&mut [0]).unwrap();
    running
}
