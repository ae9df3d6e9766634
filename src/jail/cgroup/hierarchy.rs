//! Which control group hierarchies this process sees, and where in each it is (cgroups(7)): the texts of
//! `/proc/self/mountinfo` and `/proc/self/cgroup`. Pure; what is odd is left out, and is then not used.

use std::path::{Component, Path, PathBuf};

/// The two kinds of hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One for some controllers.
    V1,
    /// The one for all controllers that no other has.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its kind.
    pub(super) version: Version,
    /// Its controllers. Empty with version 2, whose groups say themselves which they have.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The folder of the group that this process is in.
    pub(super) own: PathBuf,
}

/// Reads both texts.
pub(super) fn parse(mountinfo: &str, membership: &str) -> Vec<Hierarchy> {
    let lines = mountinfo.lines().filter_map(mount);
    let found = lines.filter_map(|mount| hierarchy(mount, membership));
    found.collect()
}

/// What a line of mountinfo says of a hierarchy.
struct Mount<'a> {
    version: Version,
    /// The group that shows at the mount point.
    root: String,
    point: PathBuf,
    /// The options of the hierarchy, controllers among them.
    options: &'a str,
}

/// `36 35 98:0 /root /point rw,noatime master:1 - type source options` (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<Mount<'_>> {
    let (first, second) = line.split_once(" - ")?;
    let mut second = second.split(' ');
    let version = match second.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = second.nth(1)?;
    let mut first = first.split(' ').skip(3);
    let root = unescaped(first.next()?)?;
    let point = PathBuf::from(unescaped(first.next()?)?);
    point.is_absolute().then_some(Mount {
        version,
        root,
        point,
        options,
    })
}

/// Space, tab, line break and backslash are written as three octal digits.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('\\');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        plain.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        plain.push_str(rest);
    }
    Some(plain)
}

fn hierarchy(mount: Mount<'_>, membership: &str) -> Option<Hierarchy> {
    let named: Vec<&str> = mount.options.split(',').collect();
    // `4:memory:/path`, `9:name=systemd:/path`, `0::/path`; a path may have colons.
    let mut lines = membership.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?))
    });
    let (controllers, path) = lines.find(|(controllers, _)| match mount.version {
        Version::V2 => controllers.is_empty(),
        Version::V1 => {
            !controllers.is_empty() && controllers.split(',').all(|one| named.contains(&one))
        }
    })?;
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    // A group outside of what a namespace shows is written with "..".
    let plain = below
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    plain.then(|| Hierarchy {
        version: mount.version,
        controllers: match mount.version {
            Version::V1 => controllers.split(',').map(ToOwned::to_owned).collect(),
            Version::V2 => Vec::new(),
        },
        // An empty path would add a slash.
        own: if below.as_os_str().is_empty() {
            mount.point.clone()
        } else {
            mount.point.join(below)
        },
        mount: mount.point,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(version: Version, controllers: &[&str], mount: &str, own: &str) -> Hierarchy {
        Hierarchy {
            version,
            controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
            mount: mount.into(),
            own: own.into(),
        }
    }

    #[test]
    fn version_1_beside_an_almost_empty_version_2() {
        let mountinfo = "\
23 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let membership = "9:name=systemd:/\n4:memory:/jobs/a\n1:cpu:/\n0::/\n";
        assert_eq!(
            parse(mountinfo, membership),
            [
                one(
                    Version::V1,
                    &["cpu"],
                    "/sys/fs/cgroup/cpu",
                    "/sys/fs/cgroup/cpu"
                ),
                one(
                    Version::V1,
                    &["memory"],
                    "/sys/fs/cgroup/memory",
                    "/sys/fs/cgroup/memory/jobs/a"
                ),
                one(
                    Version::V1,
                    &["name=systemd"],
                    "/sys/fs/cgroup/systemd",
                    "/sys/fs/cgroup/systemd"
                ),
                one(
                    Version::V2,
                    &[],
                    "/sys/fs/cgroup/unified",
                    "/sys/fs/cgroup/unified"
                ),
            ]
        );
    }

    #[test]
    fn controllers_that_are_mounted_together() {
        let mountinfo = "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n";
        let own = "/sys/fs/cgroup/cpu,cpuacct/user.slice";
        assert_eq!(
            parse(mountinfo, "3:cpu,cpuacct:/user.slice\n"),
            [one(
                Version::V1,
                &["cpu", "cpuacct"],
                "/sys/fs/cgroup/cpu,cpuacct",
                own
            )]
        );
    }

    #[test]
    fn a_scope_that_systemd_delegated() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let scope = "/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope";
        let own = format!("/sys/fs/cgroup{scope}");
        assert_eq!(
            parse(mountinfo, &format!("0::{scope}\n")),
            [one(Version::V2, &[], "/sys/fs/cgroup", &own)]
        );
    }

    #[test]
    fn a_container_that_sees_its_own_part_alone() {
        // Its own namespace of groups: everything starts at its root.
        let v2 = "900 880 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        let root = one(Version::V2, &[], "/sys/fs/cgroup", "/sys/fs/cgroup");
        assert_eq!(parse(v2, "0::/\n"), [root]);
        // The host's names, with the container's group at the mount point.
        let v1 = "901 880 0:30 /docker/c1 /sys/fs/cgroup/pids ro - cgroup pids rw,pids\n";
        let own = |own| [one(Version::V1, &["pids"], "/sys/fs/cgroup/pids", own)];
        assert_eq!(parse(v1, "5:pids:/docker/c1\n"), own("/sys/fs/cgroup/pids"));
        assert_eq!(
            parse(v1, "5:pids:/docker/c1/x:y\n"),
            own("/sys/fs/cgroup/pids/x:y")
        );
    }

    #[test]
    fn what_is_odd_is_left_out() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for membership in [
            "",
            "0::/../other\n",
            "0::relative\n",
            "garbage\n",
            "4:memory:/\n",
        ] {
            assert_eq!(parse(mountinfo, membership), [], "{membership:?}");
        }
        for mountinfo in [
            "",
            "30 23 0:26 / /sys/fs/cgroup rw",
            "30 23 0:26 / relative rw - cgroup2 cgroup2 rw",
            "30 23 0:26 /elsewhere /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "30 23 0:26 / /a\\9 rw - cgroup2 cgroup2 rw",
            "30 - cgroup2",
        ] {
            assert_eq!(parse(mountinfo, "0::/\n"), [], "{mountinfo:?}");
        }
        let spaced = "30 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw";
        assert_eq!(
            parse(spaced, "0::/\n"),
            [one(Version::V2, &[], "/a b", "/a b")]
        );
    }
}
