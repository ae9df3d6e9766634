//! Other processes of the same user, outside.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::scene::{Scene, Start};

/// Tries to get at a process; says what each try came to, in one line.
const REACH: &str = r#"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
process = sys.argv[1]

def name(error):
    return errno.errorcode.get(error, str(error))

def attempt(act):
    try:
        act()
        return "done"
    except OSError as error:
        return name(error.errno)

def ptrace():
    PTRACE_SEIZE = 0x4206
    if libc.ptrace(PTRACE_SEIZE, int(process), None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")

def below(path):
    return lambda: open(f"/proc/{process}/{path}", "rb").read(1)

def look(path):
    return lambda: os.readlink(f"/proc/{process}/{path}")

print(attempt(below("environ")), attempt(below("mem")), attempt(look("fd/0")), attempt(look("root")),
      attempt(below("ns/user")), attempt(ptrace))
"#;

#[test]
fn nobody_outside_can_look_into_the_session_or_trace_it() {
    let scene = Scene::new();
    let session = scene.ready(Start::Given, &[], "sleep 1000");
    for process in scene.processes() {
        let said = scene.outsider(REACH, &process.to_string());
        let words: Vec<&str> = said.split_whitespace().collect();
        // One that has ended is none that was reached.
        for word in words {
            assert!(
                ["EACCES", "EPERM", "ENOENT", "ESRCH"].contains(&word),
                "{process}: {said}"
            );
        }
    }
    let own = scene.outsider(REACH, &session.child.id().to_string());
    assert_eq!(own, "EACCES EACCES EACCES EACCES EACCES EPERM\n");
    drop(session);
    // A process of theirs that is in no such namespace.
    let mut sleeper = Command::new("sleep");
    let mut sleeper = sleeper
        .arg("1000")
        .uid(scene.uid)
        .gid(scene.uid)
        .spawn()
        .unwrap();
    let twin = scene.outsider(REACH, &sleeper.id().to_string());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    // Nothing is mapped at 0, and a user namespace is no file to be read.
    let mut twin: Vec<&str> = twin.split_whitespace().collect();
    assert_eq!(twin.remove(1), "EIO");
    assert_eq!(twin, ["done", "done", "done", "EINVAL", "done"]);
}

/// Joins the user namespace that is open as standard input.
const JOIN: &str = r#"
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
joined = libc.setns(0, CLONE_NEWUSER)
print("joined" if joined == 0 else errno.errorcode[ctypes.get_errno()])
"#;

#[test]
fn nobody_outside_can_join_the_namespace_even_with_a_descriptor_of_it() {
    let scene = Scene::new();
    let session = scene.ready(Start::Given, &[], "sleep 1000");
    let join = |uid: u32, process: u32| {
        let namespace = File::open(format!("/proc/{process}/ns/user")).unwrap();
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", JOIN]).stdin(Stdio::from(namespace));
        let output = python.uid(uid).gid(uid).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(join(scene.uid, session.child.id()), "EPERM\n");
    assert_eq!(join(scene.reserved, session.child.id()), "EPERM\n");
    // A namespace that the user has made themselves is theirs.
    let mut own = Command::new("unshare");
    own.args(["--user", "sh", "-c", "echo made; exec sleep 1000"]);
    let mut own = own
        .uid(scene.uid)
        .gid(scene.uid)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(own.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    assert_eq!(join(scene.uid, own.id()), "joined\n");
    own.kill().unwrap();
    own.wait().unwrap();
}

#[test]
fn a_program_of_the_callers_that_the_session_runs_has_no_right_in_the_namespace() {
    let scene = Scene::new();
    let out = scene.install.path("home/status");
    let program = scene.write(
        "home/secret.sh",
        &format!(
            "#!/bin/sh\ncat /proc/self/status > {}\necho secret\n",
            out.display()
        ),
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, mode).unwrap();
    let profile = format!(
        "extends = 'base'\n[network.tls]\n'good.test' = 'inspect'\n\
         [[network.credentials]]\nname = 'k'\nhost = 'good.test'\nheader = 'authorization'\n\
         value = '${{command}}'\ncommand = ['{}']\nenv = 'TOKEN'\n",
        program.display()
    );
    let profile = scene.write("profile.toml", &profile);
    let run = scene.run(Start::Given, &["-p", profile.to_str().unwrap()], &["true"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let status = std::fs::read_to_string(out).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let empty = format!("{set}:\t0000000000000000\n");
        assert!(status.contains(&empty), "{status}");
    }
}
