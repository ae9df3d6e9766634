//! What the host's admin insists on, as whoever started the gate says, and not the session: a policy that
//! somebody has the session send is held to it all the same.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::policy::{NetworkPolicy, OnFailure, Requirements};
use crate::sys::admin_file;

/// Where the requirements stand, for people.
const PLACE: &str = "/etc/portcullis/requirements.toml";

/// The terms of one gate. Without the service there are none: the session is its caller's own.
#[derive(Debug, Default)]
pub(super) struct Terms(Option<Requirements>);

impl Terms {
    /// Reads them; no file: the admin has written none. The error is one line.
    pub(super) fn read(file: Option<OwnedFd>) -> Result<Self, String> {
        let Some(file) = file else {
            return Ok(Self::default());
        };
        let text = admin_file::text(File::from(file));
        let text = text.map_err(|error| format!("read {PLACE}: {error}"))?;
        let required = Requirements::parse(PLACE, &text).map_err(|error| error.to_string())?;
        Ok(Self(Some(required)))
    }

    /// What happens while records cannot be kept, where the session says this.
    pub(super) fn on_failure(&self, wanted: OnFailure) -> OnFailure {
        let required = self.0.as_ref();
        required.map_or(wanted, |required| required.on_failure(wanted))
    }

    /// Leaves in a policy what they permit. The error is one line.
    pub(super) fn hold(&self, policy: &NetworkPolicy) -> Result<NetworkPolicy, String> {
        let mut held = policy.clone();
        if let Some(required) = &self.0 {
            held.hold_to(required);
            if policy.ceiling.is_some() && policy.ceiling != held.ceiling {
                return Err(format!(
                    "{PLACE} has changed since the session was started; end it and start another"
                ));
            }
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::sealed;

    fn terms(text: &str) -> Terms {
        Terms::read(Some(sealed("test", text.as_bytes()).unwrap().into())).unwrap()
    }

    #[test]
    fn a_policy_is_held_to_the_terms_whatever_it_says() {
        let wide = NetworkPolicy::default();
        let terms = terms("[network]\nmode = 'limited'\n[network.domains]\n'a.test' = 'allow'\n");
        let held = terms.hold(&wide).unwrap();
        assert_eq!(held.mode, crate::policy::profile::NetworkMode::Limited);
        assert!(held.ceiling.is_some());
        // Held already: nothing changes.
        assert_eq!(terms.hold(&held).unwrap(), held);
        let mut other = held.clone();
        other.ceiling = Some(Vec::new());
        assert!(terms.hold(&other).unwrap_err().contains("has changed"));
        assert_eq!(Terms::default().hold(&wide).unwrap(), wide);
    }

    #[test]
    fn a_session_goes_on_without_records_only_where_the_terms_let_it() {
        let strict = terms("[audit]\non_failure = 'block'\n");
        assert_eq!(strict.on_failure(OnFailure::Continue), OnFailure::Block);
        let lax = terms("[audit]\non_failure = 'continue'\n");
        assert_eq!(lax.on_failure(OnFailure::Continue), OnFailure::Continue);
        assert_eq!(lax.on_failure(OnFailure::Block), OnFailure::Block);
        let none = Terms::default();
        assert_eq!(none.on_failure(OnFailure::Continue), OnFailure::Continue);
    }

    #[test]
    fn terms_that_cannot_be_read_are_none_to_start_by() {
        let file = sealed("test", b"[network]\nmoed = 1\n").unwrap();
        assert!(Terms::read(Some(file.into())).unwrap_err().contains("moed"));
    }
}
