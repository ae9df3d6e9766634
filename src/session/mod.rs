//! session

pub mod profiles;
pub mod registries;
