//! `--mitm` and `--no-mitm`, for the verbs that take flags over a profile.

/// Whether TLS is inspected, against what the profile says.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Mitm {
    /// Look into TLS, where the profile's [network.tls] says nothing else
    #[arg(long, overrides_with = "no_mitm")]
    mitm: bool,
    /// Do not look into TLS, where the profile's [network.tls] says nothing else
    #[arg(long, overrides_with = "mitm")]
    no_mitm: bool,
}

impl Mitm {
    /// What was said last, if anything.
    pub fn chosen(self) -> Option<bool> {
        match (self.mitm, self.no_mitm) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}
