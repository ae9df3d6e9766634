"""The package goes, while sessions run: nothing of it is left, and everything of its users."""

import glob
import os

from guest import (
    FORWARD,
    LOGS,
    SETTINGS,
    Person,
    audited,
    check,
    eventually,
    groups,
    holds,
    install,
    is_installed,
    jailed,
    main,
    processes,
    root,
    same,
    shown,
    text,
)

ALICE = None
PLACES = [
    "/usr/bin/portcullis",
    "/usr/lib/portcullis",
    "/usr/share/portcullis",
    "/run/portcullis-forward",
]
# What says that the socket is enabled stays as well, so that a new installation finds it so.
KEPT_UNTIL_PURGED = [
    "/etc/portcullis",
    "/etc/systemd/system/multi-user.target.wants/portcullis-forward.service",
    "/etc/systemd/system/sockets.target.wants/portcullisd.socket",
    "/etc/systemd/system/timers.target.wants/portcullis-prune.timer",
    "/run/portcullis",
    "/var/lib/portcullis",
    "/var/lib/portcullis-forward",
    "/var/lib/portcullis-notary",
    "/var/lib/systemd/timers/stamp-portcullis-prune.timer",
    LOGS,
]
BEFORE = None


def before():
    global ALICE, BEFORE
    install()
    ALICE = Person("alice")
    ALICE.write("work.txt", "hers\n")
    audited()
    ALICE.portcullis("run", "--standalone", "--", "true").ok()
    ALICE.detach("--limit", "memory=256M", script="sleep 4711")
    eventually("the command runs", lambda: jailed("4711"))
    BEFORE = hers()


def hers():
    """All files of hers with what is in them, but what the session that runs has there."""
    found = {}
    for folder, _, names in os.walk(ALICE.home):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and "/sessions/" not in path and "/run/" not in path:
                found[path] = text(path)
    return found


@check("removing it ends its sessions and takes its programs and units, and leaves settings and logs")
def removed():
    logs = glob.glob(f"{LOGS}/**/*.jsonl", recursive=True)
    holds(logs, "there are no logs")
    same([path for path in KEPT_UNTIL_PURGED if not os.path.lexists(path)], [], "the check is about what is there")
    done = root("dpkg", "--remove", "portcullis", seconds=300)
    same(done.status, 0, done.out + done.err)
    eventually("the jail is gone", lambda: not jailed("4711"))
    eventually("no process is left", lambda: not processes())
    eventually("no control group is left", lambda: not groups())
    same([path for path in PLACES if os.path.lexists(path)], [])
    same([path for path in logs if not os.path.exists(path)], [], "logs that are gone")
    holds(os.path.exists("/etc/portcullis/portcullis.toml"), "the settings are gone")
    holds(os.path.exists(SETTINGS), f"{SETTINGS} is gone")
    same((shown(FORWARD, "ActiveState"), root("systemctl", "--failed", "--plain", "--no-legend").out), ("inactive", ""))


@check("purging it leaves nothing of it")
def purged():
    # The administrator's own, which stays until they remove it.
    os.remove(SETTINGS)
    done = root("dpkg", "--purge", "portcullis", seconds=300)
    same(done.status, 0, done.out + done.err)
    holds(not is_installed(), "dpkg still knows it")
    same([path for path in PLACES + KEPT_UNTIL_PURGED if os.path.lexists(path)], [])
    listed = root("systemctl", "list-units", "--all", "--plain", "--no-legend", "portcullis*").ok()
    same(listed, "", "units")
    same(glob.glob("/sys/fs/cgroup/**/*portcullis*", recursive=True), [], "control groups")
    same(root("find", "/lib/systemd", "/usr/lib", "/etc", "-xdev", "-name", "*portcullis*").out.split(), [])


@check("the files of its users are as they were")
def users():
    same(hers(), BEFORE)


@check("it can be installed again")
def again():
    install()
    same(ALICE.portcullis("run", "--", "sh", "-c", "exit 7").complaint(), (7, []))
    done = root("dpkg", "--purge", "portcullis", seconds=300)
    same(done.status, 0, done.out + done.err)
    same([path for path in PLACES + KEPT_UNTIL_PURGED if os.path.lexists(path)], [])


if __name__ == "__main__":
    main(before)
