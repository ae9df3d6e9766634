//! Programs in real jails that go around the gate: told to by flags, variables and settings, or by sockets of
//! their own.

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::{EVERYONE, Install, Run, Who};
use crate::client::curl;
use crate::dns_stub::DnsStub;
use crate::upstream::{Origin, ok};

/// An installation with a profile that allows `allowed.test` at the origin's port.
struct Field {
    install: Install,
    origin: Origin,
    names: DnsStub,
    profile: String,
}

impl Field {
    fn new(who: Who) -> Self {
        Self::with(who, "")
    }

    /// With more lines for `[network]`.
    fn with(who: Who, network: &str) -> Self {
        let origin = Origin::http(|_, _| ok("reached"));
        let names = DnsStub::constant(origin.address.ip());
        let install = Install::new(who);
        let (port, server) = (origin.port(), names.address);
        let text = format!(
            "[network]\n{network}\n\
             [[network.rules]]\nhost = 'allowed.test'\nports = [{port}]\naction = 'allow'\n\
             [network.addresses]\nallow = ['127.0.0.0/8']\n[network.dns]\nservers = ['{server}']\n"
        );
        let profile = install.write("profile.toml", &text).display().to_string();
        Self {
            install,
            origin,
            names,
            profile,
        }
    }

    /// Runs a shell script in a jail, `$P` the origin's port.
    fn run(&self, script: &str) -> Run {
        let script = format!("P={}; {script}", self.origin.port());
        self.install
            .run(&["-p", &self.profile], &["bash", "-c", &script])
    }

    /// Runs a script of Python in a jail, its first argument the origin's port.
    fn python(&self, script: &str) -> Vec<String> {
        let port = self.origin.port().to_string();
        let server = self.names.address.port().to_string();
        let command = ["/usr/bin/python3", "-c", script, &port, &server];
        let run = self.install.run(&["-p", &self.profile], &command);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(self.origin.log.connections(), 0, "the origin was reached");
        assert_eq!(self.names.asked(), Vec::<String>::new(), "DNS was asked");
    }

    /// The twin: what goes by the gate gets through.
    #[track_caller]
    fn the_gate_leads_out(&self) {
        let run = self.run("curl -sS -f http://allowed.test:$P/");
        assert_eq!(run.stdout, "reached", "{run:?}");
        assert_eq!(self.names.asked()[0], "allowed.test");
    }
}

/// Runs a command in silence and says if it went well.
const TRY: &str = "try() { if timeout 20 \"$@\" >/dev/null 2>&1 </dev/null; then echo \"OUT: $*\"; fi; }; \
    u=http://allowed.test:$P/; a=http://127.0.0.1:$P/; c='/usr/bin/curl -s -f -m 10'; ";

// G01
#[test]
fn a_client_that_is_told_to_skip_the_proxy_gets_nowhere() {
    for who in EVERYONE {
        let field = Field::new(who);
        let script = [
            TRY,
            "try env -i $c $u; try env -i $c $a; try env -i $c http://192.0.2.1:$P/; \
             try $c --noproxy '*' $u; try $c --noproxy allowed.test $u; try $c --noproxy '*' $a; \
             try env NO_PROXY='*' no_proxy='*' $c $a; \
             try env no_proxy='*' http_proxy= HTTP_PROXY= ALL_PROXY=socks5h://127.0.0.1:9 $c $u; \
             try env http_proxy=http://127.0.0.1:$P $c $u; \
             try $c --noproxy '*' --connect-to allowed.test:$P:127.0.0.1:$P $u; \
             try $c --noproxy '*' --resolve allowed.test:$P:127.0.0.1 $u; \
             try $c --noproxy '*' --interface lo $a; \
             try $c --proxy http://192.0.2.1:3128 $u; try $c --proxy http://127.0.0.1:$P $u; \
             try $c --proxy socks5h://127.0.0.1:9050 $u; \
             try bash -c \"exec 3<>/dev/tcp/127.0.0.1/$P\"; try bash -c \"exec 3<>/dev/udp/192.0.2.1/53 && echo x >&3\"; \
             echo end",
        ];
        let run = field.run(&script.concat());
        assert_eq!(run.stdout, "end\n", "{who:?} {run:?}");
        field.is_untouched();
        field.the_gate_leads_out();
    }
    // The same flags lead out where there is no jail.
    let field = Field::new(Who::Root);
    let port = field.origin.port();
    let (to, url) = (
        format!("allowed.test:{port}:127.0.0.1:{port}"),
        format!("http://allowed.test:{port}/"),
    );
    assert_eq!(
        curl(&["--noproxy", "*", "--connect-to", &to, &url]).1,
        "reached"
    );
}

/// Prints what came of each act, a line each.
const ACT: &str = "\
import errno, socket, struct, sys, time
port, server = int(sys.argv[1]), int(sys.argv[2])
def act(what, do):
    start = time.monotonic()
    try:
        do()
        print(what, 'OUT')
    except OSError as error:
        slow = ' late' if time.monotonic() - start > 10 else ''
        print(what, errno.errorcode.get(error.errno, error) if error.errno else type(error).__name__, slow, sep=' ' if not slow else '')
def tcp(host, at, *options):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(30)
        for option in options: s.setsockopt(*option)
        s.connect((host, at))
def udp(host, at, *options):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        for option in options: s.setsockopt(*option)
        s.sendto(b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x01x\\x04test\\0\\0\\x01\\0\\x01', (host, at))
        s.recv(512)
";

// G02
#[test]
fn a_raw_connection_fails_at_once() {
    let script = format!(
        "{ACT}\nfor host in ['192.0.2.1', '198.51.100.1', '203.0.113.1', '1.1.1.1', '2001:db8::1', '169.254.169.254', '10.0.0.1']:\n\
         \x20   act(host, lambda: tcp(host, 80))\nact('loopback', lambda: tcp('127.0.0.1', port))\n"
    );
    for who in EVERYONE {
        let field = Field::new(who);
        for line in field.python(&script) {
            let refused = ["ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"];
            assert!(
                refused.iter().any(|error| line.trim_end().ends_with(error)),
                "{who:?} {line}"
            );
        }
        field.is_untouched();
    }
}

// B17
#[test]
fn options_of_a_socket_are_no_route() {
    const OPTIONS: &str = "
loose = bytes([131, 7, 4]) + socket.inet_aton('127.0.0.1') + b'\\0'
strict = bytes([137, 7, 4]) + socket.inet_aton('192.0.2.1') + b'\\0'
header = struct.pack('BBBBI', 0, 2, 2, 1, 0) + socket.inet_pton(socket.AF_INET6, '2001:db8::1')
for name, option in [
    ('LSRR', (socket.IPPROTO_IP, socket.IP_OPTIONS, loose)),
    ('SSRR', (socket.IPPROTO_IP, socket.IP_OPTIONS, strict)),
    ('mark', (socket.SOL_SOCKET, 36, 1)),
    ('device', (socket.SOL_SOCKET, 25, b'eth0')),
    ('transparent', (socket.IPPROTO_IP, 19, 1)),
    ('freebind', (socket.IPPROTO_IP, 15, 1)),
    ('dontroute', (socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)),
]:
    for host in ['192.0.2.1', '127.0.0.1']:
        act(name, lambda: tcp(host, port, option))
        act(name, lambda: udp(host, server, option))
act('rthdr', lambda: tcp('2001:db8::1', port, (socket.IPPROTO_IPV6, 57, header)))
def pktinfo():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        info = struct.pack('I4s4s', 1, socket.inet_aton('192.0.2.9'), socket.inet_aton('127.0.0.1'))
        s.sendmsg([b'x'], [(socket.IPPROTO_IP, 8, info)], 0, ('192.0.2.1', 53))
act('pktinfo', pktinfo)
def scope():
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as s:
        s.settimeout(30)
        s.connect(('fe80::1', port, 0, 2))
act('scope', scope)
";
    for who in EVERYONE {
        let field = Field::new(who);
        let lines = field.python(&format!("{ACT}{OPTIONS}"));
        assert_eq!(lines.len(), 31, "{lines:?}");
        assert!(
            !lines.iter().any(|line| line.contains("OUT")),
            "{who:?} {lines:?}"
        );
        field.is_untouched();
        field.the_gate_leads_out();
    }
}

// C01, C04, C10
#[test]
fn nothing_of_a_name_leaves_by_a_datagram_a_resolver_or_a_multicast() {
    const ASK: &str = "
for host in ['127.0.0.1', '127.0.0.53', '8.8.8.8', '192.0.2.53', '2001:4860:4860::8888', '10.0.0.53']:
    act('udp ' + host, lambda: udp(host, 53))
    act('tcp ' + host, lambda: tcp(host, 53))
act('stub', lambda: udp('127.0.0.1', server))
act('mDNS', lambda: udp('224.0.0.251', 5353))
act('LLMNR', lambda: udp('224.0.0.252', 5355))
act('mDNS6', lambda: udp('ff02::fb', 5353))
act('NBNS', lambda: udp('255.255.255.255', 137, (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)))
act('SSDP', lambda: udp('239.255.255.250', 1900))
for name in ['secret.evil.test', 'allowed.test', 'wpad', 'x.local', 'dns.google']:
    act(name, lambda: socket.getaddrinfo(name, 80))
";
    for who in EVERYONE {
        let field = Field::new(who);
        let lines = field.python(&format!("{ACT}{ASK}"));
        assert_eq!(lines.len(), 23, "{lines:?}");
        assert!(
            !lines.iter().any(|line| line.contains("OUT")),
            "{who:?} {lines:?}"
        );
        field.is_untouched();
        field.the_gate_leads_out();
        // The stub hears what is asked of it without a jail.
        let asked = field.names.asked().len();
        let port = field.names.address.port().to_string();
        let twin = format!("{ACT}\nact('stub', lambda: udp('127.0.0.1', server))\n");
        let output = Command::new("/usr/bin/python3")
            .args(["-c", &twin, "1", &port])
            .output();
        assert_eq!(
            String::from_utf8_lossy(&output.unwrap().stdout).trim(),
            "stub OUT"
        );
        assert_eq!(field.names.asked().len(), asked + 1);
    }
}

// C09, G06
#[test]
fn services_of_the_host_that_resolve_or_administer_are_not_there() {
    const LOOK: &str = "
import os
for path in ['/run/nscd/socket', '/var/run/nscd/socket', '/run/systemd/resolve/io.systemd.Resolve',
             '/run/dbus/system_bus_socket', '/run/user/0/bus', '/run/user/4001/bus', '/run/avahi-daemon/socket']:
    def connect():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
    act(path, connect)
own = os.getpid()
for folder, _, files in os.walk('/'):
    if folder.startswith('/proc'): continue
    for name in files:
        path = os.path.join(folder, name)
        try:
            import stat
            if stat.S_ISSOCK(os.lstat(path).st_mode): print('socket', path)
        except OSError: pass
for line in open('/proc/net/unix').readlines()[1:]:
    if len(line.split()) > 7: print('unix', line.split()[7])
for line in open('/proc/net/tcp').readlines()[1:]:
    if line.split()[3] == '0A': print('listens', int(line.split()[1].split(':')[1], 16))
";
    // A host with a name service cache and a bus, for the length of a session.
    const PLACE: &str = "mkdir -p /run/nscd /run/dbus && mount -t tmpfs tmpfs /run/nscd && \
        mount -t tmpfs tmpfs /run/dbus && chmod 755 /run/nscd /run/dbus && \
        /usr/bin/python3 -c \"$SERVE\" && exec \"$@\"";
    const SERVE: &str = "
import os, socket
for path in ['/run/nscd/socket', '/run/dbus/system_bus_socket']:
    s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(9); os.chmod(path, 0o777); os.set_inheritable(s.fileno(), True)
    c = socket.socket(socket.AF_UNIX); c.connect(path)
if os.fork() == 0:
    os.close(1); os.close(2); import time; time.sleep(60); os._exit(0)
";
    for who in EVERYONE {
        let field = Field::new(who);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", PLACE, "sh"]);
        if who == Who::User {
            command.args([
                "setpriv",
                "--reuid",
                "4001",
                "--regid",
                "4001",
                "--clear-groups",
            ]);
        }
        command
            .arg(field.install.path("bin/portcullis"))
            .args(["run", "-p", &field.profile, "--", "/usr/bin/python3", "-c"])
            .args([&format!("{ACT}{LOOK}"), "1", "1"])
            .current_dir(field.install.work())
            .env_clear()
            .env("SERVE", SERVE)
            .env("HOME", field.install.path("home"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let run = Run::of(&command.output().unwrap());
        assert_eq!(run.status, Some(0), "{run:?}");
        let (paths, rest): (Vec<_>, Vec<_>) = run
            .stdout
            .lines()
            .map(str::trim_end)
            .partition(|line| line.starts_with('/'));
        assert_eq!(paths.len(), 7, "{run:?}");
        assert!(
            paths.iter().all(|line| line.ends_with("ENOENT")),
            "{who:?} {paths:?}"
        );
        let mut rest = rest;
        rest.sort_unstable();
        assert_eq!(rest, ["listens 3128", "listens 8081"], "{who:?}");
        field.is_untouched();
    }
}

// G06
#[test]
fn the_gate_has_no_page_of_its_own() {
    const ASK: &str = "for t in / /admin /metrics /debug/pprof /shutdown '*' /.well-known/proxy; do \
        curl -s -o /dev/null --noproxy '*' -w '%{http_code}\\n' --request-target \"$t\" http://127.0.0.1:3128/; done; \
        for h in localhost 127.0.0.1 gate portcullis portcullis.local 127.0.0.1:3128 127.0.0.1:8081; do \
        curl -s -o /dev/null --noproxy '' -x http://127.0.0.1:3128 -w '%{http_code}\\n' http://$h/; done";
    for who in EVERYONE {
        let field = Field::new(who);
        let run = field.run(ASK);
        let expected = [["400"; 7], ["403"; 7]].concat();
        let said: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(said, expected, "{who:?} {run:?}");
        field.is_untouched();
        field.the_gate_leads_out();
    }
}

// G04
#[test]
fn settings_of_tools_that_name_another_way_stay_without_one() {
    // A host that no rule allows: what goes to the gate after all is refused there.
    const POISON: &str = "u=http://other.test:$P/; echo 'proxy = \"\"' > ~/.curlrc; try $c $u; \
        echo 'noproxy = \"*\"' > ~/.curlrc; try $c $u; try $c $a; rm ~/.curlrc; \
        export GIT_TERMINAL_PROMPT=0; \
        try git -c http.proxy= ls-remote ${u}x.git; \
        try env -u http_proxy -u HTTP_PROXY git -c http.proxy=http://127.0.0.1:$P ls-remote ${u}x.git; \
        try git -c http.proxy=socks5h://127.0.0.1:9 ls-remote ${u}x.git; \
        try git -c core.gitProxy='nc 127.0.0.1 '$P ls-remote git://allowed.test:$P/x.git; \
        try env GIT_SSH_COMMAND='sh -c \"nc 127.0.0.1 '$P'\"' git ls-remote ssh://allowed.test/x.git; \
        try git -c protocol.ext.allow=always ls-remote \"ext::nc 127.0.0.1 $P\"; \
        printf 'proxy=null\\nnoproxy=*\\nfetch-retries=0\\nregistry=%s\\n' $u > ~/.npmrc; \
        try npm view x; rm ~/.npmrc; \
        try env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY /usr/bin/python3 -c \
            \"import urllib.request as u; u.urlopen('$a')\"; \
        try env no_proxy='*' /usr/bin/python3 -c \"import urllib.request as u; u.urlopen('$a')\"; \
        echo end";
    for who in EVERYONE {
        let field = Field::new(who);
        let run = field.run(&[TRY, POISON].concat());
        assert_eq!(run.stdout, "end\n", "{who:?} {run:?}");
        field.is_untouched();
        field.the_gate_leads_out();
    }
}

// G05
#[test]
fn variables_and_start_files_that_run_something_run_it_in_the_jail_alone() {
    const POISON: &str = "w=$PWD; printf '#!/bin/sh\\ntouch \"%s/ran\"\\n[ -e \"%s\" ] && touch \"%s/escaped\"\\n' \
        \"$w\" \"$HOSTS\" \"$w\" > evil; chmod +x evil; \
        for f in ~/.bashrc ~/.profile ~/.bash_profile ~/.zshrc ~/.gitconfig; do echo \"$w/evil\" > $f; done; \
        git init -q g 2>/dev/null; cd g && echo a > a && git add a && echo b > a; \
        rm ~/.gitconfig; \
        export PAGER=$w/evil GIT_PAGER=$w/evil GIT_EXTERNAL_DIFF=$w/evil BROWSER=$w/evil EDITOR=$w/evil \
        PERL5OPT=-Mevil BASH_ENV=$w/evil ENV=$w/evil PROMPT_COMMAND=$w/evil LD_PRELOAD=$w/evil.so \
        PYTHONSTARTUP=$w/evil NODE_OPTIONS=--require=$w/evil; git diff >/dev/null 2>&1; bash -c true; true";
    for who in EVERYONE {
        let field = Field::new(who);
        let secret = field.install.write("secret", "of the host");
        let script = format!("HOSTS={}; {POISON}", secret.display());
        let run = field.run(&script);
        assert_eq!(run.status, Some(0), "{run:?}");
        // It ran, in the jail, and the host's home has none of the start files.
        assert!(field.install.path("work/ran").exists(), "{run:?}");
        assert!(!field.install.path("work/escaped").exists());
        for name in [
            ".bashrc",
            ".profile",
            ".bash_profile",
            ".zshrc",
            ".gitconfig",
        ] {
            assert!(
                !field.install.path(&format!("home/{name}")).exists(),
                "{name}"
            );
        }
        // What portcullis itself starts outside does not run it, though its caller's variables say so.
        std::fs::remove_file(field.install.path("work/ran")).unwrap();
        let evil = field.install.path("work/evil");
        let mut next = field
            .install
            .command(["run", "-p", &field.profile, "--", "/usr/bin/true"]);
        for name in [
            "PAGER",
            "BROWSER",
            "EDITOR",
            "BASH_ENV",
            "ENV",
            "GIT_EXTERNAL_DIFF",
            "GIT_SSH_COMMAND",
            "PYTHONSTARTUP",
        ] {
            next.env(name, &evil);
        }
        let run = Run::of(&next.output().unwrap());
        assert_eq!(run.status, Some(0), "{run:?}");
        assert!(!field.install.path("work/ran").exists(), "{run:?}");
        field.is_untouched();
    }
}

// B12, G08, F06
#[test]
fn the_doors_of_a_session_open_to_no_other_session_and_not_to_the_host() {
    const OTHER: u16 = 4128;
    for who in EVERYONE {
        let first = Field::with(who, &format!("http_port = {OTHER}\nsocks_port = 4129"));
        let wait = "curl -sS -f -x http://127.0.0.1:4128 http://allowed.test:$P/ > own; touch up; \
                    until [ -e go ]; do sleep 0.05; done";
        let wait = format!("P={}; {wait}", first.origin.port());
        let mut running =
            first
                .install
                .command(["run", "-p", &first.profile, "--", "bash", "-c", &wait]);
        let mut running = running.stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while !first.install.path("work/up").exists() {
            assert!(
                Instant::now() < deadline,
                "the first session does not come up"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(
            std::fs::read_to_string(first.install.path("work/own")).unwrap(),
            "reached"
        );
        let before = first.origin.log.connections();
        // From the host.
        for port in [OTHER, 4129] {
            let refused = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        // From another session, straight and through its gate, even with a rule that allows it.
        let second = Field::new(who);
        let rule = format!(
            "\n[[network.rules]]\nhost = '127.0.0.1'\nports = [{OTHER}]\naction = 'allow'\n"
        );
        let text = std::fs::read_to_string(&second.profile).unwrap();
        second.install.write("profile.toml", &(text + &rule));
        let script = [
            TRY,
            "try $c -x http://127.0.0.1:4128 $u; try $c -x socks5h://127.0.0.1:4129 $u; \
            try bash -c 'exec 3<>/dev/tcp/127.0.0.1/4128'; \
            curl -s -o /dev/null -w '%{http_code} %header{x-portcullis-denied}\\n' -x http://127.0.0.1:3128 --noproxy '' http://127.0.0.1:4128/; \
            curl -s -o /dev/null -w '%{http_code} %header{x-portcullis-denied}\\n' -x http://127.0.0.1:3128 --noproxy '' http://127.0.0.1:4129/",
        ];
        let run = second.run(&script.concat());
        assert_eq!(
            run.stdout, "502 dial_failed\n403 port_not_allowed\n",
            "{who:?} {run:?}"
        );
        second.is_untouched();
        second.the_gate_leads_out();
        assert_eq!(first.origin.log.connections(), before);
        first.install.write("work/go", "");
        assert!(running.wait().unwrap().success());
        let decided = first.install.events("egress.decided");
        assert_eq!(decided.len(), 1, "{decided:?}");
    }
}

// C13
#[test]
fn no_verb_asks_for_a_name_that_somebody_else_chose() {
    // A network of its own whose name server writes down what it is asked.
    const PLACE: &str = "ip link set lo up && mount --bind resolv /etc/resolv.conf && mount --bind nss /etc/nsswitch.conf && \
        { python3 -c \"$SERVE\" & } && until [ -s up ]; do sleep 0.02; done; \
        for v in 'policy explain -p profile.toml https://chosen.evil.test/x' \
                 'policy explain -p profile.toml http://allowed.test/x' \
                 'policy explain --json -p profile.toml https://a.b.chosen.test:8443/' \
                 'policy show profile.toml' 'policy test profile.toml' 'sessions' 'mitm --help' \
                 'audit verify --help' 'completions bash'; do bin/portcullis $v > out 2>&1; done; \
        test -s out; cat asked; echo ---; getent hosts twin.test; cat asked";
    const SERVE: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 53))
log = open('asked', 'a', 1); open('up', 'w').write('up')
import os; os.close(1); os.close(2)
s.settimeout(60)
while True:
    data, peer = s.recvfrom(512)
    at, labels = 12, []
    while data[at]: labels.append(data[at + 1:at + 1 + data[at]].decode()); at += 1 + data[at]
    log.write('.'.join(labels) + '\\n')
    s.sendto(data[:2] + b'\\x81\\x83' + data[4:6] + b'\\0\\0\\0\\0\\0\\0' + data[12:at + 5], peer)
";
    let field = Field::new(Who::Root);
    let text = "[network.domains]\n'allowed.test' = 'allow'\n'*.chosen.test' = 'deny'\n\
        [[tests]]\nrequest = 'https://tested.evil.test/'\nexpect = 'deny'\n";
    field.install.write("profile.toml", text);
    field.install.write("resolv", "nameserver 127.0.0.1\n");
    field.install.write("nss", "hosts: files dns\n");
    field.install.write("asked", "");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", PLACE])
        .current_dir(field.install.path(""))
        .env_clear()
        .env("SERVE", SERVE)
        .env("HOME", field.install.path("home"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let run = Run::of(&output);
    let (by_us, by_twin) = run.stdout.split_once("---\n").unwrap();
    assert_eq!(by_us, "", "{run:?}");
    assert!(by_twin.contains("twin.test"), "{run:?}");
}
