//! Ed25519 keys (RFC 8032) as hex digits, and the file of the key that signs.
//!
//! The file holds one line, the seed as 64 hex digits; while a key is replaced it holds two, the old and
//! the new one. Which of them signs is the ledger's word, so that a rotation that was interrupted at any
//! point leaves a key that is valid. It is read anew for each signature and written in place: a writer
//! that is confined and can open nothing signs with the new key as soon as there is one. Never: a key in
//! an error, a seed in memory for longer than a signature takes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::{fmt, str};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::HEXLOWER;
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Name of the file with the seed, in the ledger's folder.
pub const FILE: &str = "key";
/// Name of the file with the public half.
pub const PUBLIC_FILE: &str = "key.pub";

/// A line of a key file: 64 digits and the newline.
const LINE: usize = 65;

/// A public key, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// A signature, written as 128 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; 64]);

/// A key or signature that is not written as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {0} lower-case hex digits")]
pub struct BadHex(usize);

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Others could have read it.
    #[error(
        "others can read it (mode {0:04o}); it is not secret any more: rotate it, or run chmod 0600 on it"
    )]
    Readable(u32),
    /// It is not ours.
    #[error("it belongs to uid {0}")]
    Foreign(u32),
    /// Something else stands in it.
    #[error("it is not a key of 64 hex digits")]
    Malformed,
    /// It is a credential, and holds no other key to go on with.
    #[error(
        "it is a credential of the service manager, which is never written: add the new key to it as a second line of 64 \
         hex digits (openssl rand -hex 32), restart portcullis-notary.service, and do this again with that credential; \
         the first line may go once this is done"
    )]
    Given,
    /// The library refused (a bug, or no memory).
    #[error("cannot make or use a key")]
    Library,
}

/// A key that signs; wiped when dropped.
pub struct SigningKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// The open file of the key that signs.
#[derive(Debug)]
pub struct KeyFile {
    file: File,
    /// The service manager's: it is never written.
    is_given: bool,
}

// === impl PublicKey and Signature ===

impl PublicKey {
    /// Whether the holder of the private half has signed this message.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, &signature.0)
            .is_ok()
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bytes = HEXLOWER
        .decode(text.as_bytes())
        .map_err(|_| BadHex(2 * N))?;
    bytes.try_into().map_err(|_| BadHex(2 * N))
}

impl str::FromStr for PublicKey {
    type Err = BadHex;

    fn from_str(text: &str) -> Result<Self, BadHex> {
        decode(text).map(Self)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadHex;

    fn try_from(text: String) -> Result<Self, BadHex> {
        text.parse()
    }
}

impl TryFrom<String> for Signature {
    type Error = BadHex;

    fn try_from(text: String) -> Result<Self, BadHex> {
        decode(&text).map(Self)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        HEXLOWER.encode(&signature.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

// === impl SigningKey ===

impl SigningKey {
    /// A new one, of the kernel's random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        // Not by the library: its generator cleans up at the end of a process that may do so no more.
        let flags = rustix::rand::GetRandomFlags::empty();
        let got = rustix::rand::getrandom(seed.as_mut_slice(), flags);
        if got.map_err(io::Error::from)? != 32 {
            return Err(KeyError::Library);
        }
        Self::from_seed(seed)
    }

    /// The key of this seed (RFC 8032, 5.1.5).
    pub fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice());
        let pair = pair.map_err(|_| KeyError::Library)?;
        let public = pair.public_key().as_ref().try_into();
        let public = PublicKey(public.map_err(|_| KeyError::Library)?);
        Ok(Self { seed, pair, public })
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        let signature = self.pair.try_sign(message).map_err(|_| KeyError::Library)?;
        let signature = signature.as_ref().try_into();
        Ok(Signature(signature.map_err(|_| KeyError::Library)?))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[secret half of {}]", self.public)
    }
}

// === impl KeyFile ===

impl KeyFile {
    /// Opens the key of this name; `None`: there is none yet.
    pub fn open(folder: impl AsFd, name: &str) -> Result<Option<Self>, KeyError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        let own = rustix::process::geteuid().as_raw();
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(KeyError::Malformed);
        }
        if stat.st_uid != own && own != 0 {
            return Err(KeyError::Foreign(stat.st_uid));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(KeyError::Readable(stat.st_mode & 0o7777));
        }
        // Whoever made it died before the key was in it: there was no signature yet.
        let is_given = false;
        Ok((stat.st_size != 0).then_some(Self { file, is_given }))
    }

    /// A key that the service manager has put there and protects (systemd.exec(5), `LoadCredential=`).
    pub fn credential(folder: impl AsFd, name: &str) -> Result<Option<Self>, KeyError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                file: fd.into(),
                is_given: true,
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }

    /// Makes a key and its file. Only with the ledger's lock: nobody else makes one meanwhile.
    pub fn create(folder: impl AsFd, name: &str) -> Result<(Self, PublicKey), KeyError> {
        let key = SigningKey::generate()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR);
        let file = Self {
            file: fd.map_err(io::Error::from)?.into(),
            is_given: false,
        };
        file.write(&[&key])?;
        Ok((file, key.public))
    }

    /// The keys in it: one, or two while it is replaced. A second line that is not whole is none: the key
    /// in it was never used.
    pub fn keys(&self) -> Result<Vec<SigningKey>, KeyError> {
        let mut text = Zeroizing::new([0; 2 * LINE]);
        let mut have = 0;
        while let Some(rest) = text.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, have as u64)? {
                0 => break,
                got => have += got,
            }
        }
        let (lines, _) = text.get(..have).unwrap_or_default().as_chunks::<LINE>();
        let mut keys = Vec::new();
        for line in lines {
            match seed(line) {
                Some(seed) => keys.push(SigningKey::from_seed(seed)?),
                None if keys.is_empty() => return Err(KeyError::Malformed),
                None => break,
            }
        }
        if keys.is_empty() {
            return Err(KeyError::Malformed);
        }
        Ok(keys)
    }

    /// The key that is to sign after this one: a new one, which is in the file from here on, or in a credential the one on
    /// its next line.
    pub fn next(&self, old: &SigningKey) -> Result<SigningKey, KeyError> {
        if self.is_given {
            let keys = self.keys()?.into_iter();
            let mut later = keys.skip_while(|key| key.public != old.public).skip(1);
            return later.next().ok_or(KeyError::Given);
        }
        let new = SigningKey::generate()?;
        self.write(&[old, &new])?;
        Ok(new)
    }

    /// That one signs: the one before may go.
    pub fn settle(&self, new: &SigningKey) -> Result<(), KeyError> {
        if self.is_given {
            return Ok(());
        }
        self.write(&[new])
    }

    /// Puts these keys in it, durably.
    fn write(&self, keys: &[&SigningKey]) -> Result<(), KeyError> {
        let mut text = Zeroizing::new(Vec::with_capacity(2 * LINE));
        for key in keys {
            let digits = Zeroizing::new(HEXLOWER.encode(key.seed.as_slice()));
            text.extend_from_slice(digits.as_bytes());
            text.push(b'\n');
        }
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_data()?;
        Ok(())
    }
}

fn seed(line: &[u8; LINE]) -> Option<Zeroizing<[u8; 32]>> {
    let (digits, newline) = line.split_last_chunk::<1>()?;
    let mut seed = Zeroizing::new([0; 32]);
    let read = HEXLOWER.decode_mut(digits, seed.as_mut_slice());
    (newline == b"\n" && read.is_ok()).then_some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn signatures_are_those_of_rfc_8032() {
        // Section 7.1, test 2.
        let seed =
            HEXLOWER.decode(b"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SigningKey::from_seed(Zeroizing::new(seed.unwrap().try_into().unwrap())).unwrap();
        assert_eq!(
            key.public().to_string(),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        let signature = key.sign(&[0x72]).unwrap();
        assert!(String::from(signature).starts_with("92a009a9f0d4cab8720e820b5f642540"));
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
        assert!(!format!("{key:?}").contains("4ccd089b"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let folder = File::open(base.path()).unwrap();
        assert!(KeyFile::open(&folder, FILE).unwrap().is_none());
        let (_, public) = KeyFile::create(&folder, FILE).unwrap();
        let path = base.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let file = KeyFile::open(&folder, FILE).unwrap().unwrap();
        assert_eq!(file.keys().unwrap()[0].public(), public);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(
            KeyFile::open(&folder, FILE),
            Err(KeyError::Readable(0o640))
        ));
    }

    #[test]
    fn a_key_file_that_was_torn_while_a_key_was_replaced_holds_the_old_one() {
        let base = tempfile::tempdir().unwrap();
        let folder = File::open(base.path()).unwrap();
        let (file, old) = KeyFile::create(&folder, FILE).unwrap();
        let new = SigningKey::generate().unwrap();
        let first = file.keys().unwrap().remove(0);
        file.write(&[&first, &new]).unwrap();
        let publics = |file: &KeyFile| -> Vec<_> {
            file.keys()
                .unwrap()
                .iter()
                .map(SigningKey::public)
                .collect()
        };
        assert_eq!(publics(&file), [old, new.public()]);
        for length in LINE..2 * LINE {
            file.file.set_len(length as u64).unwrap();
            assert_eq!(publics(&file), [old]);
        }
        file.file.set_len(3).unwrap();
        assert!(matches!(file.keys(), Err(KeyError::Malformed)));
    }
}
