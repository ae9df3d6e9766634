//! What makes the jail trust the session's CA: the files it is shown, at places of our own for the
//! clients that go by a variable, and over the system's own for those that do not.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::codex::TrustFiles;
use crate::policy::EnvironmentPolicy;
use crate::sys::process::find_in_path;

use super::caller::Caller;
use super::java_keystore;
use super::trust_store::{BUNDLES, TrustStore, pem_of};

/// Where the jail has every authority: below `/run`, which is its own in every mode.
const BUNDLE: &str = "/run/portcullis/ca-bundle.pem";

/// Where the jail has the session's CA alone.
const AUTHORITY: &str = "/run/portcullis/ca.pem";

/// The same for the variables.
pub const FILES: TrustFiles<'_> = TrustFiles {
    bundle: BUNDLE,
    authority: AUTHORITY,
};

/// Where a JVM has its authorities, below its own folder: from Java 9 on, and before.
const BELOW_JAVA: [&str; 2] = ["lib/security/cacerts", "jre/lib/security/cacerts"];

/// Where distributions keep one such file for every JVM.
const SHARED_BY_JVMS: [&str; 2] = ["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts"];

/// The files of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailTrust {
    /// New ones, with their places.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Those that stand in for the host's, wherever the host's show.
    pub replaced: Vec<(PathBuf, Vec<u8>)>,
}

impl JailTrust {
    /// The session's CA before all that the gate trusts. `None`: the gate sent no certificate, or more
    /// than one.
    pub fn new(store: &TrustStore, authority: &str, cacerts: &[PathBuf]) -> Option<Self> {
        let mut sent = CertificateDer::pem_slice_iter(authority.as_bytes());
        let (Some(Ok(own)), None) = (sent.next(), sent.next()) else {
            return None;
        };
        let lone = pem_of(&own);
        let bundle = format!("{lone}{}", store.pem()).into_bytes();
        let bundles = BUNDLES.iter().map(|(path, _)| PathBuf::from(path));
        let mut replaced: Vec<_> = bundles.map(|path| (path, bundle.clone())).collect();
        if !cacerts.is_empty() {
            let all = [&[own], store.certificates()].concat();
            let keystore = java_keystore::encode(&all);
            replaced.extend(cacerts.iter().map(|path| (path.clone(), keystore.clone())));
        }
        Some(Self {
            files: vec![
                (BUNDLE.into(), bundle),
                (AUTHORITY.into(), lone.into_bytes()),
            ],
            replaced,
        })
    }
}

/// The trust stores of the host's JVMs, links resolved: the shared ones, those of `/usr/lib/jvm`, that
/// of `JAVA_HOME` and that of the `java` in `PATH`. They are looked for, not opened.
pub fn cacerts(caller: &Caller, policy: &EnvironmentPolicy) -> Vec<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/jvm").into_iter().flatten();
    let installed = installed.filter_map(|entry| Some(entry.ok()?.path()));
    let named = policy.set.get("JAVA_HOME").map(PathBuf::from);
    let named = named.or_else(|| caller.variable("JAVA_HOME").map(PathBuf::from));
    let jvms = installed.chain(named).chain(jvm_of_path(caller));
    let below = |jvm: PathBuf| BELOW_JAVA.map(|below| jvm.join(below));
    let mut found: Vec<PathBuf> = SHARED_BY_JVMS
        .map(PathBuf::from)
        .into_iter()
        .chain(jvms.flat_map(below))
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| path.is_file())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The folder of the JVM whose `bin/java` the caller's shell would start.
fn jvm_of_path(caller: &Caller) -> Option<PathBuf> {
    let java = find_in_path(OsStr::new("java"), caller.variable("PATH")?)?;
    let java = Path::new(&java).canonicalize().ok()?;
    java.ancestors().nth(2).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        rcgen::generate_simple_self_signed(["ca.test".to_owned()])
            .unwrap()
            .cert
            .pem()
            .replace("\r\n", "\n")
    }

    #[test]
    fn the_sessions_ca_stands_first_in_the_bundle_and_alone_in_its_own_file() {
        let own = authority();
        let cacerts = [PathBuf::from("/jvm/cacerts")];
        let trust = JailTrust::new(&TrustStore::default(), &own, &cacerts).unwrap();
        let files: Vec<(&Path, &str)> = trust
            .files
            .iter()
            .map(|(path, text)| (path.as_path(), std::str::from_utf8(text).unwrap()))
            .collect();
        assert_eq!(
            files,
            [
                (Path::new(BUNDLE), own.as_str()),
                (Path::new(AUTHORITY), own.as_str())
            ]
        );
        let paths: Vec<&Path> = trust
            .replaced
            .iter()
            .map(|(path, _)| path.as_path())
            .collect();
        assert_eq!(paths.len(), BUNDLES.len() + 1);
        assert_eq!(paths.last(), Some(&Path::new("/jvm/cacerts")));
        let (_, keystore) = trust.replaced.last().unwrap();
        assert!(keystore.starts_with(&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1]));
    }

    #[test]
    fn a_gate_that_sends_no_single_certificate_is_not_believed() {
        let two = authority() + &authority();
        for odd in ["", "text", &two] {
            assert_eq!(JailTrust::new(&TrustStore::default(), odd, &[]), None);
        }
    }
}
