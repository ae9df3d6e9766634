//! A Java key store of authorities alone, in the one form that every JVM reads (JKS, version 2). There
//! is no specification but `sun.security.provider.JavaKeyStore` of OpenJDK.

use rustls::pki_types::CertificateDer;
use sha1::{Digest, Sha1};

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// The tag of an entry that holds a certificate and no key.
const TRUSTED: u32 = 2;

/// What Java's own trust store has for a password: it guards nothing, and its digest tells only whether
/// the file is whole. Clients that give none do not check it.
const PASSWORD: &str = "changeit";

/// A key store that trusts these, under the aliases `portcullis-0` and so on. Their date is the epoch: the
/// same authorities make the same bytes.
pub fn encode(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [MAGIC, VERSION, length(certificates)] {
        bytes.extend(word.to_be_bytes());
    }
    for (i, certificate) in certificates.iter().enumerate() {
        bytes.extend(TRUSTED.to_be_bytes());
        text(&mut bytes, &format!("portcullis-{i}"));
        bytes.extend(0_u64.to_be_bytes());
        text(&mut bytes, "X.509");
        bytes.extend(length(certificate).to_be_bytes());
        bytes.extend(certificate.as_ref());
    }
    let mut digest = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        digest.update(unit.to_be_bytes());
    }
    digest.update(b"Mighty Aphrodite");
    digest.update(&bytes);
    bytes.extend(digest.finalize());
    bytes
}

/// What a trust store is held to ([`super::trust_store`]) is far below 4 GiB.
fn length<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

/// ASCII as `DataOutputStream.writeUTF` has it.
fn text(bytes: &mut Vec<u8>, ascii: &str) {
    let length = u16::try_from(ascii.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend(ascii.as_bytes());
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests start Java's own tool")]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn javas_own_tool_reads_every_authority_and_finds_the_file_whole() {
        let folder = tempfile::tempdir().unwrap();
        let certificates: Vec<CertificateDer<'static>> = ["a.test", "b.test"]
            .map(|name| {
                let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
                made.cert.der().clone()
            })
            .to_vec();
        let file = folder.path().join("cacerts");
        let list = |password: &str| {
            let output = Command::new("keytool")
                .args(["-J-Duser.language=en", "-list", "-storepass", password])
                .arg("-keystore")
                .arg(&file)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let whole = encode(&certificates);
        std::fs::write(&file, &whole).unwrap();
        let listed = list("changeit");
        assert!(listed.contains("contains 2 entries"), "{listed}");
        for (alias, certificate) in ["portcullis-0", "portcullis-1"].iter().zip(&certificates) {
            use sha2::Digest as _;
            let print = sha2::Sha256::digest(certificate.as_ref())
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect::<Vec<_>>()
                .join(":");
            assert!(
                listed.contains(alias) && listed.contains(&print),
                "{listed}"
            );
        }
        // The twin: a bit that changed is seen.
        let mut torn = whole;
        let inside = torn.len() - 30;
        torn[inside] ^= 1;
        std::fs::write(&file, &torn).unwrap();
        assert!(!list("changeit").contains("contains 2 entries"));
    }
}
