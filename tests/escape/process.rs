//! Other processes, descriptors, the environment.

use nix::libc::{
    EPERM, ESRCH, PTRACE_ATTACH, PTRACE_SEIZE, SYS_kill, SYS_pidfd_open, SYS_ptrace, SYS_setsid,
};

use crate::act::{Act, Answer};
use crate::bench::{Bench, CALLERS};

#[test]
fn processes_of_the_host_do_not_exist() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let mut sleeper = bench.sleeper();
        let pid = u64::from(sleeper.id());
        let acts = [
            Act::call(SYS_kill, &[pid, 0]),
            Act::call(SYS_ptrace, &[u64::from(PTRACE_SEIZE), pid, 0, 0]),
            Act::call(SYS_pidfd_open, &[pid, 0]),
        ];
        let inside = bench.inside(&acts);
        let twin = bench.outside(&acts);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(inside, vec![Answer::Errno(ESRCH); 3], "{caller:?}");
        assert_eq!(twin, vec![Answer::done(); 3], "{caller:?}");
    }
}

#[test]
fn only_the_jails_processes_show() {
    for caller in CALLERS {
        let names = Bench::new(caller).try_inside(Act::list("/proc"));
        let Answer::Done(names) = names else {
            unreachable!("{names:?}")
        };
        let is_pid = |name: &&str| name.parse::<u32>().is_ok();
        let pids: Vec<&str> = names.lines().filter(is_pid).collect();
        assert_eq!(pids, ["1", "2"], "{caller:?}");
    }
}

#[test]
fn the_first_process_can_be_neither_killed_nor_traced() {
    let acts = [
        Act::call(SYS_kill, &[1, 9]),
        Act::call(SYS_ptrace, &[u64::from(PTRACE_ATTACH), 1, 0, 0]),
        Act::call(SYS_ptrace, &[u64::from(PTRACE_SEIZE), 1, 0, 0]),
    ];
    for caller in CALLERS {
        let answers = Bench::new(caller).inside(&acts);
        assert_eq!(answers, vec![Answer::Errno(EPERM); 3], "{caller:?}");
    }
}

#[test]
fn a_new_session_and_a_new_parent_do_not_outlive_the_jail() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        let script =
            "setsid sh -c 'touch started; sleep 1000' & while ! [ -e started ]; do :; done";
        bench.order.argv = ["bash", "-c", script].map(Into::into).into();
        assert_eq!(bench.run().1.status, Some(0), "{caller:?}");
        let sleeps = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                std::fs::read_link(entry.path().join("cwd"))
                    .is_ok_and(|cwd| cwd == bench.order.workspace)
            });
        assert_eq!(sleeps.count(), 0, "{caller:?}");
        assert_eq!(bench.try_inside(Act::call(SYS_setsid, &[])), Answer::done());
    }
}

#[test]
fn only_the_standard_streams_are_open() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench.order.listen = vec![3128];
        let answer = bench.try_inside(Act::Descriptors);
        assert_eq!(answer, Answer::Done("0,1,2".to_owned()), "{caller:?}");

        // The same when the session itself inherited one from a careless shell.
        let leaky = "exec 9</etc/passwd 200</; exec \"$0\" \"$@\"";
        let output = bench.through_shell(leaky).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), r#"[{"Done":"0,1,2"}]"#, "{output:?}");
    }
}

#[test]
fn the_environment_is_the_plans_and_nothing_else() {
    for caller in CALLERS {
        let mut bench = Bench::new(caller);
        bench
            .order
            .env
            .push(("NAME".to_owned(), "a=b c".to_owned()));
        let answer = bench.try_inside(Act::Environment);
        let expected = "NAME=a=b c\nPATH=/usr/bin:/bin";
        assert_eq!(answer, Answer::Done(expected.to_owned()), "{caller:?}");
    }
}
