"""What sessions of several topics do: take too much, ask for something, wait."""

import http.server
import threading

from guest import PATIENCE

# Starts as many processes as it can, up to a number; says how many, and which errno came then. Stays until its
# input ends.
FORKS = """
import os, sys, time
for n in range(int(sys.argv[1])):
    try:
        child = os.fork()
    except OSError as error:
        print(n, error.errno, flush=True)
        break
    if child == 0:
        time.sleep(1000)
else:
    print(sys.argv[1], 0, flush=True)
sys.stdin.read()
"""
# Takes this many MiB, in a child; says how that ended. Stays until its input ends.
HOG = """
import subprocess, sys
taker = [sys.executable, '-c', f'x = bytearray({sys.argv[1]} << 20)']
print(subprocess.run(taker).returncode, flush=True)
sys.stdin.read()
"""
# Asks ADDRESS PORT for TARGET as of HOST; prints status and body.
FETCH = """
import http.client, sys
address, port, target, host = sys.argv[1:]
connection = http.client.HTTPConnection(address, int(port))
connection.request('GET', target, headers={'Host': host})
answer = connection.getresponse()
print(answer.status, answer.read().decode().strip())
"""
MEMORY = "portcullis: limits.memory of 64M reached: a process was killed"
TASKS = "portcullis: limits.tasks of 20 reached: more processes are refused"


def held(process, during):
    said = process.stdout.readline()
    try:
        during()
    finally:
        try:
            _, err = process.communicate(timeout=PATIENCE)
        except Exception:
            process.kill()
            raise
    return (said, process.returncode, err.splitlines())


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers what it was asked for."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"origin {self.path}\n".encode())

    def log_message(self, *_):
        pass


def origin():
    """A server of this machine's; its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def to_origin(port):
    """A profile that leads there."""
    return f"""
[[network.rules]]
host = "127.0.0.1"
ports = [{port}]
action = "allow"
[network.addresses]
allow = ["127.0.0.1/32"]
"""


def fetch(port):
    """What a jail runs to ask the gate for a port of this machine's."""
    return ["python3", "fetch.py", "127.0.0.1", "3128", f"http://127.0.0.1:{port}/x", f"127.0.0.1:{port}"]
