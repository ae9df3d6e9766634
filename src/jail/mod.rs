//! The jail.
#![forbid(unsafe_code)]

pub mod init;
