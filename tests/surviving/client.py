"""A program in the jail: reads what to do, a JSON list a line, and prints what came of it, as JSON.

What comes of a request is its status as text, or "closed" where the connection ended before one, or
"refused" where there was none.
"""

import json, os, socket, ssl, struct, sys

PATIENCE = 60


def status(connection, head, body=0):
    connection.sendall(head.encode())
    sent = 0
    while sent < body:
        sent += connection.send(b"x" * min(4096, body - sent))
    said = b""
    while b"\r\n" not in said:
        chunk = connection.recv(4096)
        if not chunk:
            return "closed"
        said += chunk
    return said.split()[1].decode()


def http(host, port, path, body=0, header=""):
    """By the HTTP proxy."""
    with socket.create_connection(("127.0.0.1", 3128), timeout=PATIENCE) as connection:
        method = "POST" if body else "GET"
        length = f"Content-Length: {body}\r\n" if body else ""
        head = f"{method} http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        return status(connection, f"{head}{length}{header}Connection: close\r\n\r\n", body)


def request(host, port, path):
    return f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"


def socks(host, port, path):
    """By SOCKS5; a refusal is its reply's number."""
    with socket.create_connection(("127.0.0.1", 8081), timeout=PATIENCE) as connection:
        connection.sendall(b"\x05\x01\x00")
        if len(connection.recv(2)) < 2:
            return "closed"
        name = host.encode()
        connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack("!H", port))
        reply = connection.recv(10)
        if len(reply) < 2:
            return "closed"
        if reply[1]:
            return f"reply {reply[1]}"
        return status(connection, request(host, port, path))


def plain(host, port, path):
    """As a program that knows no proxy."""
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        return status(connection, request(host, port, path))


def https(host, port, path, header=""):
    """In a tunnel, with the certificates that the jail has."""
    with socket.create_connection(("127.0.0.1", 3128), timeout=PATIENCE) as connection:
        connection.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        said = b""
        while b"\r\n\r\n" not in said:
            chunk = connection.recv(1)
            if not chunk:
                return "closed"
            said += chunk
        if b" 200 " not in said:
            return said.split()[1].decode()
        context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        with context.wrap_socket(connection, server_hostname=host) as inside:
            head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{header}Connection: close\r\n\r\n"
            # A variable is the placeholder of a credential.
            return status(inside, os.path.expandvars(head))


def resolve(name):
    found = socket.getaddrinfo(name, 0, socket.AF_INET, socket.SOCK_STREAM)
    return found[0][4][0]


def attempt(act, *arguments):
    try:
        return globals()[act](*arguments)
    except ssl.SSLError as error:
        return str(error)
    except socket.gaierror:
        return "no such name"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionError, BrokenPipeError):
        return "closed"


def forever(until, allowed, denied):
    """Each of the acts again and again, until this file is there; each request has a path of its own."""
    said, number = [], 0
    while not os.path.exists(until):
        for act, host, port in allowed:
            number += 1
            said.append([act, host, f"/{number}", attempt(act, host, port, f"/{number}")])
        for act, host, port in denied:
            number += 1
            said.append([act, host, f"/{number}", attempt(act, host, port, f"/{number}")])
    return said


print("ready", flush=True)
for line in sys.stdin:
    act, *arguments = json.loads(line)
    print(json.dumps(forever(*arguments) if act == "forever" else attempt(act, *arguments)), flush=True)
