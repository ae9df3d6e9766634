"""The package is installed again while sessions run, as an upgrade does it."""

import os

from guest import (
    FORWARD,
    NOTARY,
    PACKAGE,
    Person,
    audited,
    bound,
    check,
    daemon,
    eventually,
    groups,
    holds,
    install,
    jailed,
    main,
    process_of,
    processes,
    records,
    root,
    same,
    service_log,
    text,
)

ALICE = None
CONFIGURATION = "/etc/portcullis/portcullis.toml"
SESSION = WAITED = None


def before():
    global ALICE, SESSION, WAITED
    install()
    ALICE = Person("alice")
    audited()
    SESSION = ALICE.detach("--name", "nightly", script="sleep 4711")
    WAITED = ALICE.start([ALICE.program, "run", "--", "sh", "-c", "echo ready; read line; echo \"<$line>\"; exit 7"])
    same(WAITED.stdout.readline(), "ready\n")


@check("sessions go on through an upgrade, and the administrator's changes stay")
def upgraded():
    with open(CONFIGURATION, "a") as file:
        file.write("\n# A line of the administrator's.\n")
    jail, old = eventually("the command runs", lambda: jailed("4711")), daemon()
    before = [process_of(unit) for unit in (NOTARY, FORWARD)]
    done = root("dpkg", "-i", PACKAGE, seconds=300)
    same(done.status, 0, done.out + done.err)
    same(jailed("4711"), jail)
    eventually("it is listed", lambda: SESSION in ALICE.sessions())
    holds(text(CONFIGURATION).endswith("\n# A line of the administrator's.\n"), text(CONFIGURATION))
    eventually("the new portcullisd runs", lambda: daemon() not in (0, old))
    for unit, was in zip((NOTARY, FORWARD), before, strict=True):
        eventually(f"the new {unit} runs", lambda unit=unit, was=was: process_of(unit) not in (0, was))
    for pid in (daemon(), process_of(NOTARY), process_of(FORWARD)):
        holds(not os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)"), f"the old program of {pid} still serves")
    same(root("systemctl", "is-active", "portcullisd.socket").out, "active\n")


@check("a session from before it ends as it should, or is stopped")
def ended():
    out, err = WAITED.communicate("word\n", timeout=90)
    same((WAITED.returncode, out), (7, "<word>\n"), err)
    same(ALICE.portcullis("stop", "nightly").ok(), SESSION)
    same(records(service_log(SESSION))[-1]["event"], "session.ended")
    bound(SESSION)
    root("/usr/bin/portcullis", "audit", "verify", cwd="/root").ok()


@check("new sessions start after it, and nothing is left of any")
def after():
    same(ALICE.portcullis("run", "--", "sh", "-c", "exit 7").complaint(), (7, []))
    eventually("only the daemon is left", lambda: set(processes()) <= {daemon()})
    eventually("no control groups are left", lambda: not groups())


if __name__ == "__main__":
    main(before)
