//! The process in the jail that made a connection, as it was seen from outside when the gate accepted that.
//!
//! Nothing here is the word of the process itself but `argv`, which it can change as it likes (proc(5),
//! `/proc/pid/cmdline`). Bytes that are no UTF-8 are written as `\x` and two hexadecimal digits.

use serde::{Deserialize, Serialize};

/// The most ancestors of one process.
pub const MAX_PARENTS: usize = 8;

/// The most arguments of one process.
pub const MAX_ARGUMENTS: usize = 64;

/// Who made a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number in the jail.
    pub pid: u32,
    /// Its number outside.
    pub host_pid: u32,
    /// The file it executes, by its path in the jail; ` (deleted)` follows one that is gone. Empty: the kernel
    /// does not say.
    pub exe: String,
    /// Its command line, as the process itself shows it; at most [`MAX_ARGUMENTS`] arguments in 4 KiB, of each at most 1 KiB.
    pub argv: Vec<String>,
    /// Who started it, the nearest first, up to the session's command, at most [`MAX_PARENTS`]. Empty where its
    /// parent has ended, and for the command itself.
    pub parents: Vec<Parent>,
    /// How many other processes held the same socket, at least. Of several the one that started first is named.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared_with: u32,
}

impl Process {
    /// Everything that it says of itself, or that its file is called.
    pub fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let parents = self.parents.iter_mut().map(|parent| &mut parent.exe);
        std::iter::once(&mut self.exe)
            .chain(&mut self.argv)
            .chain(parents)
    }
}

/// An ancestor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its number in the jail.
    pub pid: u32,
    /// As [`Process::exe`].
    pub exe: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Process {
    /// The last name of the file, without what the kernel adds when it is gone.
    pub fn name(&self) -> &str {
        let path = self.exe.strip_suffix(" (deleted)").unwrap_or(&self.exe);
        path.rsplit_once('/').map_or(path, |(_, name)| name)
    }
}

/// Why nobody is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessUnknown {
    /// The program had closed the connection, or ended, before it was looked for.
    Gone,
    /// The connection stands, and no process of the jail was found to hold it.
    NotFound,
    /// The same, and not every process of the jail could be looked at.
    Unreadable,
    /// There was no answer in time.
    Timeout,
    /// The kernel's table of connections could not be read.
    Failed,
    /// The process that looks for it has ended.
    NoWitness,
}

impl std::fmt::Display for ProcessUnknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gone => "gone",
            Self::NotFound => "not_found",
            Self::Unreadable => "unreadable",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::NoWitness => "no_witness",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_called_by_the_last_name_of_its_file() {
        for (exe, name) in [
            ("/usr/bin/curl", "curl"),
            ("/opt/a (deleted)", "a"),
            ("", ""),
            ("odd", "odd"),
        ] {
            let process = Process {
                pid: 2,
                host_pid: 3,
                exe: exe.to_owned(),
                argv: Vec::new(),
                parents: Vec::new(),
                shared_with: 0,
            };
            assert_eq!(process.name(), name);
        }
    }
}
