//! What people see of it.

use crate::cli::{Run, Who};
use crate::place::{Place, program};

#[test]
fn tail_names_the_program_of_each_record_and_show_counts_connections_by_program() {
    let place = Place::new(Who::User);
    let script = "echo $$; curl -sS -m 60 -x http://127.0.0.1:3128 http://web.test:PORT/1 \
                  http://web.test:PORT/2; exec /usr/bin/python3 ask.py PORT /3";
    let run = place.script(script);
    assert_eq!(run.status, Some(0), "{run:?}");
    let install = &place.scene.install;
    let shell = run.stdout.lines().next().unwrap();
    let python = std::path::PathBuf::from(program("python3"));
    let python = python.file_name().unwrap().to_str().unwrap();
    let tail = Run::of(&install.portcullis(["audit", "tail"]));
    let decided: Vec<String> = tail
        .stdout
        .lines()
        .filter(|line| line.contains("egress.decided"))
        .map(|line| line.rsplit(", from ").next().unwrap().to_owned())
        .collect();
    let curl = decided[0].clone();
    assert!(curl.starts_with("curl[") && curl.ends_with(']'), "{tail:?}");
    // Two requests on one connection, which is counted once.
    assert_eq!(decided, [curl.clone(), curl, format!("{python}[{shell}]")]);
    let session = install.records()[0]["session"].as_str().unwrap().to_owned();
    let show = Run::of(&install.portcullis(["audit", "show", &session]));
    let expected = format!(
        "connections by program\n  1 × {}\n  1 × {}\n",
        program("curl"),
        program("python3")
    );
    assert!(show.stdout.contains(&expected), "{show:?}");
    let json = Run::of(&install.portcullis(["audit", "show", "--json", &session]));
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        json["programs"],
        serde_json::json!([
            { "exe": program("curl"), "connections": 1 },
            { "exe": program("python3"), "connections": 1 },
        ])
    );
}
