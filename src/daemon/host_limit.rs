//! Which limit of the host was reached, and where it is set: the kernel's own words name none.

use std::io;

use rustix::io::Errno;

/// What to add to the words of an error of starting something; nothing where it is not about a limit.
pub(super) fn named(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        // RLIMIT_NOFILE
        Some(Errno::MFILE) => {
            "; eight for each session: raise LimitNOFILE= (systemctl edit portcullisd.service)"
        }
        Some(Errno::NFILE) => "; raise sysctl fs.file-max",
        // fork(2)
        Some(Errno::AGAIN) => {
            "; as many processes as there may be: raise TasksMax= of portcullis.slice, or sysctl kernel.pid_max"
        }
        _ => "",
    }
}

/// The same of an error of making a user namespace.
pub(super) fn named_of_namespaces(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        // unshare(2); EUSERS before Linux 4.9
        Some(Errno::NOSPC | Errno::USERS) => "; raise sysctl user.max_user_namespaces",
        _ => named(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_and_nothing_else_is_blamed() {
        let of = |errno: Errno| named(&errno.into());
        assert!(of(Errno::MFILE).contains("LimitNOFILE="));
        assert!(of(Errno::NFILE).contains("fs.file-max"));
        assert!(of(Errno::AGAIN).contains("TasksMax="));
        assert_eq!((of(Errno::ACCESS), of(Errno::NOSPC)), ("", ""));
        let of_namespaces = |errno: Errno| named_of_namespaces(&errno.into());
        assert!(of_namespaces(Errno::NOSPC).contains("user.max_user_namespaces"));
        assert!(of_namespaces(Errno::AGAIN).contains("TasksMax="));
        assert_eq!(named(&io::ErrorKind::WouldBlock.into()), "");
        assert_eq!(named(&io::Error::other("else")), "");
    }
}
