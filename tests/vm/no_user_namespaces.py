"""A machine that lets ordinary users make no user namespaces."""

from guest import Person, check, contains, groups, holds, install, main, root, same, text
from scene import FETCH, HOG, MEMORY, fetch, held, origin, to_origin

SYSCTL = "/proc/sys/kernel/unprivileged_userns_clone"
ROOT = ALICE = None


def before():
    global ROOT, ALICE
    install()
    ROOT, ALICE = Person("root"), Person("alice")
    ALICE.write("fetch.py", FETCH)
    ALICE.write("hog.py", HOG)
    forbid(True)


def forbid(really):
    with open(SYSCTL, "w") as file:
        file.write("0" if really else "1")


@check("they are forbidden")
def forbidden():
    same(text(SYSCTL), "0\n")
    holds(ALICE.run("unshare", "--user", "true").status != 0, "unshare --user works")


@check("standalone, nothing starts, and one line says what is forbidden")
def standalone():
    done = ALICE.portcullis("run", "--standalone", "--", "echo", "ran")
    same((done.status, done.out), (125, ""), done.err)
    contains(done.err, "namespace")
    # bubblewrap's own line, then ours with what to do.
    *_, last = done.err.splitlines()
    holds(last.startswith("portcullis: the jail did not start: "), done.err)
    contains(last, "kernel.unprivileged_userns_clone")
    same(len(done.err.splitlines()), 2, done.err)


@check("with the service everything starts")
def service():
    done = ALICE.portcullis("run", "--", "sh", "-c", "echo ran; id -u; exit 7")
    same((done.status, done.out, done.err), (7, f"ran\n{ALICE.uid}\n", ""))
    session = ALICE.detach()
    same(list(ALICE.sessions()), [session])
    same(ALICE.portcullis("stop", session).ok(), session)
    same(ROOT.portcullis("run", "--", "true").complaint(), (0, []))


@check("limits hold, and the gate lets through what is allowed")
def all_of_it():
    limited = [ALICE.program, "run", "--limit", "memory=64M", "--", "python3", "hog.py", "300"]
    same(held(ALICE.start(limited), lambda: None), ("-9\n", 0, [MEMORY]))
    port = origin()
    profile = ALICE.write("origin.toml", to_origin(port))
    for target, status in ((port, "200"), (port + 1, "403")):
        done = ALICE.portcullis("run", "-p", profile, "--", *fetch(target))
        same((done.status, done.out.split()[:1]), (0, [status]), done.err)


@check("programs that know no proxy are led to the gate")
def transparent():
    profile = ALICE.write("transparent.toml", "[network]\ntransparent = true\n")
    direct = ["python3", "fetch.py", "192.0.2.1", "80", "/x", "192.0.2.1"]
    done = ALICE.portcullis("run", "-p", profile, "--", *direct)
    same((done.status, done.out[:4]), (0, "403 "), done.err)


@check("where they are permitted again, standalone works again")
def permitted():
    forbid(False)
    same(ALICE.portcullis("run", "--standalone", "--", "true").complaint(), (0, []))
    same((ALICE.sessions(), groups()), ({}, []))


if __name__ == "__main__":
    try:
        main(before)
    finally:
        root("sysctl", "-q", "kernel.unprivileged_userns_clone=1")
