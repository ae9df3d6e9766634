//! Unix sockets of the host: which of them a session may connect to, and which are as good as the
//! account they run under. Pure: whoever builds the jail looks at the files.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What becomes of a host's socket. Those that no profile names do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnixSocket {
    /// It shows, unless it is a dangerous one.
    Allow,
    /// It shows although it is a dangerous one.
    AllowDangerous,
    /// It does not show, whatever an extended profile says.
    Deny,
}

/// Places of dangerous sockets, `~/` being the caller's home: they are masked wherever they would show
/// without having been allowed, and a file that is one of them under another name is one of them.
pub const KNOWN: &[&str] = &[
    "/run/docker.sock",
    "/var/run/docker.sock",
    "~/.docker/run/docker.sock",
    "~/.docker/desktop/docker.sock",
    "~/.colima/default/docker.sock",
    "~/.rd/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/libvirt/libvirt-sock",
    "/run/libvirt/virtqemud-sock",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/run/incus/unix.socket",
    "/run/snapd.socket",
    "/run/systemd/private",
    "/run/dbus/system_bus_socket",
    "~/.gnupg/S.gpg-agent",
    "~/.gnupg/S.gpg-agent.ssh",
    "~/.gnupg/S.gpg-agent.extra",
    "~/.gnupg/S.gpg-agent.browser",
    "~/.gnupg/S.scdaemon",
    "~/.gnupg/S.keyboxd",
    "~/.1password/agent.sock",
    "~/.ssh/agent.sock",
    "/tmp/.X11-unix/X0",
    "/tmp/.X11-unix/X1",
    "/var/run/nscd/socket",
    "/run/nscd/socket",
    // It downloads what it is told to.
    "/nix/var/nix/daemon-socket/socket",
];

/// How a socket is told from its path.
enum Sign {
    /// The file's name.
    Name(&'static str),
    /// How the file's name begins.
    Begins(&'static str),
    /// A folder of this name above it, anywhere.
    Within(&'static str),
    /// A folder above it whose name begins so.
    WithinBeginning(&'static str),
    /// Below this path, `/var/run` being `/run`.
    Below(&'static str),
}

/// Signs of dangerous sockets, and what each is.
const SIGNS: &[(Sign, &str)] = &[
    (Sign::Begins("docker"), "Docker: root on the host"),
    (Sign::Begins("cri-dockerd"), "Docker: root on the host"),
    (Sign::Begins("dockershim"), "Docker: root on the host"),
    (Sign::Within("docker"), "Docker: root on the host"),
    (
        Sign::Begins("podman"),
        "Podman: containers with the owner's rights",
    ),
    (
        Sign::Within("podman"),
        "Podman: containers with the owner's rights",
    ),
    (Sign::Begins("containerd"), "containerd: root on the host"),
    (Sign::Within("containerd"), "containerd: root on the host"),
    (Sign::Begins("crio"), "CRI-O: root on the host"),
    (Sign::Begins("kubelet"), "Kubernetes: root on the host"),
    (
        Sign::Begins("buildkitd"),
        "BuildKit: builds with the owner's rights",
    ),
    (Sign::Within("libvirt"), "libvirt: the host's machines"),
    (Sign::Begins("libvirt"), "libvirt: the host's machines"),
    (Sign::Begins("virtqemud"), "libvirt: the host's machines"),
    (Sign::Within("lxd"), "LXD: root on the host"),
    (Sign::Within("incus"), "Incus: root on the host"),
    (Sign::Begins("snapd"), "snapd: installs software"),
    (
        Sign::Below("/run/systemd"),
        "systemd: starts and stops services",
    ),
    (Sign::Within("systemd"), "systemd: starts processes outside"),
    (
        Sign::Below("/run/dbus"),
        "the system bus: services that act for the caller",
    ),
    (
        Sign::Begins("system_bus_socket"),
        "the system bus: services that act for the caller",
    ),
    (Sign::Name("bus"), "a session bus: starts processes outside"),
    (
        Sign::Begins("dbus-"),
        "a session bus: starts processes outside",
    ),
    (
        Sign::WithinBeginning("ssh-"),
        "an SSH agent: the caller's keys",
    ),
    (Sign::Begins("ssh-agent"), "an SSH agent: the caller's keys"),
    (
        Sign::Begins("ssh_auth_sock"),
        "an SSH agent: the caller's keys",
    ),
    (
        Sign::Within(".ssh"),
        "SSH: the caller's connections and keys",
    ),
    (Sign::Begins("agent."), "an agent: the caller's keys"),
    (
        Sign::Within("keyring"),
        "the keyring: the caller's passwords",
    ),
    (
        Sign::Begins("S.gpg-agent"),
        "the GnuPG agent: the caller's keys",
    ),
    (
        Sign::Begins("S.scdaemon"),
        "the GnuPG agent: the caller's keys",
    ),
    (Sign::Within("gnupg"), "the GnuPG agent: the caller's keys"),
    (Sign::Within(".gnupg"), "the GnuPG agent: the caller's keys"),
    (
        Sign::Within(".X11-unix"),
        "X11: the caller's screen and keyboard",
    ),
    (
        Sign::Begins("wayland-"),
        "Wayland: the caller's screen and keyboard",
    ),
    (
        Sign::Begins("pipewire-"),
        "PipeWire: the caller's microphone",
    ),
    (Sign::Within("pulse"), "PulseAudio: the caller's microphone"),
    (Sign::Within("nscd"), "nscd: name lookups past the gate"),
    (Sign::Within("sssd"), "SSSD: the host's accounts"),
    (Sign::Within("polkit"), "polkit: grants rights"),
    (Sign::Within("polkit-1"), "polkit: grants rights"),
    (Sign::Within("udev"), "udev: the host's devices"),
    (
        Sign::Within("daemon-socket"),
        "the Nix daemon: downloads and builds outside",
    ),
    (
        Sign::WithinBeginning("tmux-"),
        "tmux: starts processes outside",
    ),
    (
        Sign::Within("screen"),
        "GNU screen: starts processes outside",
    ),
    (
        Sign::Within(".screen"),
        "GNU screen: starts processes outside",
    ),
    (
        Sign::WithinBeginning("emacs"),
        "an editor: runs code outside",
    ),
    (Sign::Begins("nvim"), "an editor: runs code outside"),
    (
        Sign::WithinBeginning("nvim"),
        "an editor: runs code outside",
    ),
    (Sign::Begins("vscode-"), "an editor: runs code outside"),
    (
        Sign::Within(".ansible"),
        "SSH: the caller's connections and keys",
    ),
    (
        Sign::Begins(".bitwarden-ssh-agent"),
        "an SSH agent: the caller's keys",
    ),
    (
        Sign::Begins("org.keepassxc."),
        "KeePassXC: the caller's passwords",
    ),
    (
        Sign::Within(".ICE-unix"),
        "the session manager: starts processes outside",
    ),
    (
        Sign::Within("at-spi"),
        "accessibility: the caller's screen and keyboard",
    ),
    (
        Sign::Begins("tailscaled"),
        "Tailscale: a network past the gate",
    ),
    (
        Sign::Within("avahi-daemon"),
        "Avahi: name lookups past the gate",
    ),
    (
        Sign::Within("portcullis"),
        "Portcullis itself: the log and the policy",
    ),
];

/// What is dangerous about a socket at this path, if something is.
pub fn danger(path: &Path) -> Option<&'static str> {
    let path = match path.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => path.to_owned(),
    };
    SIGNS
        .iter()
        .find(|(sign, _)| sign.is_of(&path))
        .map(|(_, what)| *what)
}

impl Sign {
    fn is_of(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        let begins = |begin: &str| name.as_encoded_bytes().starts_with(begin.as_bytes());
        let within = |is: &dyn Fn(&[u8]) -> bool| {
            let folders = path.parent().unwrap_or(path).components();
            folders
                .into_iter()
                .any(|folder| is(folder.as_os_str().as_encoded_bytes()))
        };
        match self {
            Self::Name(only) => name == *only,
            Self::Begins(begin) => begins(begin),
            Self::Within(folder) => within(&|name| name == folder.as_bytes()),
            Self::WithinBeginning(begin) => within(&|name| name.starts_with(begin.as_bytes())),
            Self::Below(folder) => path.starts_with(folder),
        }
    }
}

/// Reads the path of a socket as a profile or a flag has it: absolute or below `~/`, without `..`.
pub fn parse_path(text: &str) -> Result<PathBuf, &'static str> {
    let path = Path::new(text);
    let placed = text.starts_with('/') || text.starts_with("~/");
    let plain = |part: Component<'_>| !matches!(part, Component::ParentDir | Component::CurDir);
    let names_a_file = path.file_name().is_some() && !text.ends_with('/');
    if placed && names_a_file && path.components().all(plain) && !text.chars().any(char::is_control)
    {
        Ok(path.to_owned())
    } else {
        Err("a socket is named as \"/run/some.sock\" or \"~/below/home.sock\", without \"..\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_sockets_are_told_by_path_or_name_and_others_are_not() {
        for path in KNOWN {
            assert!(danger(Path::new(path)).is_some(), "{path}");
        }
        for path in [
            "/srv/docker.sock",
            "/var/run/docker-raw.sock",
            "/run/user/1000/bus",
            "/run/user/1000/systemd/private",
            "/run/user/1000/gnupg/d.abc/S.gpg-agent",
            "/run/user/1000/keyring/control",
            "/run/user/1000/wayland-0",
            "/run/user/1000/podman/podman.sock",
            "/run/systemd/journal/socket",
            "/var/run/systemd/notify",
            "/tmp/ssh-Xy12/agent.4711",
            "/tmp/dbus-abcdef",
            "/run/containerd/containerd.sock.ttrpc",
            "/run/libvirt/libvirt-sock-ro",
            "/tmp/tmux-1000/default",
            "/run/screen/S-ada/4711.tty",
            "/run/user/1000/emacs/server",
            "/run/user/1000/nvim.4711.0",
            "/run/user/1000/vscode-ipc-0.sock",
            "/home/ada/.bitwarden-ssh-agent.sock",
            "/run/user/1000/org.keepassxc.KeePassXC.BrowserServer",
            "/home/ada/.ansible/cp/0a1b2c",
            "/tmp/.ICE-unix/4711",
            "/run/user/1000/at-spi/bus_0",
            "/run/tailscale/tailscaled.sock",
            "/run/avahi-daemon/socket",
        ] {
            assert!(danger(Path::new(path)).is_some(), "{path}");
        }
        for path in [
            "/run/postgresql/.s.PGSQL.5432",
            "/run/mysqld/mysqld.sock",
            "/run/redis/redis.sock",
            "/srv/app/bus.sock",
            "/home/ada/app.sock",
        ] {
            assert_eq!(danger(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_socket_is_named_by_an_absolute_path_or_one_below_home() {
        for text in ["/run/some.sock", "~/x.sock"] {
            assert_eq!(parse_path(text), Ok(PathBuf::from(text)));
        }
        for odd in [
            "",
            "x.sock",
            "/",
            "~",
            "~/",
            "/run/",
            "/run/../x",
            "~ada/x",
            "/run/a\nb",
        ] {
            assert!(parse_path(odd).is_err(), "{odd:?}");
        }
    }
}
