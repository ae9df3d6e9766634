//! The jail: what of the host shows in it, and what its processes may ask of the kernel.
//!
//! Owns: the list of mounts and bubblewrap's arguments, protected paths and their placeholders, the
//! first process in the jail with its Landlock rules and seccomp tables. Trusts: the session's
//! request and bubblewrap. Never: opens a way to the network, decides about traffic, resolves a name
//! twice, starts with less confinement than the profile's floor.
//!
//! Reading order: [`footing`] (in whose user namespace) → [`spec`] (what a jail is made of) → [`system`] (the host's paths, a reason a line) →
//! `layout`, `unix_socket`, `protect`, `replace`, `mask` (policy → mounts) → [`bwrap`] (mounts → arguments) → `stage` → [`start`] →
//! [`init`] (the numbered list inside) → `takeover`, `landlock`, `syscalls`, [`seccomp`]. `placeholder` and `sweep` are the
//! two sides of what stands on the host for as long as a session runs, `held` is what both hold; [`cgroup`] makes the groups that limit it; [`orphan`] ends jails whose session was killed at the wrong moment. [`intercept`] with `netlink`, `routes` and
//! `tproxy` makes the network of a jail lead to the gate, for programs that know no proxy; [`reach`] connects to
//! what listens in it, [`witness`] says which of its processes made a connection.
#![forbid(unsafe_code)]

pub mod bwrap;
pub mod cgroup;
pub mod error;
pub mod footing;
mod held;
pub mod identity;
pub mod init;
pub mod intercept;
mod landlock;
mod layout;
mod mask;
mod netlink;
pub mod orphan;
mod placeholder;
mod protect;
pub mod reach;
mod replace;
mod routes;
pub mod seccomp;
mod source;
pub mod spec;
mod stage;
pub mod start;
mod sweep;
mod syscalls;
pub mod system;
mod takeover;
mod tproxy;
mod unix_socket;
pub mod witness;

pub use bwrap::Bwrap;
pub use error::JailError;
pub use footing::Footing;
pub use identity::{UserNames, name_service};
pub use intercept::Interceptor;
pub(crate) use placeholder::Sweeper;
pub use source::links_on_the_way;
pub use spec::JailSpec;
pub(crate) use start::prepare_in;
pub use start::{GivenGroups, JailRequest, Prepared, Running, prepare};
pub use witness::Witness;
