//! The host's system paths that every jail shows, read-only, each with its reason. A list of what is
//! needed, not of what is dangerous: `/etc` is full of keys, hashes and addresses of the host
//! (`shadow`, `sudoers`, `machine-id`, `ssl/private`, `ssh`), and none of it is named here.

/// One system path and why a jail needs it.
#[derive(Debug, Clone, Copy)]
pub struct SystemPath {
    /// Absolute; skipped where the host does not have it.
    pub path: &'static str,
    /// Why.
    pub reason: &'static str,
}

const fn show(path: &'static str, reason: &'static str) -> SystemPath {
    SystemPath { path, reason }
}

/// Folders of programs and libraries. On hosts with a merged `/usr` most are links into it.
pub const TREES: &[SystemPath] = &[
    show("/usr", "programs, libraries, their data"),
    show("/bin", "programs"),
    show("/sbin", "programs"),
    show("/lib", "the dynamic loader and libraries"),
    show("/lib32", "libraries of a second architecture"),
    show("/lib64", "the dynamic loader of x86_64"),
    show("/libx32", "libraries of a second architecture"),
    show("/opt", "programs installed beside the distribution"),
    show("/nix/store", "programs and libraries of NixOS"),
    show("/gnu/store", "programs and libraries of Guix"),
    show("/run/current-system/sw", "the program path of NixOS"),
];

/// Configuration that programs need to run at all, without keys and without facts about the host.
/// Each folder is a mount, and bubblewrap takes a fifth of a millisecond for one: comfort of
/// interactive shells and editors is not here.
pub const CONFIGURATION: &[SystemPath] = &[
    show("/etc/alternatives", "where /usr/bin/java and others point"),
    show("/etc/bash.bashrc", "interactive bash"),
    show("/etc/bashrc", "interactive bash"),
    show(
        "/etc/ca-certificates/extracted",
        "certificate authorities of Arch",
    ),
    show("/etc/ca-certificates.conf", "certificate authorities"),
    show(
        "/etc/crypto-policies",
        "cipher choice of Fedora's libraries",
    ),
    show("/etc/debian_version", "which distribution this is"),
    show("/etc/ethertypes", "names of protocols"),
    show("/etc/fonts", "font lookup of headless browsers"),
    show("/etc/gai.conf", "address order"),
    show("/etc/gitconfig", "git's system configuration"),
    show("/etc/host.conf", "order of name lookup"),
    show("/etc/inputrc", "line editing"),
    show("/etc/java", "Java's configuration"),
    show("/etc/java-8-openjdk", "Java's configuration"),
    show("/etc/java-11-openjdk", "Java's configuration"),
    show("/etc/java-17-openjdk", "Java's configuration"),
    show("/etc/java-21-openjdk", "Java's configuration"),
    show("/etc/java-25-openjdk", "Java's configuration"),
    show("/etc/ld.so.cache", "where libraries are"),
    show("/etc/ld.so.conf", "where libraries are"),
    show(
        "/etc/ld.so.preload",
        "libraries that the admin wants everywhere",
    ),
    show("/etc/locale.alias", "locales"),
    show("/etc/locale.conf", "locales"),
    show("/etc/localtime", "time zone"),
    show("/etc/lsb-release", "which distribution this is"),
    show("/etc/magic", "file(1)"),
    show("/etc/maven", "Maven's configuration"),
    show("/etc/mime.types", "types of files"),
    show("/etc/networks", "names of networks"),
    show("/etc/npmrc", "npm's system configuration"),
    show("/etc/os-release", "which distribution this is"),
    show("/etc/pip.conf", "pip's system configuration"),
    show(
        "/etc/pki/ca-trust/extracted",
        "certificate authorities of Fedora",
    ),
    show(
        "/etc/pki/java",
        "certificate authorities of Fedora, for Java",
    ),
    show("/etc/pki/tls/cert.pem", "certificate authorities of Fedora"),
    show("/etc/pki/tls/certs", "certificate authorities of Fedora"),
    show("/etc/pki/tls/openssl.cnf", "OpenSSL's configuration"),
    show("/etc/profile", "login shells"),
    show("/etc/protocols", "names of protocols"),
    show("/etc/redhat-release", "which distribution this is"),
    show("/etc/rpc", "names of protocols"),
    show("/etc/services", "names of ports"),
    show("/etc/shells", "which shells there are"),
    show("/etc/ssl/ca-bundle.pem", "certificate authorities"),
    show("/etc/ssl/cert.pem", "certificate authorities"),
    show("/etc/ssl/certs", "certificate authorities"),
    show("/etc/ssl/openssl.cnf", "OpenSSL's configuration"),
    show("/etc/timezone", "time zone"),
    show("/etc/xattr.conf", "which attributes cp(1) copies"),
];

/// What the kernel tells about other processes, users and its own memory through `/proc`: empty inside,
/// as far as the caller could read it. Not here, because the kernel keeps it from a process without
/// capabilities: `kcore`, `kmsg`, the addresses in `iomem` and `ioports`. The whole of `/proc` is
/// read-only besides: uid 0 of a jail that root started is the host's uid 0 to `/proc/sys` and
/// `/proc/sysrq-trigger`, capabilities or not.
pub const PROC_MASKED: &[SystemPath] = &[
    show(
        "/proc/cmdline",
        "boot parameters of the host, sometimes with secrets",
    ),
    show("/proc/interrupts", "a side channel on the host's devices"),
    show("/proc/kallsyms", "kernel addresses"),
    show("/proc/key-users", "key rings of other users"),
    show("/proc/keys", "key rings of the same uid"),
    show("/proc/kpagecgroup", "memory layout"),
    show("/proc/kpagecount", "memory layout"),
    show("/proc/kpageflags", "memory layout"),
    show("/proc/latency_stats", "what other processes wait for"),
    show("/proc/modules", "what the host's kernel has loaded"),
    show("/proc/pagetypeinfo", "memory layout"),
    show("/proc/sched_debug", "other processes"),
    show("/proc/slabinfo", "a side channel on the kernel's memory"),
    show("/proc/timer_list", "other processes"),
    show("/proc/timer_stats", "other processes"),
    show("/proc/vmallocinfo", "kernel addresses"),
];

/// Files that a jail gets written anew: what the host has there names its users and its network.
pub const SYNTHESISED: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
];
