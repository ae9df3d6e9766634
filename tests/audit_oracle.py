#!/usr/bin/env python3
"""Verifies a folder of logs and its ledger by SECURITY.md alone: audit_oracle.py DIR [--key HEX] [--anchor FILE]..."""
import argparse, glob, hashlib, json, os, re, subprocess, sys
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # Ed25519: RFC 8032, 5.1
D, I = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)
def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0]); c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    return (b - a) * (d - c) % P, (d + c) * (b + a) % P, (d - c) * (d + c) % P, (b - a) * (b + a) % P
def mul(n, p):
    return (0, 1, 1, 0) if not n else add(mul(n // 2, add(p, p)), p) if n % 2 else mul(n // 2, add(p, p))
def point(raw):
    sign, y = divmod(int.from_bytes(raw, "little"), 2**255); x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = next((r for r in (pow(x2, (P + 3) // 8, P), pow(x2, (P + 3) // 8, P) * I % P) if r * r % P == x2), None)
    return None if x is None or y >= P or not x and sign else (x if x % 2 == sign else P - x, y, 1, (x if x % 2 == sign else P - x) * y % P)
def signed(key, text, signature):
    key, raw = bytes.fromhex(key), bytes.fromhex(signature); a, r, s = point(key), point(raw[:32]), int.from_bytes(raw[32:], "little")
    hashed = int.from_bytes(hashlib.sha512(raw[:32] + key + text.encode()).digest(), "little") % L
    p, q = mul(s, point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))), add(r, mul(hashed, a)) if a and r else (1, 2, 3, 4)
    return s < L and (p[0] * q[2] - q[0] * p[2]) % P == 0 == (p[1] * q[2] - q[1] * p[2]) % P
SEAL = re.compile(rb'(?s)(\{"v":1,"seq":([1-9]\d*),"ts":"(.{27})","host_id":"(.{16})",(.*),"prev":"([0-9a-f]{64})"),"hash":"([0-9a-f]{64})"\}\n')
def walk(lines, genesis, check, start=0, prev=None):  # → the last that holds, the first that does not (0: none)
    for place, line in enumerate(lines, start + 1):
        try: m = SEAL.fullmatch(line); prev = prev or hashlib.sha256(genesis(m)).hexdigest(); follows = m[2] == b"%d" % place and m[6].decode() == prev
        except TypeError: return place - 1, place
        prev = hashlib.sha256(bytes.fromhex(prev) + m[1] + b"}").hexdigest()
        if not follows or prev != m[7].decode() or check(place, m, json.loads(line)) is False: return place - 1, place
    return (start + len(lines), 0)
def entry(place, m, e):
    at, tail, event = f"{host.setdefault(0, e['host_id'])}\n{place}\n{e['ts']}\n", f"{e['prev']}\n", e["event"]
    if e["host_id"] != host[0] or (event == "key.created") != (not keys): return False
    if event == "key.created": keys.append(e["key"])
    elif event == "key.rotated":
        text = f"portcullis rotation v1\n{at}{e['old']}\n{e['new']}\n{tail}"
        if e["old"] != keys[-1] or not all(signed(e[who], text, e[who + "_signature"]) for who in ("old", "new")): return False
        keys.append(e["new"])
    elif event == "checkpoint":
        if e["key"] != keys[-1] or not signed(e["key"], f"portcullis checkpoint v1\n{at}{e['key']}\n{tail}", e["signature"]): return False
        used.add(e["key"]); host["signed"] = place
    elif event in ("log.head", "log.broken", "log.pruned"):
        heads, broken, gone = bound.setdefault(os.path.join(str(e.get("uid", "")), e["session"]), [{}, [], []])
        last, this = gone[-1][:3] if gone else (0, 0, ""), (e.get("segment"), e.get("last"), e.get("head"))
        if event == "log.broken": broken.append(e["record"])
        elif event == "log.pruned":  # follows the segment removed before it, or says the same again
            if this == last: return
            if (e["segment"], e["first"]) != (last[0] + 1, last[1] + 1) or e["last"] < e["first"] or heads.get(e["last"], e["head"]) != e["head"]: return False
            gone.append((*this, place))
        elif any(g[1] == e["records"] and g[2] != e["head"] for g in gone): return False
        elif heads.get(e["records"]) != e["head"] and (e["records"] <= max(heads, default=0) or 0 in heads): return False
        else: heads.update({e["records"]: e["head"], **({0: ""} if e["state"] == "ended" else {})})
p = argparse.ArgumentParser(); p.add_argument("dir"); p.add_argument("--key"); p.add_argument("--anchor", action="append", default=[]); args = p.parse_args()
host, keys, used, bound, read = {}, [], set(), {}, lambda path: open(path, "rb").readlines()
def plain(path): return subprocess.run(("zstd", "-dcq", path), capture_output=True).stdout.splitlines(True) if path.endswith(".zst") else read(path)
def segments(stem):  # the files of a log or of the ledger by their numbers
    return {int((re.search(r"\.(\d+)\.jsonl", path) or [0, 1])[1]): path for end in (".jsonl.zst", ".jsonl") for path in glob.glob(f"{stem}*{end}")}
ledger = [line for _, path in sorted(segments(f"{args.dir}/ledger/ledger").items()) for line in plain(path)]
ledger = ledger if ledger[-1:] and ledger[-1].endswith(b"\n") else ledger[:-1]  # a torn last line counts for nothing
held, bad = walk(ledger, lambda m: b"portcullis ledger v1" + m[4], entry)  # the key that counts must have signed something
found = {("ledger", bad)} if bad or (args.key or read(f"{args.dir}/ledger/key.pub")[0].decode().strip()) not in used else set()
kept = [(int(m[2]), m[0]) for path in args.anchor for m in re.finditer(SEAL.pattern[:-2].replace(b"(.*)", rb'("event":"checkpoint"[^}]*)'), open(path, "rb").read().replace(b"\\", b""))]
found |= {("anchor", at) for at, text in kept if at > held or ledger[at - 1][:-1] != text}
logs = {m[1] for path in glob.glob(f"{args.dir}/**/*.jsonl*", recursive=True) if (m := re.search(r"/((?:\d+/)?[0-9a-f]{32})(\.\d+)?\.jsonl(\.zst)?$", path[len(args.dir):]))}
for log in sorted(logs | set(bound)):
    heads, over = bound.get(log, [{}, [], []]), []
    files = segments(f"{args.dir}/{log}")
    gone = [g for g in heads[2] if g[3] < host.get("signed", 0)]  # what is removed counts once it is signed
    begin = ([g for g in gone if g[0] < min(files, default=1 << 32)] or [(0, 0, None)])[-1]
    was = {**{g[1]: g[2] for g in gone}, **heads[0]}
    def record(place, m, e): over.append(e["event"] == "session.ended"); return e["session"] == log[-32:] and not any(over[:-1]) and was.get(place) in (None, e["hash"])
    lines = [line for number in sorted(files) for line in plain(files[number])]
    held_here, wrong = walk(lines, lambda m: b"portcullis audit v1" + log[-32:].encode(), record, *begin[1:3])
    wrong = heads[1][0] if heads[1] else wrong or (held_here + 1 if held_here < max(heads[0], default=0) else 0)
    found |= {(log[-32:], wrong)} if wrong else set()
sys.exit(print("\n".join(f"{subject} {number}" for subject, number in sorted(found))) or bool(found))
