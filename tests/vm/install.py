"""The package on a machine that has never seen it, and the first sessions that go through the service."""

import json
import os

from guest import (
    AUDITORS,
    CONTROL,
    LOGS,
    NOTARY,
    OPERATORS,
    Person,
    bound,
    check,
    contains,
    daemon,
    eventually,
    groups,
    holds,
    install,
    jailed,
    main,
    mode,
    owner,
    processes,
    records,
    root,
    same,
    service_log,
    shown,
    text,
)
from scene import FETCH, FORKS, HOG, MEMORY, TASKS, fetch, held, origin, to_origin

ROOT = ALICE = None

# What the package makes: owner, group and mode.
FILES = {
    "/usr/lib/portcullis": "root:root 755",
    "/usr/lib/portcullis/portcullis": "root:root 755",
    "/usr/lib/portcullis/portcullisd": "root:root 755",
    "/usr/lib/portcullis/portcullis-gate": "root:root 755",
    "/usr/lib/portcullis/portcullis-init": "root:root 755",
    "/usr/lib/portcullis/portcullis-audit": "root:root 755",
    "/usr/lib/portcullis/portcullis-notary": "root:root 755",
    "/usr/lib/portcullis/portcullis-auditor": "root:root 755",
    "/usr/lib/portcullis/portcullis-prune": "root:root 755",
    "/etc/portcullis": "root:root 755",
    "/run/portcullis": "root:root 755",
    CONTROL: "root:root 666",
    "/var/lib/portcullis": "root:root 700",
    LOGS: f"root:{AUDITORS} 750",
    f"{LOGS}/ledger": f"portcullis-notary:{AUDITORS} 2750",
}


def before():
    global ROOT, ALICE
    install()
    ROOT, ALICE = Person("root"), Person("alice")
    for person in (ROOT, ALICE):
        for name, content in (("forks.py", FORKS), ("hog.py", HOG), ("fetch.py", FETCH)):
            person.write(name, content)


def id_of(name):
    return int(root("id", "--user", name).ok())


def latest(person, event):
    """The last record of this kind in any log of theirs that the service keeps."""
    found = []
    for folder, _, files in os.walk(LOGS):
        for file in files:
            if file.endswith(".jsonl"):
                found += [one for one in records(os.path.join(folder, file)) if one["event"] == event]
    found = [one for one in found if one["user"] == person.name]
    holds(found, f"no {event} of {person.name} below {LOGS}")
    return max(found, key=lambda one: one["ts"])


@check("the package is installed, and the control socket listens")
def installed():
    same(root("dpkg-query", "--show", "--showformat=${db:Status-Status}", "portcullis").ok(), "installed")
    same(root("systemctl", "is-active", "portcullisd.socket").out, "active\n")
    same(root("systemctl", "is-enabled", "portcullisd.socket").out, "enabled\n")
    same(root("systemctl", "is-failed", "portcullisd.service").out.strip() == "failed", False)
    same(os.path.realpath("/usr/bin/portcullis"), "/usr/lib/portcullis/portcullis")


@check("what is installed belongs to root, and nobody else writes it")
def modes():
    same({path: mode(path) for path in FILES}, FILES)
    listed = root("dpkg", "--listfiles", "portcullis").ok().splitlines()
    for path in listed:
        found = os.lstat(path)
        same((path, found.st_uid), (path, 0))
        if not os.path.islink(path):
            same((path, found.st_mode & 0o6022), (path, 0), "writable for others, or setuid")
    for name in ("portcullis-gate", "portcullis-audit", "portcullis-notary"):
        contains(root("getent", "passwd", name).ok(), "nologin")
    for name in (OPERATORS, AUDITORS):
        root("getent", "group", name).ok()


@check("a user's first command goes through the service, which keeps the log")
def first():
    same(ALICE.portcullis("run", "--", "true").complaint(), (0, []))
    holds(daemon() > 0, "portcullisd does not run")
    same(owner(daemon()), 0)
    started = latest(ALICE, "session.started")
    same(started["argv"], ["true"])
    same(ALICE.events("session.started", started["session"]), [], "records in her own folder")
    path = service_log(started["session"])
    same(mode(path), f"portcullis-audit:{AUDITORS} 640")
    # The notary runs with the service, under a user of its own, and binds what has ended.
    same((shown(NOTARY, "ActiveState"), shown(NOTARY, "NRestarts")), ("active", "0"))
    bound(started["session"])
    contains(root("portcullis", "audit", "verify", "--dir", LOGS).ok(), "signed up to entry")


@check("input, output and the status are the command's own, for a user and for root")
def streams():
    for person in (ALICE, ROOT):
        done = person.portcullis("run", "--", "sh", "-c", "id -u; cat; echo err >&2; exit 7", given="in\n")
        same((done.status, done.out, done.err), (7, f"{person.uid}\nin\n", "err\n"))
        done = person.portcullis("run", "--", "sh", "-c", "kill -9 $$")
        same(done.status, 137)
        same(person.portcullis("run", "--", "/nowhere/x").status, 127)


@check("a session is listed, shown, attached to and stopped by whoever started it")
def listed():
    session = ALICE.detach("--name", "nightly", script="echo hello; while read line; do echo \"<$line>\"; done")
    entry = ALICE.sessions()[session]
    same((entry["name"], entry["user"]), ("nightly", "alice"))
    contains(ALICE.portcullis("ps").ok(), "nightly")
    contains(ALICE.portcullis("show", session[:31]).ok(), session)
    eventually("it prints", lambda: "hello" in ALICE.portcullis("logs", "nightly").out)
    viewer = ALICE.terminal("attach", "nightly")
    viewer.shows("hello")
    viewer.types("one\r")
    viewer.shows("<one>")
    viewer.types("\x1dd")
    same(viewer.status(), 0)
    same(ALICE.portcullis("stop", session[:31]).ok(), session)
    same(ALICE.sessions(), {})
    (ended,) = [one for one in records(service_log(session)) if one["event"] == "session.ended"]
    holds("status" in ended, f"{ended}")


@check("gate, audit writer and jail run under accounts of their own, the command without a right")
def accounts():
    session = ALICE.detach(script="sleep 4711")
    (command,) = eventually("the command runs", lambda: jailed("4711"))
    found = {}
    for pid, line in processes().items():
        # The jail's init has become the command by now.
        found.setdefault(os.path.basename(line.split()[0]), set()).add(owner(pid))
    same(found["portcullis-gate"], {id_of("portcullis-gate")})
    same(found["portcullis-audit"], {id_of("portcullis-audit")})
    same(found["portcullisd"], {0})
    same(found["portcullis"], {ALICE.uid})
    same(owner(command), ALICE.uid)
    status = dict(line.split(":\t", 1) for line in text(f"/proc/{command}/status").splitlines() if ":\t" in line)
    rights = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    same((set(rights.values()), status["NoNewPrivs"], status["Seccomp"]), ({0}, "1", "2"), f"{rights}")
    ALICE.portcullis("stop", session).ok()
    eventually("the command is gone", lambda: not jailed("4711"))


@check("a user's limits hold without a delegated control group, and are on record")
def limits():
    for limit, program, argument, said, told, hit in (
        ("memory=64M", "hog.py", "300", "-9\n", MEMORY, ("memory", "kill_process")),
        ("tasks=20", "forks.py", "100", "19 11\n", TASKS, ("tasks", "deny")),
    ):
        process = ALICE.start([ALICE.program, "run", "--limit", limit, "--", "python3", program, argument])
        other = ["run", "--limit", "tasks=200", "--", "python3", "forks.py", "50"]

        def another_works(arguments=other):
            done = ALICE.portcullis(*arguments)
            same((done.status, done.out, done.err), (0, "50 0\n", ""), "another session")

        same(held(process, another_works), (said, 0, [told]))
        record = latest(ALICE, "limit.hit")
        same((record["what"], record["action"]), hit)


@check("the way out is the gate alone, and each decision is in the service's log")
def gate():
    port = origin()
    profile = ALICE.write("origin.toml", to_origin(port))
    for target, status in ((port, "200"), (port + 1, "403")):
        done = ALICE.portcullis("run", "-p", profile, "--", *fetch(target))
        same((done.status, done.out.split()[:1]), (0, [status]), done.err)
        same("origin /x" in done.out, status == "200", done.out)
        same(latest(ALICE, "egress.decided")["port"], target)


@check("root's sessions are root's own: without the service, with a log in root's folder")
def roots():
    before = len(ROOT.events("session.started"))
    same(ROOT.portcullis("run", "--", "true").complaint(), (0, []))
    same(len(ROOT.events("session.started")), before + 1)


@check("run --standalone goes around the service, with a log of the user's own")
def standalone():
    before = len(ALICE.events("session.started"))
    same(ALICE.portcullis("run", "--standalone", "--", "true").complaint(), (0, []))
    same(len(ALICE.events("session.started")), before + 1)


@check("a session's own story is told to whoever started it, and verified")
def story():
    ALICE.portcullis("run", "--", "true").ok()
    session = latest(ALICE, "session.started")["session"]
    contains(ALICE.portcullis("audit", "show", session).ok(), "true")
    contains(ALICE.portcullis("audit", "verify", session).ok(), "complete")
    root("/usr/bin/portcullis", "audit", "verify", cwd="/root").ok()


@check("nothing is left of the sessions but their logs, and the daemon has nothing to complain of")
def left():
    eventually("only the daemon is left", lambda: set(processes()) <= {daemon()})
    eventually("no control group is left", lambda: groups() == [])
    journal = root("journalctl", "--unit=portcullisd.service", "--priority=warning", "--output=json").ok()
    same([json.loads(line)["MESSAGE"] for line in journal.splitlines()], [])


if __name__ == "__main__":
    main(before)
