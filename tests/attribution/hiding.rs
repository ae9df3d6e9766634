//! Programs that do not want to be known, or that have too much to show.

use serde_json::Value;

use crate::cli::EVERYONE;
use crate::place::{Place, program, told};

#[test]
fn enormous_command_lines_are_cut_in_bytes_and_in_number() {
    for who in EVERYONE {
        let place = Place::new(who);
        let script = "long=$(head -c 100000 /dev/zero | tr '\\0' y)\n\
                      /usr/bin/python3 ask.py PORT /long $long\n\
                      /usr/bin/python3 ask.py PORT /many $(seq 5000)\n";
        let run = place.script(script);
        assert_eq!(run.stdout.lines().count(), 2, "{run:?}");
        let port = place.origin.port().to_string();
        let argv = |path: &str| {
            let process = told(&place.decided_on(path)[0]);
            let argv = process["argv"].as_array().unwrap().clone();
            argv.iter()
                .map(|argument| argument.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let long = argv("/long");
        let start = ["/usr/bin/python3", "ask.py", &port, "/long"];
        assert_eq!(long[..4], start, "{who:?}");
        assert_eq!(long[4..], ["y".repeat(1021) + "…"], "{who:?}");
        let many = argv("/many");
        assert_eq!((many.len(), many[63].as_str()), (65, "60"), "{many:?}");
        assert!(many[64].starts_with("… ") && many[64].ends_with(" more arguments"));
    }
}

#[test]
fn a_file_that_is_gone_and_names_that_are_no_text_are_shown_as_they_are() {
    for who in EVERYONE {
        let place = Place::new(who);
        let script = "export PYTHONHOME=/usr\n\
                      cp /usr/bin/python3 gone; odd=$(printf 'od\\377d\\033'); cp /usr/bin/python3 \"$odd\"\n\
                      ./gone -c 'import os; os.unlink(\"gone\"); from ask import ask; ask(PORT, \"/gone\")'\n\
                      \"./$odd\" ask.py PORT /odd \"$odd\"\n";
        let run = place.script(script);
        assert_eq!(run.status, Some(0), "{run:?}");
        let work = place.scene.install.work();
        let gone = told(&place.decided_on("/gone")[0]);
        assert_eq!(gone["exe"], format!("{}/gone (deleted)", work.display()));
        let odd = told(&place.decided_on("/odd")[0]);
        assert_eq!(odd["exe"], format!("{}/od\\xffd\u{1b}", work.display()));
        let port = place.origin.port().to_string();
        let argv = [
            "./od\\xffd\u{1b}",
            "ask.py",
            &port,
            "/odd",
            "od\\xffd\u{1b}",
        ];
        assert_eq!(odd["argv"], Value::from(argv.to_vec()), "{who:?}");
    }
}

#[test]
fn one_that_makes_itself_unreadable_and_one_with_a_thread_of_its_own_table_are_found() {
    // PR_SET_DUMPABLE 0, and a thread that shares no descriptors (unshare(2), CLONE_FILES 0x400).
    const HIDES: &str = "import ctypes, sys, threading\n\
        from ask import ask\n\
        libc = ctypes.CDLL(None)\n\
        assert libc.prctl(4, 0, 0, 0, 0) == 0\n\
        ask(sys.argv[1], '/unreadable')\n\
        def alone():\n    \
            assert libc.unshare(0x400) == 0\n    \
            ask(sys.argv[1], '/alone')\n\
        thread = threading.Thread(target=alone)\n\
        thread.start()\n\
        thread.join()\n";
    for who in EVERYONE {
        let place = Place::new(who);
        place.scene.install.write("work/hides.py", HIDES);
        let run = place.script("/usr/bin/python3 hides.py PORT; :");
        assert_eq!(run.status, Some(0), "{run:?}");
        let port = place.origin.port().to_string();
        for path in ["/unreadable", "/alone"] {
            let process = told(&place.decided_on(path)[0]);
            assert_eq!(process["exe"], program("python3"), "{who:?} {path}");
            let argv = ["/usr/bin/python3", "hides.py", &port];
            assert_eq!(
                process["argv"],
                Value::from(argv.to_vec()),
                "{who:?} {path}"
            );
        }
    }
}
