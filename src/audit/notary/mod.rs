//! notary
/// Where the service keeps logs.
pub const LOGS: &str = "/var/log/portcullis";
/// Where it keeps the key.
pub const STATE: &str = "/var/lib/portcullis-notary";
