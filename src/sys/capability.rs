//! Capabilities (capabilities(7)): all given up, for good.

use caps::CapSet;
use caps::errors::CapsError;

/// Empties the ambient, bounding, inheritable, permitted and effective sets of this thread, in an
/// order in which each step is still permitted. Bounding first, because dropping from it needs
/// `CAP_SETPCAP`; a process without any capability cannot shrink it, but `no_new_privs` keeps
/// execve(2) from ever using it.
pub fn drop_all() -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)
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
