//! From a specification to bubblewrap's arguments, and from a policy to a specification.
#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use portcullis::jail::bwrap::argv;
use portcullis::jail::spec::{Access, Mount, MountKind, SourceId};
use portcullis::jail::{Footing, JailRequest, JailSpec, UserNames, prepare};
use portcullis::policy::{FilesystemMode, FilesystemPolicy};

fn mount(dest: &str, kind: MountKind) -> Mount {
    Mount {
        dest: dest.into(),
        kind,
        reason: "test",
    }
}

fn bind(host: &str, source: usize, access: Access) -> MountKind {
    MountKind::Bind {
        host: host.into(),
        source: SourceId(source),
        access,
    }
}

/// The arguments, one option a line.
fn lines(argv: &[OsString]) -> String {
    let mut text = String::new();
    for argument in argv {
        let argument = argument.to_str().unwrap();
        text.push_str(match (argument.starts_with("--"), text.is_empty()) {
            (_, true) => "",
            (true, false) => "\n",
            (false, false) => " ",
        });
        text.push_str(argument);
    }
    text
}

#[test]
fn every_kind_of_mount_has_its_option() {
    let spec = JailSpec {
        footing: Footing::Own,
        hostname: "jail".to_owned(),
        workspace: "/work".into(),
        mounts: vec![
            mount(
                "/bin",
                MountKind::Symlink {
                    target: "/usr/bin".into(),
                },
            ),
            mount("/dev", MountKind::Devices),
            mount("/etc", MountKind::Folder),
            mount(
                "/etc/hosts",
                MountKind::Copy {
                    source: SourceId(0),
                },
            ),
            mount("/proc", MountKind::Proc),
            mount(
                "/proc/keys",
                MountKind::Data {
                    source: SourceId(1),
                },
            ),
            mount("/tmp", MountKind::Tmpfs { mode: 0o1777 }),
            mount("/usr", bind("/usr", 2, Access::ReadOnly)),
            mount("/work", bind("/work", 3, Access::ReadWrite)),
        ],
        sealed: vec!["/dev".into(), "/".into()],
        reports_pid: true,
    };
    insta::assert_snapshot!(lines(&argv(&spec)), @"
    --unshare-user
    --unshare-pid
    --unshare-net
    --unshare-ipc
    --unshare-uts
    --unshare-cgroup
    --die-with-parent
    --clearenv
    --cap-drop ALL
    --hostname jail
    --info-fd 7
    --symlink /usr/bin /bin
    --dev /dev
    --perms 0755
    --dir /etc
    --perms 0444
    --file 8 /etc/hosts
    --proc /proc
    --perms 0444
    --ro-bind-data 9 /proc/keys
    --perms 1777
    --tmpfs /tmp
    --ro-bind /proc/self/fd/10 /usr
    --bind /proc/self/fd/11 /work
    --remount-ro /dev
    --remount-ro /
    --chdir /work
    ");
}

#[test]
fn landlock_follows_the_mounts() {
    let spec = JailSpec {
        footing: Footing::Own,
        hostname: "jail".to_owned(),
        workspace: "/home/u/work".into(),
        mounts: vec![
            mount("/", bind("/", 0, Access::ReadOnly)),
            mount("/etc", MountKind::Folder),
            mount(
                "/etc/hosts",
                MountKind::Copy {
                    source: SourceId(1),
                },
            ),
            mount("/home/u", MountKind::Tmpfs { mode: 0o700 }),
            mount("/home/u/work", bind("/home/u/work", 2, Access::ReadWrite)),
            mount(
                "/home/u/work/.git",
                bind("/home/u/work/.git", 3, Access::ReadOnly),
            ),
            mount("/home/u/work/key", MountKind::Tmpfs { mode: 0o555 }),
            mount("/srv", MountKind::Tmpfs { mode: 0o555 }),
        ],
        sealed: vec!["/home/u/work/key".into(), "/srv".into()],
        reports_pid: false,
    };
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(spec.landlock_paths(), (paths(&["/"]), paths(&["/home/u"])));
}

/// What a real request on this host becomes.
fn specification(mode: FilesystemMode) -> JailSpec {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["home", "work", "work/secret", "work/.git", "more"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let policy = FilesystemPolicy {
        mode,
        writable: vec![at("more")],
        readable: Vec::new(),
        masked: vec!["secret".into()],
        protected: vec![".git/hooks".into(), ".envrc".into()],
    };
    let init = File::open(env!("CARGO_BIN_EXE_portcullis-init")).unwrap();
    let prepared = prepare(&JailRequest {
        footing: Footing::Own,
        policy: &policy,
        workspace: &at("work"),
        home: &at("home"),
        user: UserNames {
            uid: 0,
            gid: 0,
            user: "dev".to_owned(),
            group: "dev".to_owned(),
        },
        hostname: "jail".to_owned(),
        hidden: Vec::new(),
        shown: Vec::new(),
        files: vec![("/etc/codex/managed_config.toml".into(), Vec::new())],
        replaced: Vec::new(),
        sockets: &std::collections::BTreeMap::new(),
        limits: &portcullis::policy::ResourceLimits::default(),
        session: "test".to_owned(),
        init: &init,
    });
    prepared.unwrap().spec().clone()
}

const MODES: [FilesystemMode; 3] = [
    FilesystemMode::ReadOnly,
    FilesystemMode::WorkspaceWrite,
    FilesystemMode::DangerFullAccess,
];

#[test]
fn a_parent_stands_before_what_is_below_it_and_no_destination_twice() {
    for mode in MODES {
        let mounts = specification(mode).mounts;
        assert!(
            mounts.is_sorted_by(|a, b| a.dest < b.dest),
            "{mode}: {mounts:#?}"
        );
    }
}

#[test]
fn sources_are_descriptors_and_never_paths() {
    for mode in MODES {
        let argv = argv(&specification(mode));
        for option in argv.windows(2) {
            let [option, value] = option else { continue };
            if option == "--bind" || option == "--ro-bind" {
                let value = value.to_str().unwrap();
                assert!(value.starts_with("/proc/self/fd/"), "{mode}: {value}");
            }
        }
        assert!(
            !argv.iter().any(|argument| argument == "--dev-bind"),
            "{mode}"
        );
    }
}

#[test]
fn every_mode_has_every_namespace_and_its_own_proc_dev_and_scratch_space() {
    for mode in MODES {
        let spec = specification(mode);
        let text = lines(&argv(&spec));
        for namespace in ["user", "pid", "net", "ipc", "uts", "cgroup"] {
            assert!(text.contains(&format!("--unshare-{namespace}\n")), "{mode}");
        }
        for own in [
            "--proc /proc",
            "--dev /dev",
            "--tmpfs /tmp",
            "--tmpfs /run",
            "--cap-drop ALL",
        ] {
            assert!(text.contains(own), "{mode}: {own}");
        }
        for sealed in ["/proc", "/dev"] {
            assert!(
                spec.sealed.iter().any(|path| path == Path::new(sealed)),
                "{mode}"
            );
        }
    }
}

#[test]
fn only_the_mode_decides_what_of_the_host_can_be_written() {
    let writable = |mode| {
        let mounts = specification(mode).mounts.into_iter();
        let binds = mounts.filter(|mount| {
            matches!(
                mount.kind,
                MountKind::Bind {
                    access: Access::ReadWrite,
                    ..
                }
            )
        });
        let names = binds.map(|mount| mount.dest.file_name().map(ToOwned::to_owned));
        names.collect::<Vec<_>>()
    };
    let names = |list: &[&str]| {
        list.iter()
            .map(|name| Some(name.into()))
            .collect::<Vec<_>>()
    };
    assert_eq!(writable(FilesystemMode::ReadOnly), names(&[]));
    assert_eq!(
        writable(FilesystemMode::WorkspaceWrite),
        names(&["more", "work", ".git"])
    );
    let full = writable(FilesystemMode::DangerFullAccess);
    assert_eq!(full.first(), Some(&None), "the root: {full:?}");
}

#[test]
fn in_a_namespace_that_root_made_no_other_is_asked_for_and_init_has_what_it_takes_to_become_the_user()
 {
    let spec = JailSpec {
        footing: Footing::Given,
        hostname: "jail".to_owned(),
        workspace: "/work".into(),
        mounts: vec![
            mount("/tmp", MountKind::Tmpfs { mode: 0o1777 }),
            mount("/work", bind("/work", 0, Access::ReadWrite)),
            mount("/work/.git", bind("/work/.git", 1, Access::ReadOnly)),
        ],
        sealed: vec!["/".into()],
        reports_pid: false,
    };
    insta::assert_snapshot!(lines(&argv(&spec)), @"
    --unshare-pid
    --unshare-net
    --unshare-ipc
    --unshare-uts
    --unshare-cgroup
    --die-with-parent
    --clearenv
    --cap-drop ALL
    --cap-add CAP_CHOWN
    --cap-add CAP_SETUID
    --cap-add CAP_SETPCAP
    --hostname jail
    --perms 1777
    --tmpfs /tmp
    --bind /sys/1 /work
    --remount-ro /
    --chdir /
    ");
}
