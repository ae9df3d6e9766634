//! What is kept of logs and what goes: by age and size, with holds, packed, and with tombstones by which both
//! verifiers hold.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]
#![expect(clippy::disallowed_methods, reason = "tests start the real programs")]

mod keep;
#[expect(dead_code, reason = "shared with the tests of the ledger")]
#[path = "../audit_ledger/support.rs"]
mod ledger;
mod removing;
mod tampering;
