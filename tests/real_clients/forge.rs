//! An OpenSSH server with a repository, as a forge has it: user `git`, port 22, keys alone.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Who `git` is, in the server's own user database.
const GIT: u32 = 4022;

/// Ended when dropped.
pub(crate) struct Forge {
    pub(crate) address: Ipv4Addr,
    child: Child,
    folder: tempfile::TempDir,
}

impl Forge {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let mut made = shell(
            folder.path(),
            "git init -q -b main r && cd r && echo text > file && git add file \
             && git -c user.name=t -c user.email=t@t.test commit -q -m one && cd .. \
             && git clone -q --bare r repository.git && chown -R \"$0\" repository.git \
             && ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f user \
             && mkdir home && cp user.pub home/authorized_keys",
        );
        assert!(made.args([GIT.to_string()]).status().unwrap().success());
        chown(folder.path().join("home"), Some(GIT), Some(GIT)).unwrap();
        let address = free_address();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let passwd = format!(
            "root:*:0:0::/root:/bin/sh\nsshd:*:65533:65533::/run/sshd:/usr/sbin/nologin\n\
             git:*:{GIT}:{GIT}::{}:/usr/bin/git-shell\n",
            at("home")
        );
        std::fs::write(at("passwd"), passwd).unwrap();
        let config = format!(
            "ListenAddress {address}:22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nLogLevel VERBOSE\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            at("host"),
            at("home/authorized_keys")
        );
        std::fs::write(at("config"), config).unwrap();
        // Its folder for giving up rights is there after a boot; it and the users are the server's alone.
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(
                "mount -t tmpfs tmpfs /run && mkdir /run/sshd && mount --bind passwd /etc/passwd \
                 && exec /usr/sbin/sshd -D -e -f config",
            )
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let forge = Self {
            address,
            child,
            folder,
        };
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((address, 22)).is_err() {
            assert!(Instant::now() < end, "no SSH server: {}", forge.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        forge
    }

    /// What the server told of itself.
    pub(crate) fn log(&self) -> String {
        self.text("log")
    }

    /// The key that opens it.
    pub(crate) fn user_key(&self) -> String {
        self.text("user")
    }

    /// A line of `known_hosts` for it under these names.
    pub(crate) fn known_as(&self, names: &str) -> String {
        format!("{names} {}", self.text("host.pub"))
    }

    /// An address of a repository, for any host.
    pub(crate) fn url(&self, authority: &str) -> String {
        let path = self.folder.path().join("repository.git");
        format!("ssh://git@{authority}{}", path.display())
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn shell(folder: &Path, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(folder);
    shell
}

/// A loopback address of whose port 22 nobody else makes use.
fn free_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id().to_be_bytes();
    loop {
        let last = NEXT.fetch_add(1, Ordering::SeqCst);
        let address = Ipv4Addr::new(127, 0x60 ^ process[2], process[3], last);
        if TcpListener::bind((address, 22)).is_ok() {
            return address;
        }
    }
}
