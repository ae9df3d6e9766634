//! Codex as a client of the jail: what is known about its versions, in one place.
//!
//! Owns: where the native binary is ([`package`]), the configuration that the jail imposes
//! ([`config`]), its command line ([`argv`]), the environment ([`environment`], [`proxy_environment`]).
//! Trusts: nothing; callers hand in text. Never: reads a file, the environment or a clock.
#![forbid(unsafe_code)]

pub mod argv;
pub mod config;
pub mod environment;
pub mod package;
pub mod proxy_environment;
