//! The ledger: what it proves, and that it survives whatever ends who writes it. The oracle is a verifier of sixty
//! lines of Python that knows nothing but the documented format.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]
#![expect(clippy::disallowed_methods, reason = "tests start the real programs")]

mod commands;
mod crashing;
mod notary;
mod rolling;
mod support;
mod tampering;
