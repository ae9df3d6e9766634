"""Listens in a jail on every port that the tests ask for, then says so with a file."""
import functools
import http.server
import os
import socket
import threading


def listener(family, address, backlog=128):
    one = socket.socket(family, socket.SOCK_STREAM)
    one.bind(address)
    one.listen(backlog)
    return one


def each(one, act):
    """Has every connection served by a thread of its own."""

    def accept():
        while True:
            connection, _ = one.accept()
            threading.Thread(target=act, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def until_the_end(connection):
    """Answers only once the client has said all."""
    taken = b""
    while piece := connection.recv(65536):
        taken += piece
    connection.sendall(b"got " + taken)
    connection.close()


def echo(connection):
    while piece := connection.recv(65536):
        connection.sendall(piece)
    connection.close()


def listening():
    """The TCP ports that somebody listens on in here."""
    ports = set()
    for table in ["tcp", "tcp6"]:
        with open(f"/proc/net/{table}") as rows:
            for row in list(rows)[1:]:
                words = row.split()
                if words[3] == "0A":
                    ports.add(int(words[1].split(":")[1], 16))
    return ports


before = listening()
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.getcwd())
web = http.server.ThreadingHTTPServer(("127.0.0.1", 3000), handler)
threading.Thread(target=web.serve_forever, daemon=True).start()
each(listener(socket.AF_INET6, ("::1", 3001)), until_the_end)
each(listener(socket.AF_INET, ("0.0.0.0", 3002)), echo)
full = listener(socket.AF_INET, ("127.0.0.1", 3003), 0)
with open("gate", "w") as file:
    file.write(" ".join(map(str, sorted(before))))
os.rename("gate", "ready")
threading.Event().wait()
