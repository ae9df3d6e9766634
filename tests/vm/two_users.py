"""What two users of one machine know of each other: nothing. What operators and auditors may."""

import errno
import os
import re
import signal
import socket
import stat

from guest import (
    AUDITORS,
    CONTROL,
    OPERATORS,
    Person,
    check,
    contains,
    eventually,
    groups,
    holds,
    install,
    jailed,
    join,
    main,
    owner,
    processes,
    records,
    root,
    same,
    service_log,
)

ALICE = BOB = OLGA = AUDE = None
SESSION = None
# What her command says, and where it listens.
SECRET = "a-secret-of-alice"
SERVER = f"""
import socket, sys, time
print('{SECRET}', flush=True)
server = socket.create_server(('127.0.0.1', 3000))
while True:
    client = server.accept()[0]
    client.sendall(b'{SECRET}')
    client.close()
"""
# Asks for what nobody has answered yet.
ASKING = "[network]\ndefault = 'ask'\n"


def before():
    global ALICE, BOB, OLGA, AUDE, SESSION
    install()
    join("olga", OPERATORS)
    join("aude", AUDITORS)
    ALICE, BOB, OLGA, AUDE = map(Person, ("alice", "bob", "olga", "aude"))
    ALICE.write("server.py", SERVER)
    profile = ALICE.write("asking.toml", ASKING)
    ask = "python3 -c \"import urllib.request as r; r.urlopen('http://example.com/')\" >/dev/null 2>&1 &"
    SESSION = ALICE.detach("--name", "private", "-p", profile, script=f"{ask} exec python3 server.py")
    eventually("her server runs", lambda: SECRET in ALICE.portcullis("logs", SESSION).out)
    eventually("her question waits", lambda: "example.com" in ALICE.portcullis("approvals").out)


def hidden(run):
    """Neither its id nor what it says is told, and not that it worked."""
    for part in (SESSION, SECRET, "private-", "server.py", "example.com"):
        holds(part not in run.out + run.err.replace(SESSION, ""), f"{part!r} in\n{run.out}{run.err}")
    return run


def runs():
    return SESSION in ALICE.sessions()


def of_the_session():
    """Every process of hers and for her: session, gate, audit writer, jail."""
    daemons = {pid for pid, line in processes().items() if line.split()[0].endswith("portcullisd")}
    found = (set(processes()) - daemons) | set(jailed("server.py"))
    holds(len(found) >= 4, f"{processes()}")
    return found


def as_user(person, action):
    """Does something in a child with the rights of that person; gives what it gave, as a word."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(os.getgrouplist(person.name, person.gid))
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
            try:
                said = str(action())
            except OSError as error:
                said = errno.errorcode[error.errno]
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


@check("her session is not in his lists")
def lists():
    for arguments in (["ps"], ["ps", "--all"], ["ps", "--json"], ["approvals"], ["top"]):
        hidden(BOB.portcullis(*arguments))
    same(BOB.sessions(), {})
    holds(runs(), "her session is gone")


@check("he cannot show, stop, attach to, forward, answer, count or read it, by name or id")
def verbs():
    for name in (SESSION, SESSION[:31], "private"):
        for arguments in (
            ["show", name],
            ["stop", name],
            ["stop", "--kill", name],
            ["attach", name],
            ["attach", "--read-only", name],
            ["forward", name, "0:3000"],
            ["approvals", "allow", name, "1"],
            ["counters", name],
            ["logs", name],
            ["audit", "show", name],
            ["policy", "reload", name],
        ):
            done = hidden(BOB.portcullis(*arguments))
            holds(done.status not in (0, 101), f"{arguments}: status {done.status}\n{done.out}{done.err}")
    BOB.portcullis("stop", "--all", "--kill")
    holds(runs(), "her session is gone")
    waiting = ALICE.portcullis("approvals").ok()
    contains(waiting, "example.com")


@check("she can do all of it")
def twin():
    contains(ALICE.portcullis("ps").ok(), "private")
    contains(ALICE.portcullis("show", "private").ok(), SESSION)
    contains(ALICE.portcullis("logs", "private").ok(), SECRET)
    ALICE.portcullis("counters", SESSION).ok()
    ALICE.portcullis("audit", "show", SESSION).ok()
    viewer = ALICE.terminal("attach", "--read-only", "private")
    viewer.shows(SECRET)
    viewer.types("q")
    same(viewer.status(), 0)
    forward = ALICE.start([ALICE.program, "forward", SESSION, "0:3000"], start_new_session=True)
    said = forward.stdout.readline() or forward.stderr.readline()
    port = int(re.search(r"127\.0\.0\.1:(\d+)", said)[1])

    def read():
        with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
            return stream.recv(100).decode()

    same(as_user(ALICE, read), SECRET, "through her own forward")
    holds(SECRET not in as_user(BOB, read), "he gets through her forward")
    forward.send_signal(signal.SIGINT)
    forward.wait(timeout=60)


@check("/proc tells him no more of its processes than that they are there")
def proc():
    for pid in of_the_session():
        for name in ("environ", "maps", "mem", "auxv", "io", "syscall"):
            path = f"/proc/{pid}/{name}"
            same((path, as_user(BOB, lambda path=path: open(path, "rb").read(1))), (path, "EACCES"))
        for name in ("cwd", "root", "exe", "ns/net", "ns/user", "ns/mnt"):
            path = f"/proc/{pid}/{name}"
            same((path, as_user(BOB, lambda path=path: os.readlink(path))), (path, "EACCES"))
        path = f"/proc/{pid}/fd"
        same((path, as_user(BOB, lambda path=path: os.listdir(path))), (path, "EACCES"))
        same((pid, as_user(BOB, lambda pid=pid: os.kill(pid, 0))), (pid, "EPERM"))


@check("she herself reaches neither into the gate nor into the audit writer")
def companions():
    others = [pid for pid in of_the_session() if owner(pid) != ALICE.uid]
    holds(len(others) >= 2, f"{others}")
    for pid in others:
        same((pid, as_user(ALICE, lambda pid=pid: os.kill(pid, signal.SIGKILL))), (pid, "EPERM"))
        for name in ("environ", "mem", "maps"):
            path = f"/proc/{pid}/{name}"
            same((path, as_user(ALICE, lambda path=path: open(path, "rb").read(1))), (path, "EACCES"))


@check("she cannot trace the session process nor enter its namespaces")
def trace():
    for pid in (pid for pid in processes() if owner(pid) == ALICE.uid):
        path = f"/proc/{pid}/mem"
        same((path, as_user(ALICE, lambda path=path: open(path, "rb").read(1))), (path, "EACCES"))
        done = ALICE.run("nsenter", f"--target={pid}", "--user", "--preserve-credentials", "true")
        holds(done.status != 0, f"nsenter --target={pid} --user works")


@check("of all sockets of Portcullis he reaches the control socket and the ledger's alone, which tell by who he is")
def sockets():
    def connect(path):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(path)
        return "connected"

    found = []
    for top in ("/run", "/var/lib/portcullis", "/var/log/portcullis", "/tmp", ALICE.home):
        for folder, _, names in os.walk(top):
            paths = (os.path.join(folder, name) for name in names)
            found += [path for path in paths if stat.S_ISSOCK(os.lstat(path).st_mode)]
    ours = [path for path in found if "portcullis" in path]
    holds(CONTROL in ours, f"{ours}")
    for path in ours:
        wanted = "connected" if path in (CONTROL, "/run/portcullis/ledger.sock") else "EACCES"
        same((path, as_user(BOB, lambda path=path: connect(path))), (path, wanted))
    with open("/proc/net/unix") as file:
        abstract = [line.split()[-1] for line in file if " @" in line]
    same([name for name in abstract if "portcullis" in name or SESSION in name], [])
    # Her server listens in the jail's network, not in the machine's.
    same(as_user(BOB, lambda: socket.create_connection(("127.0.0.1", 3000), timeout=10)), "ECONNREFUSED")


@check("no file of the service's is readable for him, and no log for her")
def files():
    # Whose session it is gets the log from portcullisd; auditors need not ask.
    for person in (ALICE, BOB, OLGA, AUDE):
        path = service_log(SESSION)
        read = as_user(person, lambda path=path: open(path).read())
        if person is AUDE:
            contains(read, SESSION)
        else:
            same(read, "EACCES")
        folders = ["/var/lib/portcullis"] if person is AUDE else ["/var/log/portcullis", "/var/lib/portcullis"]
        for folder in folders:
            same((folder, as_user(person, lambda folder=folder: os.listdir(folder))), (folder, "EACCES"))
    for folder, _, names in os.walk("/run/portcullis"):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and path != "/run/portcullis/lock":
                same((path, as_user(BOB, lambda path=path: open(path).read())), (path, "EACCES"))
    for group in groups(SESSION):
        for name in ("cgroup.procs", "cgroup.kill", "memory.max"):
            path = os.path.join(group, name)
            same((path, as_user(BOB, lambda path=path: open(path, "w").write("0"))), (path, "EACCES"))


@check("an auditor lists her session and reads its log, and can do nothing to it")
def auditor():
    same(AUDE.sessions("--all").get(SESSION, {}).get("user"), "alice")
    same(AUDE.sessions(), {}, "without --all")
    contains(AUDE.portcullis("audit", "show", SESSION).ok(), "server.py")
    AUDE.portcullis("audit", "verify", SESSION).ok()
    for arguments in (
        ["stop", SESSION],
        ["attach", SESSION],
        ["forward", SESSION, "0:3000"],
        ["approvals", "allow", SESSION, "1"],
    ):
        done = AUDE.portcullis(*arguments)
        holds(done.status not in (0, 101), f"{arguments}: status {done.status}\n{done.out}{done.err}")
    holds(runs(), "her session is gone")


@check("an operator does not type at her terminal nor reach her ports")
def operator_limits():
    done = OLGA.portcullis("attach", SESSION)
    holds(done.status not in (0, 101), f"attach: status {done.status}\n{done.out}{done.err}")
    done = OLGA.portcullis("forward", SESSION, "0:3000", seconds=30)
    holds(done.status not in (0, 101), f"forward: status {done.status}\n{done.out}{done.err}")
    holds(SECRET not in OLGA.portcullis("logs", SESSION).out, "an operator reads what her command prints")
    holds(OLGA.portcullis("audit", "show", SESSION).status != 0, "an operator reads the log")


@check("an operator sees her session, answers its question and stops it, and is on record with it")
def operator():
    same(OLGA.sessions("--all").get(SESSION, {}).get("user"), "alice")
    same(OLGA.sessions(), {}, "without --all")
    contains(OLGA.portcullis("show", SESSION).ok(), SESSION)
    OLGA.portcullis("approvals", "deny", SESSION, "1").ok()
    same(OLGA.portcullis("stop", SESSION).ok(), SESSION)
    eventually("it is over", lambda: not runs())
    log = records(service_log(SESSION))
    (answered,) = [one for one in log if one["event"] == "approval.answered"]
    contains(str(answered), "olga")
    same(log[-1]["event"], "session.ended")


@check("nothing is left")
def left():
    ALICE.stop_all()
    daemons = {pid for pid, line in processes().items() if line.split()[0].endswith("portcullisd")}
    eventually("only the daemon is left", lambda: set(processes()) <= daemons)
    same(groups(), [])
    root("/usr/bin/portcullis", "audit", "verify", cwd="/root").ok()


if __name__ == "__main__":
    main(before)
