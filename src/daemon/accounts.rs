//! passwd(5) and group(5), read from the files themselves: the C library's lookups would load whatever
//! `nsswitch.conf` names into a process of root, and some of that asks the network.
//!
//! Who is in no file keeps their number for a name.

use std::fs::read_to_string;
use std::io;

/// The entries that count. A later entry of the same name or number does not, as in the C library.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: Vec<Entry>,
    groups: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    id: u32,
    /// Of a user: their group.
    group: u32,
}

impl Accounts {
    /// Reads both files.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(
            &read_to_string("/etc/passwd")?,
            &read_to_string("/etc/group")?,
        ))
    }

    /// Reads both texts. Lines that are none are left out.
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd
                .lines()
                .filter_map(|line| entry(line, true))
                .collect(),
            groups: group
                .lines()
                .filter_map(|line| entry(line, false))
                .collect(),
        }
    }

    /// The name of a user, or their number.
    pub fn user_name(&self, uid: u32) -> String {
        let known = self.users.iter().find(|entry| entry.id == uid);
        known.map_or_else(|| uid.to_string(), |entry| entry.name.clone())
    }

    /// A user by name: their number and their group's.
    pub fn user(&self, name: &str) -> Option<(u32, u32)> {
        let known = self.users.iter().find(|entry| entry.name == name)?;
        Some((known.id, known.group))
    }

    /// A group by name.
    pub fn group(&self, name: &str) -> Option<u32> {
        let known = self.groups.iter().find(|entry| entry.name == name)?;
        Some(known.id)
    }
}

/// `name:password:id:…`, for a user with the group's number behind it. No name begins with `+` or `-`: those
/// are for NIS.
fn entry(line: &str, user: bool) -> Option<Entry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    if name.starts_with(['+', '-', '#']) {
        return None;
    }
    let id = fields.nth(1)?.parse().ok()?;
    let group = if user {
        fields.next()?.parse().ok()?
    } else {
        id
    };
    Some(Entry {
        name: name.to_owned(),
        id,
        group,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_files() {
        let accounts = Accounts::parse(
            "root:x:0:0::/root:/bin/sh\nada:x:1000:100::/home/ada:\n+nis:::\nbroken\nada:x:7:7::/:\n",
            "root:x:0:\nusers:x:100:ada\n",
        );
        assert_eq!(accounts.user_name(1000), "ada");
        assert_eq!(accounts.user_name(4001), "4001");
        assert_eq!(accounts.user("ada"), Some((1000, 100)));
        assert_eq!((accounts.user("nis"), accounts.user("bob")), (None, None));
        assert_eq!(
            (accounts.group("users"), accounts.group("ada")),
            (Some(100), None)
        );
    }
}
