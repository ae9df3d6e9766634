//! `portcullis audit` as a user sees it: output and exit codes of the real program.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]
#![expect(clippy::disallowed_methods, reason = "tests start the real program")]

mod checking;
mod exporting;
mod reading;
mod segments;
mod support;
mod users;
