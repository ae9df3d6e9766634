//! What names this host in records and in the ledger.

use super::record;

/// The host's name in every record: of its machine-id(5), or of its node name where it has none, as in
/// containers.
pub fn id() -> String {
    let known = std::fs::read_to_string("/etc/machine-id")
        .ok()
        .filter(|id| !id.trim().is_empty());
    record::host_id(&known.unwrap_or_else(|| {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    }))
}
