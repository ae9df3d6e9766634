"""Asks the HTTP proxy for a path of web.test, as `ask.py PORT PATH`, and prints its own number in the jail."""

import os, socket, sys


def ask(port, path, end=""):
    with socket.create_connection(("127.0.0.1", 3128), timeout=60) as proxy:
        proxy.sendall(
            f"GET http://web.test:{port}{path} HTTP/1.1\r\nHost: web.test:{port}\r\n"
            f"Connection: close\r\n\r\n".encode()
        )
        while proxy.recv(65536):
            pass


if __name__ == "__main__":
    ask(*sys.argv[1:3])
    print(os.getpid(), flush=True)
