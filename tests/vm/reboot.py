"""The machine goes down with sessions on it, in order and by losing its power; the next boot knows of none."""

import json
import os

from guest import (
    FORWARD,
    LOGS,
    NOTARY,
    Person,
    audited,
    boot,
    check,
    contains,
    eventually,
    groups,
    holds,
    install,
    jailed,
    journal,
    ledger,
    main,
    process_of,
    processes,
    records,
    root,
    same,
    service_log,
)

REBOOT, CRASH = 90, 91
NOTE = "/var/tmp/reboot.json"
ALICE = None


def before():
    global ALICE
    install()
    ALICE = Person("alice")
    if boot() == 0:
        audited()


def start():
    """Sessions that the machine goes down with; the next boot gets to know which."""
    sessions = [
        ALICE.detach("--name", "nightly", script="sleep 4711"),
        ALICE.detach("--limit", "memory=256M", script="sleep 4711"),
    ]
    eventually("the commands run", lambda: len(jailed("4711")) == 2)
    with open(NOTE, "w") as file:
        json.dump(sessions, file)


def sessions():
    with open(NOTE) as file:
        return json.load(file)


def none_is_left():
    same(root("systemctl", "is-active", "portcullisd.socket").out, "active\n")
    same((ALICE.sessions(), jailed("4711"), groups()), ({}, [], []))
    for folder in ("/run/portcullis", "/var/lib/portcullis", ALICE.home):
        for path, folders, files in os.walk(folder):
            for name in folders + files:
                stale = [one for one in sessions() if one in name and not name.endswith((".jsonl", ".log"))]
                holds(not stale, os.path.join(path, name))
    daemons = {pid for pid, line in processes().items() if line.split()[0].endswith("portcullisd")}
    same(set(processes()) - daemons, set())


def told(session):
    """The records of a session that the journal has, once it has all."""
    want = [json.dumps(record) for record in records(service_log(session))]

    def have():
        entries = journal(f"_SYSTEMD_UNIT={FORWARD}", f"PORTCULLIS_SESSION={session}")
        found = [json.dumps(json.loads(entry["MESSAGE"])) for entry in entries]
        return set(found) >= set(want) and found

    return want, eventually("the journal has the session", have)


def ledger_holds():
    """By the checkpoints that the journal has from before."""
    kept = journal(f"_SYSTEMD_UNIT={FORWARD}", "PORTCULLIS_EVENT=checkpoint")
    with open("/var/tmp/anchors", "w") as file:
        file.writelines(entry["MESSAGE"] + "\n" for entry in kept)
    done = root("/usr/bin/portcullis", "audit", "verify", "--dir", LOGS, "--anchor", "/var/tmp/anchors", cwd="/root")
    same((done.status, done.err), (0, ""), done.out)
    contains(done.out, "kept elsewhere stand")


def as_before():
    """What was there can be used again, by name as well."""
    session = ALICE.detach("--name", "nightly")
    same(list(ALICE.sessions()), [session])
    same(ALICE.portcullis("stop", "nightly").ok(), session)
    contains(root("/usr/bin/portcullis", "audit", "verify", session, cwd="/root").ok(), "complete")


if boot() == 0:

    @check("sessions run when the machine goes down in order")
    def running():
        start()


if boot() == 1:

    @check("the ledger had the ends of the sessions before the machine was down")
    def bound_before():
        same(process_of(NOTARY), 0, "the notary of this boot")
        heads = {entry["session"]: entry["state"] for entry in ledger("log.head")}
        same([heads.get(session) for session in sessions()], ["ended", "ended"])

    @check("after a boot in order no session is left, and each log has its end")
    def in_order():
        none_is_left()
        for session in sessions():
            same(records(service_log(session))[-1]["event"], "session.ended")
            contains(root("/usr/bin/portcullis", "audit", "verify", session, cwd="/root").ok(), "complete")

    @check("the ledger goes on, and so does what is forwarded, without a record twice")
    def goes_on():
        eventually("the notary runs", lambda: process_of(NOTARY) != 0)
        ledger_holds()
        for session in sessions():
            want, found = told(session)
            same(found, want)

    @check("sessions start again, and run when the machine loses its power")
    def again():
        as_before()
        start()


if boot() == 2:

    @check("after a loss of power no session is left, and each log says that it has no end")
    def power():
        none_is_left()
        for session in sessions():
            done = root("/usr/bin/portcullis", "audit", "verify", session, cwd="/root")
            contains(done.out, "open")
            same(done.status, 0, done.out + done.err)

    @check("the ledger goes on after it with what stands in these logs, and so does what is forwarded")
    def bound_open():
        for session in sessions():
            count = len(records(service_log(session)))
            head = {"session": session, "records": count, "state": "open"}.items()
            eventually("it is bound", lambda head=head: any(head <= entry.items() for entry in ledger("log.head")))
            told(session)
        ledger_holds()

    @check("sessions start again after it")
    def once_more():
        as_before()


if __name__ == "__main__":
    main(before, {0: REBOOT, 1: CRASH}.get(boot(), 0))
