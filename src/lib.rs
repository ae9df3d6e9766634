//! Portcullis launches Codex sessions in jails whose only way out is an audited gate.
//!
//! This file is the map: one module a noun, leaves first. A module imports only modules above it
//! (`tests/architecture.rs` holds that), and a process never imports another process: they talk over
//! [`wire`]. `ARCHITECTURE.md` walks a request and a launch through these files.

pub mod exit;
pub mod ids;
pub mod secret;

pub mod sys;

pub mod policy;

pub mod audit;

pub mod codex;

pub mod wire;

pub mod jail;

pub mod gate;

pub mod session;

pub mod daemon;

pub mod cli;
