//! Codex as the jail's main guest: where its native binary is, how it is configured, what its command
//! line and environment must say so that the jail is its one sandbox.
//!
//! Owns: everything that is peculiar to Codex. Trusts: nothing; it only turns values into values.
//! Never: reads a file, the environment, a clock or the network (callers hand in text and values).
//! Each rule says which versions it was tried with; `tests/e2e` holds it against real ones.
//!
//! Reading order: [`package`] (what is executed) → [`config`] and [`argv`] (how its own sandbox is
//! switched off and the jail's mode narrowed instead) → [`environment`] → [`auth`] (a
//! sign-in without its secrets). [`mod@proxy_environment`] and
//! [`mod@trust_environment`] are for every command, Codex or not.
#![forbid(unsafe_code)]

pub mod argv;
pub mod auth;
pub mod config;
pub mod environment;
pub mod package;
pub mod proxy_environment;
pub mod trust_environment;

pub use argv::{Confined, confine};
pub use config::{MANAGED_CONFIG, managed_config};
pub use environment::credentials;
pub use package::{Arch, NativeLayout};
pub use proxy_environment::{Loopback, ProxyPorts, proxy_environment};
pub use trust_environment::{TrustFiles, names_trust, trust_environment};
