//! The files that say who and where we are, written anew for the jail: one user, no network.

use std::path::{Path, PathBuf};

/// The caller, as the jail knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNames {
    /// The caller's user id; the same inside.
    pub uid: u32,
    /// The caller's group id; the same inside.
    pub gid: u32,
    /// The user's name.
    pub user: String,
    /// The group's name.
    pub group: String,
}

/// The files' places and contents.
pub(crate) fn files(user: &UserNames, home: &Path, hostname: &str) -> Vec<(PathBuf, Vec<u8>)> {
    [
        ("/etc/passwd", passwd(user, home)),
        ("/etc/group", group(user)),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost {hostname}\n::1 localhost {hostname}\n"),
        ),
        ("/etc/hostname", format!("{hostname}\n")),
    ]
    .map(|(path, text)| (PathBuf::from(path), text.into_bytes()))
    .into_iter()
    .chain(name_service(false))
    .collect()
}

/// Where programs look for names, and whom they ask. With a name server of the jail's own: the gate behind
/// 127.0.0.1. No search list, because a name that the policy speaks of is a whole one; no other option,
/// because what a C library does by itself is enough.
pub fn name_service(asks_the_gate: bool) -> [(PathBuf, Vec<u8>); 2] {
    let (hosts, resolver) = if asks_the_gate {
        let resolver = "# The gate answers, for names that the policy may allow, and looks nothing up.\n\
                        nameserver 127.0.0.1\n";
        ("files dns", resolver)
    } else {
        let resolver = "# No name server: the gate resolves names, after its decision.\n";
        ("files", resolver)
    };
    let switch = format!(
        "passwd: files\ngroup: files\nshadow: files\nhosts: {hosts}\nservices: files\nprotocols: files\n"
    );
    [
        ("/etc/nsswitch.conf", switch),
        ("/etc/resolv.conf", resolver.to_owned()),
    ]
    .map(|(path, text)| (PathBuf::from(path), text.into_bytes()))
}

/// passwd(5): the user, root for programs that look it up, and the name under which the files of
/// everyone else show (user_namespaces(7): unmapped ids).
fn passwd(user: &UserNames, home: &Path) -> String {
    let mut text = format!(
        "{}:x:{}:{}::{}:{}\n",
        field(&user.user),
        user.uid,
        user.gid,
        field(&home.to_string_lossy()),
        login_shell(),
    );
    if user.uid != 0 {
        text.push_str("root:x:0:0::/:/usr/sbin/nologin\n");
    }
    text.push_str("nobody:x:65534:65534::/:/usr/sbin/nologin\n");
    text
}

/// What agents write for; a host without bash has at least sh(1). Codex runs its commands with it.
pub fn login_shell() -> &'static str {
    if Path::new("/bin/bash").exists() {
        "/bin/bash"
    } else {
        "/bin/sh"
    }
}

fn group(user: &UserNames) -> String {
    let mut text = format!("{}:x:{}:\n", field(&user.group), user.gid);
    if user.gid != 0 {
        text.push_str("root:x:0:\n");
    }
    text.push_str("nogroup:x:65534:\n");
    text
}

/// A value that cannot end its field or its line.
fn field(text: &str) -> String {
    text.replace([':', '\n', '\0'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_colon_or_newline_cannot_add_a_user() {
        let user = UserNames {
            uid: 4001,
            gid: 4001,
            user: "eve\nroot2:x:0:0".to_owned(),
            group: "eve".to_owned(),
        };
        assert_eq!(
            passwd(&user, Path::new("/home/eve")),
            format!(
                "eve_root2_x_0_0:x:4001:4001::/home/eve:{}\n\
                 root:x:0:0::/:/usr/sbin/nologin\n\
                 nobody:x:65534:65534::/:/usr/sbin/nologin\n",
                login_shell()
            )
        );
    }
}
