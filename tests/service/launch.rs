//! A session of the service is what a session of one's own is, for whoever asks for it.

use crate::service::{ADA, Service};

#[test]
fn the_command_runs_as_its_caller_with_its_own_status_and_output() {
    let host = Service::start("");
    let run = host.run(ADA, &["run", "--", "sh", "-c", "id -u; id -G; echo err >&2; touch made; exit 7"]);
    assert_eq!(run.stdout, "4001\n4001 4050\n", "{run:#?}");
    assert_eq!((run.status, run.stderr.as_str()), (Some(7), "err\n"));
}
