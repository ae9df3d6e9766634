//! Random bytes, from the cryptography library's generator: the gate opens no file for them.

use rustls::crypto::{GetRandomFailed, aws_lc_rs};

/// This many of them.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N], GetRandomFailed> {
    let mut bytes = [0; N];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)?;
    Ok(bytes)
}
