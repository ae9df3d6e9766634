//! The kernel, with types. The only place with `unsafe`; every block says why it is sound.
//!
//! Owns: inherited descriptors ([`fd`]), children ([`process`], our own programs [`beside`]), what a process takes from itself
//! ([`harden`], [`capability`], [`seccomp`]), signals ([`signal`]), the way into another network namespace
//! ([`namespace`]). Trusts: the kernel. Never: knows what a session, a profile or a rule is.

pub mod beside;
pub mod capability;
pub mod fd;
pub mod folder_signal;
pub mod harden;
pub mod namespace;
pub mod process;
pub mod seccomp;
pub mod signal;
