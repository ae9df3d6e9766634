"""What the topics share: people who run things, sessions, and sentences that hold or do not.

A topic defines checks with @check("a sentence") and ends with main(). Checks run in the order of the file; one
that fails does not stop the next. A check that cannot run fails.
"""

import fcntl
import glob
import json
import os
import pty
import pwd
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import traceback
from dataclasses import dataclass

# How long anything may take on a translated processor, in seconds.
PATIENCE = 90
# The programs as they were built, outside of what the package installs.
STANDALONE = "/opt/portcullis/portcullis"
SERVICE = "/usr/bin/portcullis"
PACKAGE = "/host/portcullis.deb"
CONTROL = "/run/portcullis/control.sock"
OPERATORS = "portcullis-operators"
AUDITORS = "portcullis-auditors"
LOGS = "/var/log/portcullis"
LEDGER = f"{LOGS}/ledger/ledger.jsonl"
SETTINGS = "/etc/portcullis/audit.toml"
NOTARY = "portcullis-notary.service"
FORWARD = "portcullis-forward.service"

_checks = []


class Failed(Exception):
    """What a check found instead."""


def check(sentence):
    def add(function):
        _checks.append((sentence, function))
        return function

    return add


def main(before=None, status=0):
    """Runs the checks, after what all of them need. `status`: what to exit with when all is well."""
    print(f"1..{len(_checks)}", flush=True)
    broken = None
    if before:
        try:
            before()
        except Exception:
            broken = traceback.format_exc()
    failed = 0
    for number, (sentence, function) in enumerate(_checks, 1):
        begun, said = time.monotonic(), broken
        if not broken:
            try:
                function()
            except Failed as error:
                said = str(error)
            except Exception:
                said = traceback.format_exc()
        print(f"{'not ok' if said else 'ok'} {number} - {sentence} ({time.monotonic() - begun:.1f} s)")
        if said:
            failed += 1
            print("\n".join(f"    {line}" for line in said.splitlines()))
        sys.stdout.flush()
    sys.exit(status if status else min(failed, 1))


def boot():
    """How often this topic has had the machine booted again."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else 0


# === what is said of values ===


def same(actual, wanted, what=""):
    if actual != wanted:
        raise Failed(f"{what + ': ' if what else ''}\n   is {actual!r}\n  not {wanted!r}")


def holds(condition, what):
    if not condition:
        raise Failed(what() if callable(what) else what)


def contains(whole, part):
    holds(part in whole, f"{part!r} is not in\n{whole}")


def eventually(what, condition, seconds=PATIENCE):
    """Waits until it holds, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        holds(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.1)


# === people ===


@dataclass
class Run:
    """A program that has ended: a negative status is a signal's number."""

    status: int
    out: str
    err: str

    def ok(self):
        holds(self.status == 0, f"status {self.status}\n{self.out}{self.err}")
        return self.out.strip()

    def complaint(self):
        return (self.status, self.err.splitlines())


class Person:
    """Somebody with an account. What they start belongs to no login session of theirs; see `login`."""

    def __init__(self, name, portcullis=SERVICE):
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid, self.home = name, entry.pw_uid, entry.pw_gid, entry.pw_dir
        self.program = portcullis
        # Variables beside those that everybody has.
        self.more = {}
        self.work = f"{self.home}/work"
        if not os.path.isdir(self.work):
            os.mkdir(self.work)
            os.chown(self.work, self.uid, self.gid)

    def environment(self):
        usual = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": self.home, "USER": self.name, "LANG": "C.UTF-8"}
        return usual | self.more

    def options(self):
        # As login does: the groups are read anew each time.
        groups = os.getgrouplist(self.name, self.gid)
        options = {"cwd": self.work, "env": self.environment()}
        if self.uid != 0:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": groups}
        return options

    def start(self, argv, **more):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, **(self.options() | pipes | more))

    def run(self, *argv, given="", seconds=PATIENCE, **more):
        process = self.start(argv, start_new_session=True, **more)
        try:
            out, err = process.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise Failed(f"{' '.join(argv)}: not within {seconds} s\n{out}{err}") from None
        return Run(process.returncode, out, err)

    def portcullis(self, *arguments, **more):
        return self.run(self.program, *arguments, **more)

    def detach(self, *flags, script="sleep 1000"):
        """Starts a session that goes on, and gives its id."""
        run = self.portcullis("run", "-d", *flags, "--", "sh", "-c", script)
        same((run.status, run.err), (0, ""), run.out)
        return run.out.strip()

    def sessions(self, *flags):
        """What `ps` lists, by id."""
        lines = self.portcullis("ps", "--json", *flags).ok().splitlines()
        return {entry["session"]["session"]: entry["session"] for entry in map(json.loads, lines)}

    def stop_all(self):
        self.portcullis("stop", "--all", "--kill")

    def write(self, name, content, mode=0o644):
        """A file of theirs in their workspace."""
        path = os.path.join(self.work, name)
        with open(path, "w") as file:
            file.write(content)
        os.chmod(path, mode)
        os.chown(path, self.uid, self.gid)
        return path

    def login(self, *argv, seconds=PATIENCE):
        """Runs in a login session of their own, with their systemd beside it, as over SSH."""
        command = [
            *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--uid={self.name}"),
            *("-p", "PAMName=login", "-p", f"WorkingDirectory={self.work}"),
            *(f"--setenv={name}={value}" for name, value in self.environment().items()),
            *("--", *(argument.replace("$", "$$") for argument in argv)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        return Run(done.returncode, done.stdout, done.stderr)

    def terminal(self, *arguments):
        return Terminal(self, [self.program, *arguments])

    def events(self, kind, session=None):
        """The records of this kind in their own log, which is that of sessions without the service."""
        found = []
        for path in sorted(glob.glob(f"{self.home}/.local/state/portcullis/audit/*.jsonl")):
            found += [record for record in records(path) if record["event"] == kind]
        return [record for record in found if session in (None, record["session"])]


class Terminal:
    """A person's terminal with a program on it."""

    def __init__(self, person, argv):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.shown = ""
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        own = {"start_new_session": True, "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
        options = person.options()
        options["env"] = options["env"] | {"TERM": "xterm"}
        self.process = subprocess.Popen(argv, **(options | streams | own))
        os.close(slave)

    def types(self, keys):
        os.write(self.master, keys.encode())

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                return

    def shows(self, text, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            holds(time.monotonic() < deadline, f"{text!r} is not on the screen:\n{self.shown}")
            self.read(0.2)

    def status(self, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            holds(time.monotonic() < deadline, f"it does not end:\n{self.shown}")
            self.read(0.2)
        return self.process.returncode


# === the machine ===


def records(path):
    """The records of a log that are whole."""
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def text(path):
    with open(path) as file:
        return file.read()


def root(*argv, seconds=PATIENCE, **more):
    """Runs something as root, outside of all that is tested."""
    environment = {"env": os.environ | {"HOME": "/root"}}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False, **(environment | more))
    return Run(done.returncode, done.stdout, done.stderr)


def groups(session=""):
    """The control groups of a session that stand; of any session, without one."""
    return [path for path in walk("/sys/fs/cgroup") if is_group_of(os.path.basename(path), session)]


def walk(folder):
    for path, folders, _ in os.walk(folder):
        yield from (os.path.join(path, name) for name in folders)


def is_group_of(name, session):
    return re.fullmatch(f"(portcullis-)?{session or '[0-9a-f]{32}'}", name) is not None


def processes(part=""):
    """Processes of Portcullis: pid to command line, as far as it has this part. Zombies do not count, nor do the
    notary and what forwards: they are of no session, and as long as there is a host."""
    found = {}
    for path in glob.glob("/proc/[0-9]*"):
        try:
            line = text(f"{path}/cmdline").replace("\0", " ").strip()
            name = text(f"{path}/comm").strip()
            state = text(f"{path}/stat").rpartition(")")[2].split()[0]
            unit = os.path.basename(text(f"{path}/cgroup").strip())
        except OSError:
            continue
        if unit in (NOTARY, FORWARD):
            continue
        if state != "Z" and (name.startswith("portcullis") or "portcullis" in line.partition(" ")[0]) and part in line:
            found[int(os.path.basename(path))] = line
    return found


def jailed(mark):
    """Processes with this in their command line: a jail's command shows in the host's /proc."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            line = text(f"{path}/cmdline").split("\0")
        except OSError:
            continue
        if mark in line:
            found.append(int(os.path.basename(path)))
    return found


def owner(pid):
    """The real uid of a process, in our user namespace."""
    line = next(line for line in text(f"/proc/{pid}/status").splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def mode(path):
    """Owner, group and mode of a file, as `root:root 755`."""
    return root("stat", "--format=%U:%G %a", path).ok()


def programs():
    """The programs outside of the package, for everybody."""
    folder = os.path.dirname(STANDALONE)
    if not os.path.isdir(folder):
        shutil.copytree("/host/programs", folder)
        os.chmod(folder, 0o755)


def is_installed():
    return os.path.exists("/var/lib/dpkg/info/portcullis.list")


def install():
    """Installs the package, unless an earlier topic has, and waits for its socket."""
    holds(os.path.exists(PACKAGE), "there is no package to install: scripts/package made none")
    if not is_installed():
        done = root("dpkg", "-i", PACKAGE, seconds=300)
        holds(done.status == 0, f"dpkg -i: status {done.status}\n{done.out}{done.err}")
    eventually(f"{CONTROL} is there", lambda: os.path.exists(CONTROL))


def join(name, group):
    root("usermod", "--append", "--groups", group, name).ok()


def service_log(session):
    """The log of a session that the service keeps: those of all users but root."""
    found = glob.glob(f"{LOGS}/**/{session}.jsonl", recursive=True)
    same(len(found), 1, f"logs of {session} below {LOGS}")
    return found[0]


def shown(unit, name):
    """What systemd says of a unit."""
    return root("systemctl", "show", f"--property={name}", "--value", unit).ok()


def process_of(unit):
    """Its main process; 0: it has none."""
    return int(shown(unit, "MainPID"))


def daemon():
    """The process of portcullisd."""
    return process_of("portcullisd.service")


def ledger(event):
    """Its entries of this kind."""
    return [entry for entry in records(LEDGER) if entry["event"] == event]


def bound(*sessions):
    """Waits until the ledger has how these ended, and gives how many records each has."""
    def ends():
        heads = {entry["session"]: entry for entry in ledger("log.head") if entry["state"] == "ended"}
        return all(session in heads for session in sessions) and heads

    heads = eventually("their ends are bound", ends)
    return {session: heads[session]["records"] for session in sessions}


def journal(*wanted):
    """Entries of the journal, oldest first: dictionaries."""
    lines = root("journalctl", "--quiet", "--all", "--output=json", *wanted).ok().splitlines()
    return [json.loads(line) for line in lines]


def audited(more=""):
    """Forwards to the journal, anchors there and prunes, as an administrator has it done; `more` is in the settings."""
    with open(SETTINGS, "w") as file:
        file.write("[[anchor]]\nkind = 'journald'\n[[forward]]\nname = 'journal'\nkind = 'journald'\n")
        file.write("[retention.logs]\nage = '90d'\n" + more)
    root("systemctl", "enable", "--now", FORWARD, "portcullis-prune.timer").ok()
    root("systemctl", "restart", FORWARD).ok()
    eventually(f"{FORWARD} runs", lambda: shown(FORWARD, "ActiveState") == "active")
