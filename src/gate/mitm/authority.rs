//! The session's certificate authority: made when its first gate starts, gone with the session. Its key
//! exists in the gate's memory, and in the note that a gate leaves to the one that takes its place
//! ([`memory`](super::super::memory)); what leaves is the certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use crate::policy::Host;
use crate::secret::Secret;

use super::super::memory::AuthorityNote;
use super::leaf::MitmError;
use super::random;

/// How far the clocks of a session may differ: certificates are valid from this long ago.
const SKEW: Duration = Duration::from_hours(1);

/// How long the authority is valid. Must exceed the longest session, whose profile need not bound it; the
/// key is gone with the gate, however long the certificate says.
pub(super) const AUTHORITY_LIFE: Duration = Duration::from_hours(365 * 24);

/// How long a leaf is valid from now. Clients take up to 398 days (CA/Browser Forum, baseline
/// requirements 6.3.2).
pub(super) const LEAF_LIFE: Duration = Duration::from_hours(23);

/// The longest common name (RFC 5280, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// A certificate authority with its key.
#[derive(Debug)]
pub(super) struct Authority {
    /// Shows everything but the key.
    issuer: CertifiedIssuer<'static, KeyPair>,
    expires: SystemTime,
    tag: u64,
}

impl Authority {
    /// A new one, under a name that tells it from those of other sessions and says nothing else.
    pub(super) fn generate(now: SystemTime) -> Result<Self, MitmError> {
        let tag = u64::from_be_bytes(random::bytes()?);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Self::certify(tag, key, now, now + AUTHORITY_LIFE)
    }

    /// The same one again. Its certificate is another by serial number and signature; whoever trusts the
    /// first trusts what this one signs, because name and key are the same (RFC 5280 section 6.1).
    pub(super) fn again(note: &AuthorityNote, now: SystemTime) -> Result<Self, MitmError> {
        let key = KeyPair::from_pem(note.key.expose())?;
        let expires = UNIX_EPOCH + Duration::from_secs(note.expires);
        Self::certify(note.tag, key, now, expires)
    }

    /// What makes it again.
    pub(super) fn note(&self) -> AuthorityNote {
        let since = self.expires.duration_since(UNIX_EPOCH);
        AuthorityNote {
            tag: self.tag,
            key: Secret::new(self.issuer.key().serialize_pem()),
            expires: since.unwrap_or_default().as_secs(),
        }
    }

    fn certify(
        tag: u64,
        key: KeyPair,
        now: SystemTime,
        expires: SystemTime,
    ) -> Result<Self, MitmError> {
        let mut params = CertificateParams::default();
        let name = format!("Portcullis session {tag:016x}");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - SKEW).into();
        params.not_after = expires.into();
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self {
            issuer,
            expires,
            tag,
        })
    }

    /// The certificate.
    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for exactly this host and this key, to authenticate a server with.
    pub(super) fn issue(
        &self,
        host: &Host,
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, MitmError> {
        let text = host.to_string();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host {
            Host::Name(_) => SanType::DnsName(text.as_str().try_into()?),
            Host::Addr(address) => SanType::IpAddress(*address),
        }];
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Nobody reads it since RFC 6125, but a subject without any name would make the SAN critical.
        let name = if text.len() <= MAX_COMMON_NAME {
            text.as_str()
        } else {
            "portcullis"
        };
        params.distinguished_name.push(DnType::CommonName, name);
        // Random, because NSS refuses two certificates of one issuer with one number.
        params.serial_number = Some(serial()?);
        // Writes the subject key identifier as well.
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (now - SKEW).into();
        params.not_after = self.expires.min(now + LEAF_LIFE).into();
        let leaf = params.signed_by(key, &*self.issuer)?;
        Ok(leaf.der().clone())
    }
}

/// 16 random bytes, a positive number (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, MitmError> {
    let mut bytes: [u8; 16] = random::bytes()?;
    // Neither negative nor with a leading zero.
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from(bytes.to_vec()))
}
