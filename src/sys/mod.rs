//! The kernel, with types. The only place with `unsafe`; every block says why it is sound.
//!
//! Owns: inherited descriptors ([`fd`]), children ([`process`], our own programs [`beside`]) and who they are
//! ([`identity`], in a namespace that root made: [`userns`], on a [`stage`]), what a process takes from itself
//! ([`harden`], [`capability`], [`seccomp`]) and gives back ([`memory`]), signals ([`signal`]), the way into another network namespace
//! ([`namespace`]), who is at the other end of a socket ([`peer`]), files of the host's admin ([`admin_file`]). Trusts: the kernel. Never: knows what a session, a profile or a rule is.

pub mod admin_file;
pub mod beside;
pub mod capability;
pub mod close;
pub mod fd;
pub mod folder_signal;
pub mod harden;
pub mod identity;
pub mod memory;
pub mod namespace;
pub mod peer;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod stage;
pub mod userns;
