"""Without the service, where the kernel is that of Debian 12 (Landlock ABI 2), PID 1 is systemd, and control
groups are of version 2."""

import os
import time

from guest import (
    STANDALONE,
    Failed,
    Person,
    check,
    contains,
    eventually,
    groups,
    holds,
    main,
    processes,
    programs,
    root,
    same,
    text,
)
from scene import FETCH, FORKS, HOG, MEMORY, TASKS, fetch, held, origin, to_origin

ROOT = ALICE = None
EVERYONE = ()

DELEGATED = ["systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes"]


def before():
    global ROOT, ALICE, EVERYONE
    programs()
    ROOT, ALICE = Person("root", STANDALONE), Person("alice", STANDALONE)
    EVERYONE = (ROOT, ALICE)
    for person in EVERYONE:
        person.write("forks.py", FORKS)
        person.write("hog.py", HOG)


@check("the machine is the one that these checks are about")
def machine():
    same(text("/proc/1/comm"), "systemd\n")
    same(root("stat", "--file-system", "--format=%T", "/sys/fs/cgroup").ok(), "cgroup2fs")
    controllers = text("/sys/fs/cgroup/cgroup.controllers").split()
    same({"cpu", "memory", "pids"} - set(controllers), set(), "controllers that are missing")
    same(os.uname().release.split(".")[:2], ["6", "1"])
    same(text("/proc/sys/kernel/unprivileged_userns_clone"), "1\n")
    contains(text("/sys/kernel/security/lsm"), "landlock")
    holds(not os.path.exists("/run/portcullis/control.sock"), "the service is installed already")


@check("root and a user run a command, and get its status and output")
def run():
    for person in EVERYONE:
        done = person.portcullis("run", "--", "sh", "-c", "echo ran; id -u; exit 7")
        same((done.status, done.out, done.err), (7, f"ran\n{person.uid}\n", ""))
        same(person.portcullis("run", "--", "true").complaint(), (0, []))


@check("the log says what this kernel's Landlock lacks")
def shortfalls():
    for person in EVERYONE:
        before = len(person.events("session.started"))
        person.portcullis("run", "--", "true").ok()
        (started,) = person.events("session.started")[before:]
        isolation = started["isolation"]
        lacks = [(one["what"], one["needs"]) for one in isolation["shortfalls"]]
        same((isolation["landlock_abi"], lacks), (2, LACKS))
        told = person.portcullis("audit", "show", started["session"]).ok()
        contains(told, "Landlock ABI 2")
        for what, needs in LACKS:
            contains(told, f"without {what} (needs {needs})")
        person.portcullis("audit", "verify").ok()


LACKS = [
    ("landlock: truncation", "Landlock ABI 3 (Linux 6.2)"),
    ("landlock: device requests", "Landlock ABI 5 (Linux 6.10)"),
    ("landlock: scoped signals and abstract sockets", "Landlock ABI 6 (Linux 6.12)"),
    ("landlock: Unix sockets by path", "Landlock ABI 9"),
]


@check("a profile that demands Landlock ABI 6 starts nothing here, one that demands 2 does")
def floor():
    for person in EVERYONE:
        for abi, status in ((6, 125), (2, 0)):
            profile = person.write("floor.toml", f"[isolation]\nlandlock_abi = {abi}\n")
            done = person.portcullis("run", "-p", profile, "--", "echo", "ran")
            same((done.status, done.out), (status, "" if status else "ran\n"), done.err)
            if status:
                contains(done.err, "this kernel has Landlock ABI 2, the profile demands 6")


@check("a user without a delegated control group is told what is not limited, or refused if limits are required")
def not_delegated():
    profile = ALICE.write("limits.toml", "[limits]\nmemory = '64M'\n")
    done = ALICE.portcullis("run", "-p", profile, "--", "echo", "ran")
    same((done.status, done.out), (0, "ran\n"))
    holds(done.err.startswith("portcullis: not limited: memory (64M): "), done.err)
    contains(done.err, "systemd-run --user --scope -p Delegate=yes portcullis run")
    profile = ALICE.write("limits.toml", "[limits]\nmemory = '64M'\n[isolation]\nlimits = 'required'\n")
    done = ALICE.portcullis("run", "-p", profile, "--", "echo", "ran")
    same((done.status, done.out), (125, ""))


def held_by_root(limit, program, argument, during):
    """A session of root's, whose groups are made at the top; what it printed, its status and what it said."""
    with_limits = ["run", "--limit", limit, "--", "python3", program, argument]
    return held(ROOT.start([STANDALONE, *with_limits]), during)


def another_works(person):
    done = person.portcullis("run", "--limit", "tasks=200", "--", "python3", "forks.py", "50")
    same((done.status, done.out, done.err), (0, "50 0\n", ""), "another session")


def hits(person, before):
    return [(hit["what"], hit["action"]) for hit in person.events("limit.hit")[before:]]


@check("a fork bomb of root's is contained while another session works, and is on record")
def bomb_of_root():
    before = len(ROOT.events("limit.hit"))
    found = held_by_root("tasks=20", "forks.py", "100", lambda: another_works(ROOT))
    same(found, ("19 11\n", 0, [TASKS]))
    same(hits(ROOT, before), [("tasks", "deny")])


@check("a process of root's that takes too much memory is killed while another session works, and is on record")
def hog_of_root():
    before = len(ROOT.events("limit.hit"))
    found = held_by_root("memory=64M", "hog.py", "300", lambda: another_works(ROOT))
    same(found, ("-9\n", 0, [MEMORY]))
    same(hits(ROOT, before), [("memory", "kill_process")])
    same(held_by_root("memory=64M", "hog.py", "10", lambda: None), ("0\n", 0, []), "one that takes less")


def scope(limits, *command):
    """A script that runs a session in a scope of the user's own systemd."""
    flags = [word for limit in limits for word in ("--limit", limit)]
    return [*DELEGATED, STANDALONE, "run", *flags, "--", *command]


def start_in_login(argv):
    options = [
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid=alice"),
        *("-p", "PAMName=login", "-p", f"WorkingDirectory={ALICE.work}"),
        *(f"--setenv={name}={value}" for name, value in ALICE.environment().items()),
    ]
    # It is root's systemd that is asked, for a login of hers.
    return ROOT.start([*options, "--", *argv])


@check("a user's session in a delegated scope has all its limits")
def delegated():
    limits = ["memory=256M", "cpu=10000%", "tasks=100"]
    done = ALICE.login(*scope(limits, "sh", "-c", "echo ran; exit 3"))
    same((done.status, done.out, done.err), (3, "ran\n", ""))
    (*_, started) = ALICE.events("session.started")
    lacks = [one["what"] for one in started["isolation"]["shortfalls"]]
    same([what for what in lacks if what.startswith("limits.")], [])


@check("a fork bomb in a user's delegated scope is contained while another session of theirs works")
def bomb_of_a_user():
    before = len(ALICE.events("limit.hit"))
    process = start_in_login(scope(["tasks=20"], "python3", "forks.py", "100"))
    same(held(process, lambda: another_works(ALICE)), ("19 11\n", 0, [TASKS]))
    same(hits(ALICE, before), [("tasks", "deny")])


@check("memory is limited in a user's delegated scope while another session of theirs works")
def hog_of_a_user():
    before = len(ALICE.events("limit.hit"))
    process = start_in_login(scope(["memory=64M"], "python3", "hog.py", "300"))
    same(held(process, lambda: another_works(ALICE)), ("-9\n", 0, [MEMORY]))
    same(hits(ALICE, before), [("memory", "kill_process")])


@check("a session that runs out of processor time is slowed down, and that is on record")
def processor():
    before = len(ROOT.events("limit.hit"))
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    done = ROOT.portcullis("run", "--limit", "cpu=20%", "--", "python3", "-c", burn)
    told = "portcullis: limits.cpu of 20% reached: the session was slowed down"
    same((done.complaint(), hits(ROOT, before)), ((0, [told]), [("cpu", "throttle")]))


@check("a detached session goes on after its starter's login, and is looked at, typed to, left and stopped")
def detached():
    script = ALICE.write(
        "talk.sh",
        "echo hello\nwhile read line; do echo \"<$line>\"; [ \"$line\" = end ] && exit 7; done\n",
    )
    done = ALICE.login(STANDALONE, "run", "-d", "--name", "nightly", "--", "sh", script)
    session = done.ok()
    # What systemd keeps for a login goes some seconds after the last one, unless somebody is left in it.
    time.sleep(15)
    ALICE.more = {"XDG_RUNTIME_DIR": f"/run/user/{ALICE.uid}"}
    same(list(ALICE.sessions()), [session], "long after the login")
    eventually("it prints", lambda: "hello" in ALICE.portcullis("logs", "nightly").out)
    viewer = ALICE.terminal("attach", "nightly")
    viewer.shows("hello")
    viewer.types("one\r")
    viewer.shows("<one>")
    viewer.types("\x1dd")
    same(viewer.status(), 0, "after leaving")
    same(list(ALICE.sessions()), [session], "after leaving")
    viewer = ALICE.terminal("attach", session[:31])
    viewer.shows("<one>")
    viewer.types("end\r")
    same(viewer.status(), 7, "at the command's end")
    eventually("it is gone", lambda: not ALICE.sessions())
    session = ALICE.detach("--name", "second")
    contains(ALICE.portcullis("show", "second").ok(), session)
    same(ALICE.portcullis("stop", "second").out, f"{session}\n")
    same(ALICE.sessions(), {})
    (ended,) = ALICE.events("session.ended", session)
    holds(ended["status"] != {"exited": 0}, f"{ended}")
    ALICE.more = {}


@check("the way out is the gate alone: what is allowed arrives, what is not is refused, and both are on record")
def gate():
    port = origin()
    for person in EVERYONE:
        person.write("fetch.py", FETCH)
        profile = person.write("origin.toml", to_origin(port))
        for target, status in ((port, "200"), (port + 1, "403")):
            before = len(person.events("egress.decided"))
            done = person.portcullis("run", "-p", profile, "--", *fetch(target))
            same((done.status, done.out.split()[:1]), (0, [status]), done.err)
            same("origin /x" in done.out, status == "200", done.out)
            (decided,) = person.events("egress.decided")[before:]
            same(decided["port"], target)
        # Nobody listens there in the jail's own network.
        done = person.portcullis("run", "-p", profile, "--", "python3", "fetch.py", "127.0.0.1", str(port), "/x", "x")
        holds(done.status != 0 and "ConnectionRefusedError" in done.err, done.err)


@check("programs that know no proxy are led to the gate by this kernel's nftables")
def transparent():
    for person in EVERYONE:
        person.write("fetch.py", FETCH)
        profile = person.write("transparent.toml", "[network]\ntransparent = true\n")
        before = len(person.events("egress.decided"))
        # No proxy is named, and the jail's own network has no such address.
        direct = ["python3", "fetch.py", "192.0.2.1", "80", "/x", "192.0.2.1"]
        done = person.portcullis("run", "-p", profile, "--", *direct)
        same((done.status, done.out[:4]), (0, "403 "), done.err)
        (decided,) = person.events("egress.decided")[before:]
        same((decided["host"], decided["verdict"]), ("192.0.2.1", "deny"))


@check("nothing is left: no process, no control group, every log whole")
def left():
    eventually("no processes are left", lambda: not processes(STANDALONE))
    same(groups(), [], "control groups")
    for person in EVERYONE:
        person.portcullis("audit", "verify").ok()
    if root("systemctl", "is-system-running").out.strip() != "running":
        raise Failed(root("systemctl", "--failed", "--no-pager").out)


if __name__ == "__main__":
    main(before)
