//! Capabilities, floors, exit codes, and what a developer needs nevertheless.

use std::process::Command;

use portcullis::wire::init::{FailureKind, InitReport};

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS, Caller};

#[test]
fn no_capability_is_left_in_any_set() {
    for caller in CALLERS {
        let status = Bench::new(caller).try_inside(Act::read("/proc/self/status"));
        let Answer::Done(status) = status else {
            unreachable!("{status:?}")
        };
        let wanted = ["Cap", "NoNewPrivs", "Seccomp:", "Uid"];
        let facts: Vec<&str> = status
            .lines()
            .filter(|line| wanted.iter().any(|start| line.starts_with(start)))
            .collect();
        let uid = caller.uid();
        let expected = [
            format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
            "CapInh:\t0000000000000000".to_owned(),
            "CapPrm:\t0000000000000000".to_owned(),
            "CapEff:\t0000000000000000".to_owned(),
            "CapBnd:\t0000000000000000".to_owned(),
            "CapAmb:\t0000000000000000".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
            "Seccomp:\t2".to_owned(),
        ];
        assert_eq!(facts, expected, "{caller:?}");
    }
}

#[test]
fn a_kernel_below_the_floor_does_not_start_the_command() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.floor = 200;
        bench.order.argv = vec!["touch".to_owned(), "ran".to_owned()];
        let (_, outcome) = bench.run();
        let Some(InitReport::Failed(failure)) = outcome.report else {
            unreachable!("{outcome:?}")
        };
        assert_eq!(failure.kind, FailureKind::NotStarted);
        assert!(
            failure.error.contains("isolation.landlock_abi"),
            "{failure:?}"
        );
        assert_eq!(outcome.status, Some(125));
        assert!(!bench.path("ran").exists());
        bench.order.floor = 1;
        assert_eq!(bench.run().1.status, Some(0));
        assert!(bench.path("ran").exists());
    }
}

#[test]
fn the_commands_own_status_comes_out() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        for (script, status) in [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)] {
            bench.order.argv = ["bash", "-c", script].map(Into::into).into();
            assert_eq!(bench.run().1.status, Some(status), "{caller:?} {script}");
        }
    }
}

#[test]
fn commands_that_cannot_be_found_or_executed_are_told_apart() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.file(&bench.path("script"), "#!/nonexistent/interpreter\n");
        let cases = [
            ("nosuch-command", FailureKind::NotFound, 127),
            ("./nosuch", FailureKind::NotFound, 127),
            ("/etc/passwd", FailureKind::NotExecutable, 126),
            ("./script", FailureKind::NotExecutable, 126),
            ("", FailureKind::NotFound, 127),
        ];
        for (name, kind, status) in cases {
            bench.order.argv = vec![name.to_owned()];
            let (_, outcome) = bench.run();
            let Some(InitReport::Failed(failure)) = outcome.report else {
                unreachable!("{name}: {outcome:?}")
            };
            assert_eq!(
                (failure.kind, outcome.status),
                (kind, Some(status)),
                "{name}"
            );
        }
    }
}

#[test]
fn a_command_can_ignore_no_signal_that_its_caller_did_not_ask_to_ignore() {
    for caller in CALLERS {
        let status = Bench::new(caller).try_inside(Act::read("/proc/self/status"));
        let Answer::Done(status) = status else {
            unreachable!("{status:?}")
        };
        // The probe's own runtime ignores SIGPIPE (13).
        assert!(status.contains("SigIgn:\t0000000000001000\n"), "{status}");
        assert!(status.contains("SigBlk:\t0000000000000000\n"), "{status}");
    }
}

/// A developer's day: each line must print what it ends with.
#[test]
fn tools_of_a_developer_work() {
    const LINES: &[(&str, &str)] = &[
        (
            "node -e 'console.log(require(\"child_process\").execSync(\"echo n1\")+\"\")'",
            "n1",
        ),
        (
            "node -e 'new (require(\"worker_threads\").Worker)(\"console.log(7)\",{eval:true})'",
            "7",
        ),
        (
            "/usr/bin/python3 -c 'import multiprocessing as m; print(m.Pool(2).map(abs,[-1]))'",
            "[1]",
        ),
        (
            "git init -q r; cd r; echo x>f; git add f; git -c user.name=a -c user.email=a@b commit -qm m; git gc -q; git log --format=%s",
            "m",
        ),
        (
            "printf 'int main(){return 5;}' >a.c; gcc -g a.c -o a; ./a; echo $?",
            "5",
        ),
        (
            "strace -o trace ./a; tail -1 trace",
            "+++ exited with 5 +++",
        ),
        (
            "gdb -q -batch -ex 'break main' -ex run -ex 'print 40+2' ./a | tail -1",
            "$1 = 42",
        ),
        (
            "printf 'class H{public static void main(String[] a){System.out.println(6);}}' >H.java; java H.java",
            "6",
        ),
        ("mkfifo f1; (echo p >f1 &) ; cat f1", "p"),
        ("ulimit -c", "0"),
        ("setarch -R true && echo r", "r"),
        ("flock lock echo l", "l"),
        ("script -qc 'echo tty' /dev/null | tr -d '\\r'", "tty"),
        (
            "tar cf - /etc/ssl/openssl.cnf 2>/dev/null | tar tf -",
            "etc/ssl/openssl.cnf",
        ),
    ];
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        for (line, expected) in LINES {
            bench.order.argv = ["bash", "-c", line].map(Into::into).into();
            let (output, _) = bench.run();
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said.trim(), *expected, "{caller:?} {line}: {output:?}");
        }
    }
}

/// Rust's own tools, with a toolchain that the profile shows.
#[test]
fn a_crate_can_be_built_and_tested() {
    let mut bench = Bench::new(Caller::Root);
    let rustc = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .unwrap();
    let sysroot = String::from_utf8(rustc.stdout).unwrap().trim().to_owned();
    bench.order.readable = vec![sysroot.clone().into()];
    bench.order.env[0].1 = format!("{sysroot}/bin:/usr/bin:/bin");
    let home = bench.order.home.to_str().unwrap().to_owned();
    bench.order.env.push(("HOME".to_owned(), home));
    let line =
        "cargo init -q --vcs none --name made . && cargo test -q --offline 2>&1 | grep -c ok";
    bench.order.argv = ["sh", "-c", line].map(Into::into).into();
    let (output, outcome) = bench.run();
    assert_eq!(outcome.status, Some(0), "{output:?}");
}
