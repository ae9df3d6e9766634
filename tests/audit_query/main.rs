//! `portcullis audit query`, `stats`, `report` and the filters of `tail`, over real logs: what is found is what
//! stands in the logs, whatever the index says.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]
#![expect(clippy::disallowed_methods, reason = "tests start the real program")]

mod filters;
mod index;
mod many;
mod oracle;
mod report;
mod support;
