//! Which authorities the gate believes where it opens TLS, or speaks it to an upstream proxy: the host's,
//! as OpenSSL's clients see them, and those that the caller or the profile adds. Nothing that a session could have written counts.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::caller::Caller;
use super::trust::is_outside;

/// Where distributions keep all authorities in one file, each with who has it there.
pub const BUNDLES: &[(&str, &str)] = &[
    (
        "/etc/ssl/certs/ca-certificates.crt",
        "Debian, Arch, Alpine, NixOS",
    ),
    ("/etc/pki/tls/certs/ca-bundle.crt", "Fedora, RHEL"),
    (
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "where Fedora's links lead",
    ),
    ("/etc/ssl/ca-bundle.pem", "openSUSE"),
    (
        "/var/lib/ca-certificates/ca-bundle.pem",
        "where openSUSE's leads",
    ),
    (
        "/etc/ssl/cert.pem",
        "Alpine, OpenSSL as it is built by default",
    ),
    ("/etc/pki/tls/cert.pem", "Fedora's OpenSSL"),
    ("/etc/ssl/certs/ca-bundle.crt", "NixOS, Fedora"),
    (
        "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
        "where Arch's leads",
    ),
];

/// Where OpenSSL looks for authorities by hash.
const FOLDER: &str = "/etc/ssl/certs";

/// Bytes that the authorities may take as PEM: a host's own are a quarter of a megabyte.
const MAX: u64 = 8 << 20;

/// Authorities, each once, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustStore {
    certificates: Vec<CertificateDer<'static>>,
    seen: HashSet<CertificateDer<'static>>,
}

/// Why there is no trust store.
#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    /// A file of the profile is of no use.
    #[error("network.extra_ca: {}: {problem}; {cure}", path.display())]
    Extra {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        cure: &'static str,
    },
    /// The host has none.
    #[error(
        "TLS that is inspected and https:// upstream proxies are held to certificate authorities, and this \
         host has none; install the package ca-certificates, or name a file of them in network.extra_ca"
    )]
    Empty,
    /// More than a gate is told.
    #[error(
        "the certificate authorities take more than {} MiB; let SSL_CERT_FILE, CODEX_CA_CERTIFICATE and \
         network.extra_ca name fewer",
        MAX >> 20
    )]
    TooMany,
}

/// Collects the authorities. What of the caller's environment is not taken is told by `note`; what of
/// the profile cannot be taken is an error.
pub fn gather(
    caller: &Caller,
    extra: &[PathBuf],
    writable: &[PathBuf],
    note: &mut dyn FnMut(&str),
) -> Result<TrustStore, TrustStoreError> {
    let mut store = TrustStore::default();
    store.add_hosts(caller, writable, note);
    if let Some(file) = caller.variable("CODEX_CA_CERTIFICATE") {
        store.add_named("CODEX_CA_CERTIFICATE", Path::new(file), writable, note);
    }
    for path in extra {
        store.add_extra(&expand(path, &caller.home), writable)?;
    }
    if store.certificates.is_empty() {
        return Err(TrustStoreError::Empty);
    }
    if store.pem().len() as u64 > MAX {
        return Err(TrustStoreError::TooMany);
    }
    Ok(store)
}

/// The variables by which a caller's environment adds authorities, or takes others for the host's.
const VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "CODEX_CA_CERTIFICATE"];

/// The caller without the variables that name what the admin's requirements do not: whoever lists the files
/// that a profile may add means those alone. What is left out is told by `note`.
pub fn held_to(
    caller: &Caller,
    permitted: Option<&[PathBuf]>,
    note: &mut dyn FnMut(&str),
) -> Caller {
    let mut held = caller.clone();
    let Some(permitted) = permitted else {
        return held;
    };
    for name in VARIABLES {
        let Some(value) = caller.variable(name) else {
            continue;
        };
        let listed = |path: &PathBuf| expand(path, &caller.home) == Path::new(value);
        if !permitted.iter().any(listed) {
            held.environment.remove(OsStr::new(name));
            note(&format!(
                "by the requirements of this host, {name} does not count: network.extra_ca is without it"
            ));
        }
    }
    held
}

fn expand(path: &Path, home: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(below) => home.join(below),
        Err(_) => path.to_owned(),
    }
}

// === impl TrustStore ===

impl TrustStore {
    /// All of them as PEM, one after the other.
    pub fn pem(&self) -> String {
        self.certificates.iter().map(|der| pem_of(der)).collect()
    }

    /// All of them, in DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` take the place of OpenSSL's own file and folder, each for
    /// itself (SSL_CTX_load_verify_locations(3ssl)). One that cannot be taken leaves the host's.
    fn add_hosts(&mut self, caller: &Caller, writable: &[PathBuf], note: &mut dyn FnMut(&str)) {
        let named = caller
            .variable("SSL_CERT_FILE")
            .is_some_and(|file| self.add_named("SSL_CERT_FILE", Path::new(file), writable, note));
        if !named {
            let bundles = BUNDLES.iter().map(|(path, _)| Path::new(path));
            for bundle in bundles {
                if is_outside(bundle, writable) && self.add_file(bundle).is_ok_and(|new| new > 0) {
                    break;
                }
            }
        }
        match caller.variable("SSL_CERT_DIR") {
            Some(folders) => {
                for folder in std::env::split_paths(folders) {
                    self.add_folder(&folder, writable);
                }
            }
            None if self.certificates.is_empty() => self.add_folder(Path::new(FOLDER), writable),
            None => {}
        }
    }

    /// The file that a variable of the caller names; false: it was not taken.
    fn add_named(
        &mut self,
        variable: &str,
        file: &Path,
        writable: &[PathBuf],
        note: &mut dyn FnMut(&str),
    ) -> bool {
        let problem = if is_outside(file, writable) {
            match self.add_file(file) {
                Ok(0) => "holds no certificate".to_owned(),
                Ok(_) => return true,
                Err(error) => error.to_string(),
            }
        } else {
            "can be written by the session".to_owned()
        };
        note(&format!(
            "{variable}: {} {problem}: the gate does not go by it",
            file.display()
        ));
        false
    }

    /// A folder of certificates by hash, as c_rehash(1) makes it: links or files called `0123abcd.0`.
    fn add_folder(&mut self, folder: &Path, writable: &[PathBuf]) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        let mut files: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str().is_some_and(is_hashed))
            .filter_map(|entry| entry.path().canonicalize().ok())
            .filter(|file| is_outside(file, writable))
            .collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            // As OpenSSL does: one that cannot be read is one that is not there.
            self.add_file(&file).ok();
        }
    }

    /// A file of the profile.
    fn add_extra(&mut self, path: &Path, writable: &[PathBuf]) -> Result<(), TrustStoreError> {
        let refused = |problem: String, cure| TrustStoreError::Extra {
            path: path.to_owned(),
            problem,
            cure,
        };
        let cure = "name a file of certificates in PEM, or take it out of the profile";
        if !is_outside(path, writable) {
            return Err(refused(
                "can be written by the session".to_owned(),
                "move it out of the workspace and of the writable folders",
            ));
        }
        let bytes = read(path).map_err(|error| refused(error.to_string(), cure))?;
        let mut any = false;
        for section in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = section.map_err(|error| refused(error.to_string(), cure))?;
            if !self.add(certificate) {
                return Err(refused("holds a certificate that is none".to_owned(), cure));
            }
            any = true;
        }
        if any {
            Ok(())
        } else {
            Err(refused("holds no certificate".to_owned(), cure))
        }
    }

    /// Every certificate of a file that is one; how many there are.
    fn add_file(&mut self, path: &Path) -> io::Result<usize> {
        let bytes = read(path)?;
        let found = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
        Ok(found.filter(|der| self.add(der.clone())).count())
    }

    /// Adds a certificate that is not there yet; false: it can be no authority.
    fn add(&mut self, certificate: CertificateDer<'static>) -> bool {
        if self.seen.contains(&certificate) {
            return true;
        }
        if RootCertStore::empty().add(certificate.clone()).is_err() {
            return false;
        }
        self.seen.insert(certificate.clone());
        self.certificates.push(certificate);
        true
    }
}

/// One certificate as PEM (RFC 7468).
pub fn pem_of(der: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config)
}

/// Eight hexadecimal digits, a dot, a number.
fn is_hashed(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        // A pipe would never end.
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX {
        return Err(io::Error::other(format!("longer than {} MiB", MAX >> 20)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    /// A home with files of certificates, and a caller whose variables name some of them.
    struct Scene {
        folder: tempfile::TempDir,
        notes: Vec<String>,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("work")).unwrap();
            Self {
                folder,
                notes: Vec::new(),
            }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.folder.path().join(below)
        }

        fn write(&self, below: &str, text: &str) -> PathBuf {
            std::fs::write(self.path(below), text).unwrap();
            self.path(below)
        }

        fn gather(
            &mut self,
            variables: &[(&str, &Path)],
            extra: &[&str],
        ) -> Result<TrustStore, String> {
            let caller = Caller::ada(self.folder.path(), variables.iter().copied());
            let writable = [self.path("work")];
            let extra: Vec<PathBuf> = extra.iter().map(PathBuf::from).collect();
            let notes = &mut self.notes;
            gather(&caller, &extra, &writable, &mut |note| {
                notes.push(note.to_owned());
            })
            .map_err(|error| error.to_string())
        }
    }

    /// Three authorities: of the host, of Codex, of the profile.
    fn three() -> [String; 3] {
        ["host", "codex", "corp"].map(certificate)
    }

    fn lines(text: &str) -> String {
        text.replace("\r\n", "\n")
    }

    #[test]
    fn what_the_host_the_caller_and_the_profile_name_is_trusted_once_each_and_keys_are_left_out() {
        let [host, codex, corp] = three();
        let mut scene = Scene::new();
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let host_file = scene.write("host.pem", &format!("# the host's\n{host}{key}"));
        let codex_file = scene.write("codex.pem", &format!("{codex}{host}"));
        scene.write("corp.pem", &corp);
        let variables = [
            ("SSL_CERT_FILE", host_file.as_path()),
            ("CODEX_CA_CERTIFICATE", &codex_file),
        ];
        let store = scene.gather(&variables, &["~/corp.pem"]).unwrap();
        assert_eq!(store.pem(), lines(&format!("{host}{codex}{corp}")));
        assert_eq!(scene.notes, Vec::<String>::new());
    }

    #[test]
    fn variables_add_nothing_that_the_requirements_do_not_list() {
        let set = [
            ("SSL_CERT_FILE", "/home/ada/own.pem"),
            ("SSL_CERT_DIR", "/home/ada/certs"),
            ("CODEX_CA_CERTIFICATE", "/home/ada/corp.pem"),
        ];
        let caller = Caller::ada("/home/ada", set);
        let left = |permitted: Option<&[&str]>| {
            let paths = permitted.map(|list| list.iter().map(PathBuf::from).collect::<Vec<_>>());
            let mut notes = 0;
            let held = held_to(&caller, paths.as_deref(), &mut |_| notes += 1);
            let names = VARIABLES
                .into_iter()
                .filter(|name| held.variable(name).is_some());
            (names.collect::<Vec<_>>(), notes)
        };
        assert_eq!(left(None), (VARIABLES.to_vec(), 0));
        assert_eq!(left(Some(&[])), (vec![], 3));
        let corp = (vec!["CODEX_CA_CERTIFICATE"], 2);
        assert_eq!(left(Some(&["~/corp.pem"])), corp);
        assert_eq!(left(Some(&["/home/ada/corp.pem"])), corp);
    }

    #[test]
    fn a_folder_counts_by_its_hashed_names() {
        let [host, other, named] = three();
        let mut scene = Scene::new();
        let host_file = scene.write("host.pem", &host);
        std::fs::create_dir(scene.path("certs")).unwrap();
        scene.write("certs/0123abcd.0", &other);
        scene.write("certs/named.pem", &named);
        let link = scene.path("certs/deadbeef.1");
        std::os::unix::fs::symlink("0123abcd.0", link).unwrap();
        let folder = scene.path("certs");
        let variables = [
            ("SSL_CERT_FILE", host_file.as_path()),
            ("SSL_CERT_DIR", &folder),
        ];
        let store = scene.gather(&variables, &[]).unwrap();
        assert_eq!(store.pem(), lines(&format!("{host}{other}")));
    }

    #[test]
    fn what_a_session_can_write_is_left_out_of_the_environments_and_refused_of_the_profiles() {
        let [evil, host, _] = three();
        let mut scene = Scene::new();
        let planted = scene.write("work/ca.pem", &evil);
        let linked = scene.path("ca.pem");
        std::os::unix::fs::symlink(&planted, &linked).unwrap();
        std::fs::create_dir(scene.path("certs")).unwrap();
        std::os::unix::fs::symlink(&planted, scene.path("certs/0123abcd.0")).unwrap();
        let (folder, host_file) = (scene.path("certs"), scene.write("host.pem", &host));
        let variables = [
            ("SSL_CERT_FILE", linked.as_path()),
            ("SSL_CERT_DIR", &folder),
            ("CODEX_CA_CERTIFICATE", &host_file),
        ];
        let store = scene.gather(&variables, &[]).unwrap();
        assert!(store.pem().contains(&lines(&host)));
        assert!(!store.pem().contains(&lines(&evil)));
        let note = format!(
            "SSL_CERT_FILE: {} can be written by the session: the gate does not go by it",
            linked.display()
        );
        assert_eq!(scene.notes, [note]);
        for name in ["~/work/ca.pem", "~/ca.pem"] {
            let error = scene.gather(&[], &[name]).unwrap_err();
            assert!(
                error.ends_with(
                    "can be written by the session; move it out of the workspace and of the writable folders"
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_of_the_profile_that_is_none_ends_the_launch_with_its_path() {
        let mut scene = Scene::new();
        scene.write("empty.pem", "nothing\n");
        let torn = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        scene.write("torn.pem", torn);
        scene.write("fake.pem", &torn.replace("!!", "AAAA"));
        for (name, problem) in [
            ("none.pem", "No such file"),
            ("empty.pem", "holds no certificate"),
            ("torn.pem", "base64"),
            ("fake.pem", "a certificate that is none"),
        ] {
            let error = scene.gather(&[], &[&format!("~/{name}")]).unwrap_err();
            let path = scene.path(name);
            let start = format!("network.extra_ca: {}: ", path.display());
            assert!(
                error.starts_with(&start) && error.contains(problem),
                "{error}"
            );
            assert!(
                error
                    .ends_with("name a file of certificates in PEM, or take it out of the profile")
            );
        }
    }

    #[test]
    fn a_file_of_the_environment_that_is_none_is_told_and_the_hosts_own_counts() {
        let mut scene = Scene::new();
        let missing = scene.path("none.pem");
        let [host, _, _] = three();
        scene.write("corp.pem", &host);
        let store = scene
            .gather(&[("SSL_CERT_FILE", &missing)], &["~/corp.pem"])
            .unwrap();
        assert!(store.pem().ends_with(&lines(&host)));
        assert_eq!(scene.notes.len(), 1, "{:?}", scene.notes);
    }
}
