"""Runs the topics in the guest, as root, and turns the machine off.

A topic is a program beside this file that prints TAP lines (https://testanything.org); the order is below. One
that ends with REBOOT is started again after a boot, with the number of that boot as its argument. The status
goes to /results/status, the journal beside it. Whatever a topic leaves undone is a failure: no plan, another
number of checks than planned, a time-out.
"""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = "/results"
STATE = f"{RESULTS}/state.json"
# A topic's exit status that asks for another boot; after it, whether the machine goes down in order.
REBOOT, CRASH = 90, 91
# No topic takes longer, in seconds.
TOPIC_LIMIT = 600
# The order matters: what runs standalone needs a machine without the package, and purging ends it.
TOPICS = ["standalone", "install", "two_users", "no_user_namespaces", "restart", "audit", "upgrade", "reboot", "purge"]


def main():
    state = read_state()
    left = TOPIC_LIMIT * 2
    try:
        left = int(text("/host/limit")) - (time.time() - state["begun"])
    except OSError:
        pass
    watchdog = threading.Timer(max(left, 1), lambda: end(state, "the suite takes too long"))
    watchdog.daemon = True
    watchdog.start()
    while state["topics"]:
        topic = state["topics"][0]
        status = run(state, topic)
        if status in (REBOOT, CRASH):
            state["boot"] += 1
            boot_again(state, status)
            return
        state["boot"] = 0
        state["topics"].pop(0)
    end(state)


def read_state():
    try:
        return json.loads(text(STATE))
    except OSError:
        pass
    wanted = text("/host/topic").strip()
    topics = [topic for topic in TOPICS if wanted in topic]
    programs = {os.path.basename(path)[:-3] for path in glob.glob(f"{HERE}/*.py")} - {"run", "guest", "scene"}
    state = {"topics": topics, "boot": 0, "passed": 0, "failed": 0, "begun": time.time()}
    if programs != set(TOPICS):
        state["failed"] += 1
        say(f"not ok - the topics are known: {sorted(programs ^ set(TOPICS))}")
    if not topics:
        state["failed"] += 1
        say(f"not ok - there is a topic like {wanted}")
    say(f"# the guest's kernel: {os.uname().release}, up for {text('/proc/uptime').split()[0]} s")
    return state


def run(state, topic):
    """Runs a topic, counts its checks, and gives its status."""
    begun, done, plan = time.time(), 0, None
    again = f", boot {state['boot'] + 1}" if state["boot"] else ""
    say(f"# {topic}{again}")
    process = subprocess.Popen(
        [sys.executable, "-B", f"{HERE}/{topic}.py", str(state["boot"])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    limit = threading.Timer(TOPIC_LIMIT, lambda: os.killpg(process.pid, signal.SIGKILL))
    limit.start()
    for line in process.stdout:
        line = line.rstrip("\n")
        if match := re.fullmatch(r"(ok|not ok) (\d+) - (.*)", line):
            done += 1
            state["passed" if match[1] == "ok" else "failed"] += 1
            line = f"{match[1]} - {topic}: {match[3]}"
        elif match := re.fullmatch(r"1\.\.(\d+)", line):
            plan = int(match[1])
            continue
        say(line)
    status = process.wait()
    limit.cancel()
    if plan != done or status not in (0, 1, REBOOT, CRASH):
        state["failed"] += 1
        say(f"not ok - {topic}: it comes to its end (checks {done} of {plan}, status {status})")
    say(f"# {topic} took {time.time() - begun:.1f} s")
    return status


def boot_again(state, how):
    keep(state)
    if how == CRASH:
        say("# the machine loses its power")
        os.sync()
        # Neither processes nor file systems are told.
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write("b")
    say("# the machine boots again")
    subprocess.run(["systemctl", "reboot"], check=False)
    # It goes down around us.
    time.sleep(120)


def keep(state):
    with open(STATE, "w") as file:
        json.dump(state, file)
    journal = ["journalctl", "--no-pager", "--output=short-monotonic"]
    with open(f"{RESULTS}/journal.txt", "w") as file:
        subprocess.run(journal, stdout=file, stderr=subprocess.STDOUT, timeout=120, check=False)
    os.sync()


def end(state, why=None):
    if why:
        state["failed"] += 1
        say(f"not ok - {why}")
    say(f"# {state['passed']} checks passed, {state['failed']} failed")
    keep(state)
    with open(f"{RESULTS}/status", "w") as file:
        file.write("1\n" if state["failed"] or not state["passed"] else "0\n")
    os.sync()
    subprocess.run(["umount", RESULTS], check=False)
    subprocess.run(["systemctl", "poweroff", "--force"], check=False)
    time.sleep(120)


def say(line):
    print(line, flush=True)


def text(path):
    with open(path) as file:
        return file.read()


if __name__ == "__main__":
    main()
