"""What becomes of the service's logs: the notary signs them, others are told of them, what is old goes.

The units as systemd runs them, with every setting that they have taken from themselves.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time

from guest import (
    AUDITORS,
    FORWARD,
    LEDGER,
    LOGS,
    NOTARY,
    PATIENCE,
    SETTINGS,
    Person,
    audited,
    bound,
    check,
    contains,
    eventually,
    holds,
    install,
    join,
    journal,
    ledger,
    main,
    mode,
    owner,
    process_of,
    processes,
    records,
    root,
    same,
    service_log,
    shown,
    text,
)

ALICE = BOB = AUDE = None
# The key as an auditor has noted it elsewhere, at the beginning.
KEY = None
PRUNE = "portcullis-prune.service"
METRICS = "/run/portcullis-forward/metrics.sock"
RECEIVED = "/var/tmp/received"
# What is told to whom.
ELSEWHERE = f"""
[[forward]]
name = "siem"
kind = "syslog"
address = "tcp://127.0.0.1:6514"
[metrics]
socket = "{METRICS}"
"""
RSYSLOG = f"""
global(workDirectory="/var/tmp" maxMessageSize="256k")
module(load="imtcp")
input(type="imtcp" port="6514" address="127.0.0.1")
template(name="whole" type="string" string="%pri% %app-name% %msgid% %structured-data% %msg%\\n")
action(type="omfile" file="{RECEIVED}" template="whole")
"""
# A journal that drops what comes quickly, as that of a host does; more than this machine needs otherwise.
STINGY = "[Journal]\nRateLimitIntervalSec=1h\nRateLimitBurst=5\n"
# Sessions that have ended, by whose they were; and those that the checks of retention are about.
POOL, SESSIONS = {}, {}


def before():
    global ALICE, BOB, AUDE, KEY
    install()
    join("aude", AUDITORS)
    ALICE, BOB, AUDE = map(Person, ("alice", "bob", "aude"))
    for person in (ALICE, BOB):
        session(person)
    KEY = AUDE.portcullis("audit", "key", "show", "--dir", LOGS).ok()


def session(person):
    """One that has ended; its id."""
    known = set(logs(person))
    same(person.portcullis("run", "--", "true").complaint(), (0, []))
    (new,) = set(logs(person)) - known
    POOL.setdefault(person.name, []).append(new)
    return new


def earlier(person):
    """One of an earlier check, as starting another takes long here."""
    pool = POOL.setdefault(person.name, [])
    return pool.pop(0) if pool else session(person)


def logs(person):
    """The sessions of theirs that the service has logs of."""
    folder = f"{LOGS}/{person.uid}"
    if not os.path.isdir(folder):
        return []
    return [name.partition(".")[0] for name in os.listdir(folder) if ".jsonl" in name]


def verify(*arguments):
    """By an auditor, against the key that was noted."""
    return AUDE.portcullis("audit", "verify", "--dir", LOGS, "--key", KEY, *arguments)


def line_of(session, run):
    (line,) = [line for line in run.out.splitlines() if session in line]
    return line


def forwarded(event, *wanted):
    """What the journal has from the process that forwards, and from nobody who only says to be it."""
    return journal(f"_SYSTEMD_UNIT={FORWARD}", f"PORTCULLIS_EVENT={event}", *wanted)


def anchors():
    """A file of the checkpoints that the journal has, for the auditor, once it has all of them."""
    last = ledger("checkpoint")[-1]["hash"]
    told = eventually(
        "the last checkpoint is in the journal",
        lambda: [one["MESSAGE"] for one in forwarded("checkpoint") if one["PORTCULLIS_HASH"] == last]
        and [one["MESSAGE"] for one in forwarded("checkpoint")],
    )
    return AUDE.write("anchors", "".join(f"{line}\n" for line in told))


def refused():
    """System calls that a unit's filter has refused, in this boot: lines of the kernel's. Not clone3(2), whose
    arguments no filter can see: RestrictNamespaces= says that there is none, and clone(2) is taken."""
    lines = root("journalctl", "--quiet", "--boot", "--output=cat").ok().splitlines()
    told = [line for line in lines if line.startswith("SECCOMP") or "type=1326" in line]
    return [line for line in told if " syscall=435 " not in line]


@check("the notary runs under a user of its own without a right, and its key is nobody else's")
def notary():
    pid = process_of(NOTARY)
    holds(pid > 0, f"{NOTARY} does not run")
    same(owner(pid), int(root("id", "--user", "portcullis-notary").ok()))
    status = dict(line.split(":\t", 1) for line in text(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    rights = {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    same((rights, status["NoNewPrivs"], status["Seccomp"]), ({0}, "1", "2"))
    same(mode("/var/lib/portcullis-notary/key"), "portcullis-notary:portcullis-notary 600")
    same(mode(LEDGER), f"portcullis-notary:{AUDITORS} 640")
    holds(AUDE.run("cat", "/var/lib/portcullis-notary/key").status != 0, "an auditor reads the key")
    holds(ALICE.run("cat", LEDGER).status != 0, "a user reads the ledger")


@check("sessions of two users are bound, and an auditor verifies them by a key noted elsewhere")
def verified():
    sessions = [session(ALICE), session(BOB)]
    heads = bound(*sessions)
    same(heads, {one: len(records(service_log(one))) for one in sessions})
    same({entry["uid"] for entry in ledger("log.head") if entry["session"] in sessions}, {ALICE.uid, BOB.uid})
    done = verify()
    same((done.status, done.err), (0, ""), done.out)
    for one in sessions:
        contains(line_of(one, done), "complete")
        holds("not in the ledger" not in line_of(one, done), line_of(one, done))
    contains(done.out, f"with key {KEY}")
    done = AUDE.portcullis("audit", "verify", "--dir", LOGS, "--key", "0" * 64)
    same(done.status, 1)
    contains(done.out, "BROKEN    ledger  is signed with other keys than this one")


@check("a user who verifies is told what the ledger has of their own logs, by a process that can read no key")
def asked():
    hers, his = session(ALICE), session(BOB)
    bound(hers, his)
    same(shown("portcullis-ledger.socket", "ActiveState"), "active")
    same(mode("/run/portcullis/ledger.sock"), "root:root 666")
    done = ALICE.portcullis("audit", "verify", "--key", KEY)
    same((done.status, done.err), (0, ""), done.out)
    contains(done.out, f"ledger    the one of this host holds, signed with key {KEY}")
    contains(line_of(hers, done), "complete")
    holds(his not in done.out, done.out)
    same(ALICE.portcullis("audit", "verify", "--key", "0" * 64).status, 1)
    path = service_log(hers)
    whole = text(path)
    os.truncate(path, whole.rstrip("\n").rfind("\n") + 1)
    done = ALICE.portcullis("audit", "verify")
    same(done.status, 1)
    contains(line_of(hers, done), "is missing: the log ends before it")
    put_back(path, whole)
    same(ALICE.portcullis("audit", "verify").status, 0)
    eventually("nobody answers any more", lambda: not processes("--answer"))


@check("records come to journal and syslog whole, in order and with their fields, more than a journal takes of others")
def elsewhere():
    with open("/var/tmp/rsyslog.conf", "w") as file:
        file.write(RSYSLOG)
    os.makedirs("/run/systemd/journald.conf.d", exist_ok=True)
    with open("/run/systemd/journald.conf.d/zz-stingy.conf", "w") as file:
        file.write(STINGY)
    receiver = subprocess.Popen(["rsyslogd", "-n", "-f", "/var/tmp/rsyslog.conf", "-i", "/var/tmp/rsyslog.pid"])
    try:
        root("systemctl", "restart", "systemd-journald.service").ok()
        root("systemd-run", "--quiet", "--wait", "--collect", "--unit=noisy", "seq", "200").ok()
        audited(ELSEWHERE)
        one = session(ALICE)
        lines = text(service_log(one)).splitlines()
        found = eventually(
            "the end is in the journal",
            lambda: forwarded("session.ended", f"PORTCULLIS_SESSION={one}")
            and journal(f"_SYSTEMD_UNIT={FORWARD}", f"PORTCULLIS_SESSION={one}"),
        )
        same([entry["MESSAGE"] for entry in found], lines)
        want = {
            "PORTCULLIS_USER": "alice",
            "PORTCULLIS_SEQ": "1",
            "PORTCULLIS_EVENT": records(service_log(one))[0]["event"],
            "PORTCULLIS_HASH": records(service_log(one))[0]["hash"],
            "SYSLOG_IDENTIFIER": "portcullis",
            "PRIORITY": "6",
            "_UID": root("id", "--user", "portcullis-forward").ok(),
        }
        same({name: found[0].get(name) for name in want}, want)

        eventually("rsyslog has the end", lambda: len(received(one)) >= len(lines))
        same([line.partition("] ")[2].strip() for line in received(one)], lines)
        contains(received(one)[-1], '110 portcullis session.ended [portcullis@32473 session="')
        # All that stands in logs, of those before it was enabled as well.
        whole = {line for path in every_log() for line in text(path).splitlines()}
        eventually(
            "the journal has every record",
            lambda: {entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={FORWARD}")} >= whole,
        )
        # The twin: of others it has dropped most.
        noisy = len(journal("_SYSTEMD_UNIT=noisy.service", "_COMM=seq"))
        holds(noisy < 200, f"{noisy} lines of 200: the journal drops nothing")
        number = "portcullis_sink_up{sink=\"siem\"} 1"
        eventually("its numbers say so", lambda: number in metrics())
    finally:
        os.remove("/run/systemd/journald.conf.d/zz-stingy.conf")
        root("systemctl", "restart", "systemd-journald.service").ok()
        receiver.terminate()
        receiver.wait(PATIENCE)


def received(session):
    """What rsyslog has written of it."""
    lines = text(RECEIVED).splitlines() if os.path.exists(RECEIVED) else []
    return [line for line in lines if f'session="{session}"' in line]


def every_log():
    return [
        os.path.join(LOGS, str(person.uid), name)
        for person in (ALICE, BOB)
        for name in os.listdir(f"{LOGS}/{person.uid}")
        if name.endswith(".jsonl")
    ]


def metrics():
    """What a Prometheus is told."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(METRICS)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = client
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    same(answer.status, 200, body)
    return body


@check("numbers are told on a socket that its own group alone reaches")
def numbers():
    same(mode(METRICS), "portcullis-forward:portcullis-forward 660")
    ended = 'portcullis_records_total{kind="session.ended"}'
    before = counted(ended)
    session(BOB)
    eventually("a session more has ended", lambda: counted(ended) == before + 1)
    eventually("the checkpoint is young", lambda: 0 <= counted("portcullis_checkpoint_age_seconds") < 60)
    same(ALICE.run("python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).connect('{METRICS}')").status, 1)


def counted(wanted):
    for line in metrics().splitlines():
        name, _, number = line.rpartition(" ")
        if name == wanted:
            return float(number)
    return 0


@check("checkpoints are in the journal, and by them an auditor sees that the ledger's own tail is gone")
def anchored():
    kept = anchors()
    done = verify("--anchor", kept)
    same((done.status, done.err), (0, ""), done.out)
    count = len(text(kept).splitlines())
    contains(done.out, "kept elsewhere stand" if count > 1 else "kept elsewhere stands")
    # Of a copy: the notary has the other one open.
    copy = f"{AUDE.home}/copy"
    shutil.rmtree(copy, ignore_errors=True)
    AUDE.run("cp", "-r", LOGS, copy).ok()
    entries = text(f"{copy}/ledger/ledger.jsonl").splitlines(keepends=True)
    cut = next(at for at in range(len(entries) - 1, -1, -1) if '"checkpoint"' not in entries[at])
    with open(f"{copy}/ledger/ledger.jsonl", "w") as file:
        file.writelines(entries[:cut])
    without = ["audit", "verify", "--dir", copy, "--key", KEY]
    same(AUDE.portcullis(*without).status, 0, "without what is kept elsewhere nobody sees it")
    done = AUDE.portcullis(*without, "--anchor", kept)
    same(done.status, 1)
    contains(done.out, f"is not in the ledger, which ends at entry {cut}: the ledger was cut off")
    shutil.rmtree(copy)


@check("a log whose last record is gone is named, with that record")
def cut_off():
    one = session(ALICE)
    count = bound(one)[one]
    path = service_log(one)
    whole = text(path)
    os.truncate(path, whole.rstrip("\n").rfind("\n") + 1)
    done = verify()
    same(done.status, 1)
    same([line for line in done.out.splitlines() if "BROKEN" in line], [line_of(one, done)])
    contains(line_of(one, done), f"record {count} is missing: the log ends before it")
    put_back(path, whole)
    same(verify().status, 0)


def put_back(path, whole):
    """As it was, with its owner and mode."""
    with open(path, "r+") as file:
        file.write(whole)
        file.truncate()


@check("the notary is killed, started again, and goes on where it was, with a session that ran meanwhile")
def killed():
    one = ALICE.detach(script="sleep 4711")
    old = process_of(NOTARY)
    os.kill(old, signal.SIGKILL)
    two = session(BOB)
    eventually("another notary runs", lambda: process_of(NOTARY) not in (0, old))
    ALICE.portcullis("stop", "--kill", one).ok()
    heads = bound(one, two)
    same(heads[one], len(records(service_log(one))))
    same(verify("--anchor", anchors()).status, 0)


@check("another key signs when root says so, and the key that was noted still tells who signs")
def rotated():
    new = root("portcullis", "audit", "key", "rotate", "--dir", LOGS).ok()
    holds(new != KEY, "it is the same key")
    same(AUDE.portcullis("audit", "key", "show", "--dir", LOGS).ok(), new)
    same(mode("/var/lib/portcullis-notary/key"), "portcullis-notary:portcullis-notary 600")
    bound(session(ALICE))
    done = verify()
    same((done.status, done.err), (0, ""), done.out)
    contains(done.out, f"with key {new}")
    root("systemctl", "restart", NOTARY).ok()
    bound(session(BOB))
    same(verify().status, 0)


@check("a key that the service manager keeps signs for the notary, and for what prunes")
def given():
    drops = [f"/run/systemd/system/{unit}.d" for unit in (NOTARY, PRUNE)]
    own, kept = "/var/lib/portcullis-notary/key", "/var/tmp/audit-key"
    shutil.copy(own, kept)
    os.chmod(kept, 0o400)
    os.rename(own, f"{own}.away")
    try:
        for folder in drops:
            os.makedirs(folder)
            with open(f"{folder}/key.conf", "w") as file:
                file.write(f"[Service]\nLoadCredential=audit-key:{kept}\n")
        root("systemctl", "daemon-reload").ok()
        root("systemctl", "restart", NOTARY).ok()
        bound(session(ALICE))
        one = earlier(ALICE)
        age(service_log(one), 100)
        root("systemctl", "start", PRUNE).ok()
        same([entry["session"] for entry in ledger("log.pruned")], [one])
        holds(not os.path.exists(own), "another key was made")
    finally:
        for folder in drops:
            shutil.rmtree(folder, ignore_errors=True)
        os.rename(f"{own}.away", own)
        os.remove(kept)
        root("systemctl", "daemon-reload").ok()
        root("systemctl", "restart", NOTARY).ok()
    bound(session(BOB))
    same(verify().status, 0)


@check("what is older than is kept goes and is on record, and what is held or broken stays")
def pruned():
    old = {"gone": earlier(ALICE), "held": earlier(BOB), "broken": earlier(ALICE)}
    packed, young = earlier(BOB), earlier(ALICE)
    bound(*old.values(), packed, young)
    SESSIONS.update(old, packed=packed, young=young)
    paths = {name: service_log(one) for name, one in SESSIONS.items()}
    whole = text(paths["broken"])
    os.truncate(paths["broken"], whole.rstrip("\n").rfind("\n") + 1)
    for name, days in (("gone", 100), ("held", 100), ("broken", 100), ("packed", 2)):
        age(paths[name], days)
    root("portcullis", "audit", "hold", "--dir", LOGS, old["held"], "--reason", "case 7").ok()
    same(root("portcullis", "audit", "prune", "--dir", LOGS, "--dry-run").status, 1)
    same([os.path.exists(path) for path in paths.values()], [True] * 5)
    same(shown("portcullis-prune.timer", "ActiveState"), "active")

    # It fails for what is evidence, and does the rest.
    holds(root("systemctl", "start", PRUNE).status != 0, "it does not tell of what is broken")
    same((shown(PRUNE, "Result"), shown(PRUNE, "ExecMainStatus")), ("exit-code", "1"))
    root("systemctl", "reset-failed", PRUNE).ok()
    there = {name for name, path in paths.items() if os.path.exists(path)}
    same(there, {"held", "broken", "young"})
    same(mode(f"{paths['packed']}.zst"), f"portcullis-audit:{AUDITORS} 640")
    (stone,) = [entry for entry in ledger("log.pruned") if entry["session"] == old["gone"]]
    same((stone["uid"], stone["first"], stone["why"]), (ALICE.uid, 1, "age"))
    holds(ledger("checkpoint")[-1]["seq"] > stone["seq"], "it is not signed")
    told = [entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={PRUNE}")]
    contains("\n".join(told), f"removed   {paths['gone']}, ")
    contains("\n".join(told), f"BROKEN    {old['broken']}  ")

    put_back(paths["broken"], whole)
    done = verify("--anchor", anchors())
    same((done.status, done.err), (0, ""), done.out)
    contains(done.out, f"pruned    {len(ledger('log.pruned'))} log")
    contains(line_of(packed, done), "complete")
    contains(BOB.portcullis("audit", "show", packed).ok(), "chain      complete")


def age(path, days):
    then = time.time() - days * 86400
    os.utime(path, (then, then))


@check("what is held no more goes with the next turn, which the timer gives")
def released():
    root("portcullis", "audit", "release", "--dir", LOGS, SESSIONS["held"], "--reason", "case closed").ok()
    age(service_log(SESSIONS["broken"]), 100)
    turn = "/run/systemd/system/portcullis-prune.timer.d"
    os.makedirs(turn)
    with open(f"{turn}/now.conf", "w") as file:
        file.write("[Timer]\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=1s\n")
    try:
        root("systemctl", "daemon-reload").ok()
        root("systemctl", "restart", "portcullis-prune.timer").ok()
        gone = {SESSIONS[name] for name in ("gone", "held", "broken")}
        eventually("they are gone", lambda: not gone & set(logs(ALICE) + logs(BOB)))
        eventually("it has ended", lambda: shown(PRUNE, "ActiveState") == "inactive")
    finally:
        shutil.rmtree(turn)
        root("systemctl", "daemon-reload").ok()
        root("systemctl", "restart", "portcullis-prune.timer").ok()
    same(shown(PRUNE, "Result"), "success")
    holds({entry["session"] for entry in ledger("log.pruned")} >= gone, "the ledger does not say so")
    done = verify("--anchor", anchors())
    same((done.status, done.err), (0, ""), done.out)
    contains(done.out, f"pruned    {len(ledger('log.pruned'))} logs as a whole, as the ledger says")


@check("settings that are wrong are told once; nothing is removed by them and nothing is tried again")
def wrong():
    with open(SETTINGS, "a") as file:
        file.write("[retain]\n")
    root("systemctl", "restart", FORWARD)
    eventually("it has given up", lambda: shown(FORWARD, "ActiveState") == "failed")
    same((shown(FORWARD, "ExecMainStatus"), shown(FORWARD, "NRestarts")), ("78", "0"))
    holds(root("systemctl", "start", PRUNE).status != 0, "it goes by other rules")
    same(shown(PRUNE, "ExecMainStatus"), "78")
    for unit in (FORWARD, PRUNE):
        told = [entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={unit}") if SETTINGS in entry["MESSAGE"]]
        contains("\n".join(told), "unknown field `retain`")
    root("systemctl", "reset-failed", FORWARD, PRUNE).ok()
    audited()


@check("none of the units has failed, none has warned, and of what they do nothing is forbidden to them")
def quiet():
    same(root("systemctl", "--failed", "--plain", "--no-legend").out, "")
    # The notary says nothing at all when all is well.
    said = [entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={NOTARY}", "SYSLOG_IDENTIFIER=portcullis-notary")]
    same(said, [])
    same([line for line in refused() if "/usr/lib/portcullis/" in line], [])
    # The twin: what a filter refuses is told.
    run = ["systemd-run", "--quiet", "--wait", "--collect", "-p", "SystemCallFilter=~chroot"]
    root(*run, "-p", "SystemCallErrorNumber=EPERM", "chroot", "/", "true")
    eventually("the refusal is told", lambda: [line for line in refused() if "/usr/sbin/chroot" in line])


if __name__ == "__main__":
    main(before)
