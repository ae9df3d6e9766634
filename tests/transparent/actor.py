"""Acts as a program that knows no proxy: a JSON list of acts in, a JSON list of what came of each out."""

import errno, json, socket, sys, time

PATIENCE = 30


def everything(connection):
    said = b""
    while chunk := connection.recv(65536):
        said += chunk
    return said


def tcp(host, port, text):
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        return everything(connection).decode(errors="replace")


def silent(host, port):
    """Waits for the server's word."""
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        return everything(connection).decode(errors="replace")


def http(host, port, text):
    """The first of the answer: a server may keep the connection."""
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        connection.sendall(text.encode())
        return connection.recv(65536).decode()


def udp(host, port, data):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE)
        asker.connect((host, port))
        asker.send(bytes.fromhex(data))
        return asker.recv(4096).hex()


def dns_tcp(data):
    with socket.create_connection(("127.0.0.1", 53), timeout=PATIENCE) as connection:
        question = bytes.fromhex(data)
        connection.sendall(len(question).to_bytes(2, "big") + question)
        connection.shutdown(socket.SHUT_WR)
        return everything(connection)[2:].hex()


def resolve(name):
    found = socket.getaddrinfo(name, 0, proto=socket.IPPROTO_TCP)
    return " ".join(sorted({address[0] for *_, address in found}))


def resolve_v4(name):
    found = socket.getaddrinfo(
        name, 0, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
    )
    return " ".join(sorted({address[0] for *_, address in found}))


def flood(data, count):
    """As many questions as fast as they go; nobody waits for an answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _ in range(count):
            asker.sendto(bytes.fromhex(data), ("127.0.0.1", 53))
    return ""


def icmp(kind):
    socket.socket(socket.AF_INET, getattr(socket, kind), socket.IPPROTO_ICMP).close()
    return ""


def main():
    answers = []
    for name, *arguments in json.loads(sys.argv[1]):
        start = time.monotonic()
        try:
            answer = {"said": globals()[name](*arguments)}
        except socket.gaierror:
            answer = {"error": "no such name"}
        except OSError as error:
            answer = {"error": errno.errorcode.get(error.errno, str(error))}
        answer["seconds"] = int(time.monotonic() - start)
        answers.append(answer)
    print(json.dumps(answers))


main()
