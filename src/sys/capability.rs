//! Capabilities (capabilities(7)): given up, for good.

use caps::errors::CapsError;
use caps::{CapSet, CapsHashSet};

pub use caps::Capability;

/// Empties the ambient, bounding, inheritable, permitted and effective sets of this thread, in an
/// order in which each step is still permitted. Bounding first, because dropping from it needs
/// `CAP_SETPCAP`; a process without any capability cannot shrink it, but `no_new_privs` keeps
/// execve(2) from ever using it.
pub fn drop_all() -> Result<(), CapsError> {
    drop_to(&CapsHashSet::new())
}

/// The same but for one, which stays permitted if it was: it does nothing before [`raise`].
pub fn drop_all_but(kept: Capability) -> Result<(), CapsError> {
    let mut permitted = CapsHashSet::new();
    if caps::has_cap(None, CapSet::Permitted, kept)? {
        permitted.insert(kept);
    }
    drop_to(&permitted)
}

/// Has a capability that is permitted take effect.
pub fn raise(capability: Capability) -> Result<(), CapsError> {
    caps::raise(None, CapSet::Effective, capability)
}

fn drop_to(permitted: &CapsHashSet) -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    let none = CapsHashSet::new();
    for (set, wanted) in [
        (CapSet::Inheritable, &none),
        (CapSet::Effective, &none),
        (CapSet::Permitted, permitted),
    ] {
        // Whoever started us may have taken all of them, and capset(2) with them: systemd's filter does
        // (`SystemCallFilter=~@privileged`).
        if caps::read(None, set)? != *wanted {
            caps::set(None, set, wanted)?;
        }
    }
    Ok(())
}

/// Keeps these, permitted and effective, of those that there are, and passes none on: no program that is
/// executed next has any by us. The bounding set stays as it is.
pub fn keep_only(kept: &[Capability]) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept.iter().copied().collect();
    let kept = permitted.intersection(&kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Empties the bounding set, from which nothing comes back: while `CAP_SETPCAP` is effective.
pub fn forbid_all() -> Result<(), CapsError> {
    caps::clear(None, CapSet::Bounding)
}

/// Names of the capabilities left in any set of this thread, the bounding set included.
pub fn left() -> Result<Vec<String>, CapsError> {
    let mut names = Vec::new();
    for set in [
        CapSet::Ambient,
        CapSet::Bounding,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        names.extend(
            caps::read(None, set)?
                .iter()
                .map(|capability| format!("{set:?} {capability}")),
        );
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use nix::libc;
    use seccompiler::SeccompAction;

    use super::*;
    use crate::sys::seccomp;

    #[test]
    fn who_has_none_gives_them_up_where_a_filter_refuses_capset() {
        // On a thread of its own: capabilities and filters are a thread's.
        let thread = std::thread::spawn(|| {
            drop_all().unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            let errno = SeccompAction::Errno(libc::EPERM.unsigned_abs());
            let table = seccomp::Table::from([(libc::SYS_capset, Vec::new())]);
            seccomp::install(&seccomp::refuse(table, errno).unwrap()).unwrap();
            let refused = caps::set(None, CapSet::Effective, &CapsHashSet::new());
            assert!(refused.is_err(), "capset(2) works");
            drop_all().unwrap();
        });
        thread.join().unwrap();
    }
}
