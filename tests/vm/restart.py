"""portcullisd is restarted, stopped, killed; the sessions know nothing of it."""

import os
import signal

from guest import (
    Person,
    check,
    contains,
    daemon,
    eventually,
    groups,
    holds,
    install,
    jailed,
    main,
    owner,
    processes,
    records,
    root,
    same,
    service_log,
)
from scene import FETCH, fetch, origin, to_origin

ALICE = BOB = None
PORT = None
# Does what each line of its input says, in the shell.
LOOP = "while read -r line; do eval \"$line\"; done"


class Scene:
    """Detached sessions of two users, and one that a user waits for."""

    def __init__(self):
        # Of a check that failed.
        ALICE.stop_all()
        BOB.stop_all()
        self.alice = ALICE.detach("--name", "alices", "--limit", "memory=256M", script="sleep 4711")
        self.bob = BOB.detach("--name", "bobs", script="sleep 4712")
        profile = ALICE.write("origin.toml", to_origin(PORT))
        argv = [ALICE.program, "run", "--name", "waited", "-p", profile, "--", "sh", "-c", LOOP]
        self.waited = ALICE.start(argv)
        self.says("echo ready", "ready")
        self.command = eventually("the commands run", lambda: jailed("4711") and jailed("4712"))
        self.pids = sorted(jailed("4711") + jailed("4712"))
        self.listed = set(ALICE.sessions())
        same(len(self.listed), 2)

    def says(self, line, wanted):
        self.waited.stdin.write(line + "\n")
        self.waited.stdin.flush()
        same(self.waited.stdout.readline().strip(), wanted, line)

    def goes_on(self):
        """Listed as before, the same processes, the same streams, the same way out, and one more can start."""
        eventually("the sessions are listed", lambda: set(ALICE.sessions("--all")) == self.listed)
        same(list(BOB.sessions()), [self.bob])
        same(sorted(jailed("4711") + jailed("4712")), self.pids)
        self.says("echo again", "again")
        self.says(" ".join(fetch(PORT)), "200 origin /x")
        self.says(" ".join(fetch(PORT + 1)) + " | cut -c1-3", "403")
        contains(ALICE.portcullis("show", "alices").ok(), self.alice)
        same(ALICE.portcullis("run", "--", "sh", "-c", "exit 7").complaint(), (7, []))

    def ends(self):
        """Each as it should, with a log that is whole."""
        same(ALICE.portcullis("stop", "alices").ok(), self.alice)
        same(BOB.portcullis("stop", self.bob).ok(), self.bob)
        out, err = self.waited.communicate("exit 9\n", timeout=90)
        same((self.waited.returncode, out), (9, ""), err)
        eventually("they are gone", lambda: not ALICE.sessions() and not BOB.sessions())
        same(jailed("4711") + jailed("4712"), [])
        for session in self.listed | {self.bob}:
            same(records(service_log(session))[-1]["event"], "session.ended")
            eventually(f"no control group of {session} is left", lambda session=session: not groups(session))
        root("/usr/bin/portcullis", "audit", "verify", *self.listed, self.bob, cwd="/root").ok()


def before():
    global ALICE, BOB, PORT
    install()
    ALICE, BOB, PORT = Person("alice"), Person("bob"), origin()
    ALICE.write("fetch.py", FETCH)
    ALICE.portcullis("run", "--", "true").ok()


def another(old):
    return eventually("another portcullisd runs", lambda: daemon() not in (0, old) and daemon())


@check("sessions go on through a restart, are listed after it, and are stopped")
def restarted():
    scene, old = Scene(), daemon()
    root("systemctl", "restart", "portcullisd.service").ok()
    another(old)
    scene.goes_on()
    scene.ends()


@check("sessions go on when portcullisd is killed, which is started again")
def killed():
    scene, old = Scene(), daemon()
    os.kill(old, signal.SIGKILL)
    another(old)
    scene.goes_on()
    scene.ends()


@check("sessions go on while there is no portcullisd, and the next launch brings it back")
def stopped():
    scene, old = Scene(), daemon()
    root("systemctl", "stop", "portcullisd.service").ok()
    same(daemon(), 0)
    scene.says("echo alone", "alone")
    scene.says(" ".join(fetch(PORT)), "200 origin /x")
    same(set(ALICE.sessions()), scene.listed, "without it")
    same(ALICE.portcullis("run", "--", "true").complaint(), (0, []))
    another(old)
    scene.goes_on()
    scene.ends()


@check("what ended while there was no portcullisd is not listed by the next one")
def ended_meanwhile():
    scene = Scene()
    root("systemctl", "stop", "portcullisd.service").ok()
    out, err = scene.waited.communicate("exit 9\n", timeout=90)
    same((scene.waited.returncode, out), (9, ""), err)
    eventually("it is not listed", lambda: list(ALICE.sessions("--all")) == [scene.alice])
    same(ALICE.portcullis("stop", "alices").ok(), scene.alice)
    same(BOB.portcullis("stop", "bobs").ok(), scene.bob)
    eventually("no control groups are left", lambda: not groups())


@check("a gate that is killed is replaced, by a portcullisd that has been restarted as well")
def gate():
    scene, old = Scene(), daemon()
    for again in (False, True):
        if again:
            root("systemctl", "restart", "portcullisd.service").ok()
            another(old)
        gates = [pid for pid, line in processes().items() if line.split()[0].endswith("portcullis-gate")]
        same(len(gates), 3)
        for pid in gates:
            os.kill(pid, signal.SIGKILL)

        def replaced(gates=gates):
            now = [pid for pid, line in processes().items() if line.split()[0].endswith("portcullis-gate")]
            return len(now) == 3 and not set(now) & set(gates)

        eventually("there are other gates", replaced)
        scene.goes_on()
    scene.ends()


@check("sessions outlive many deaths in a row")
def many():
    scene = Scene()
    for number in range(6):
        old = daemon()
        if number % 2:
            root("systemctl", "restart", "portcullisd.service").ok()
        else:
            os.kill(old, signal.SIGKILL)
        another(old)
    scene.goes_on()
    scene.ends()


@check("nothing is left")
def left():
    ALICE.stop_all()
    BOB.stop_all()
    eventually("only the daemon is left", lambda: set(processes()) <= {daemon()})
    same(groups(), [])
    same(owner(daemon()), 0)
    holds(root("systemctl", "is-failed", "portcullisd.service").out.strip() != "failed", "the unit has failed")


if __name__ == "__main__":
    main(before)
