//! The certificates that clients see, one a host: made when a host was permitted and its `ClientHello`
//! was found to be for it, never for a name that the jail merely mentions. Bounded: a session that
//! walks through a wildcard costs one signature a name and [`CAPACITY`] entries of memory.
//!
//! All leaves of a gate share one key: it guards nothing that the authority's key, which lies in the
//! same memory, does not guard, and making one per host would be the dearest step of a first visit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::{GetRandomFailed, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCertUsingSni};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

use crate::policy::Host;

use super::super::memory::AuthorityNote;
use super::authority::{Authority, LEAF_LIFE};

/// Leaves that are kept; the one unused for longest makes room.
const CAPACITY: usize = 1024;

/// When a leaf is made anew: a connection that begins now must not meet its end soon.
const RENEW_AFTER: Duration = Duration::from_secs(LEAF_LIFE.as_secs() / 2);

/// The ALPN identifiers (RFC 7301, RFC 9113 section 3.1) on offer, preferred first. Whoever offers
/// others alone is refused by rustls with `no_application_protocol`.
pub(super) const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why no TLS can be terminated.
#[derive(Debug, thiserror::Error)]
pub(in crate::gate) enum MitmError {
    /// A certificate could not be made.
    #[error("make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take a key or a setting.
    #[error("set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// No random numbers.
    #[error("the random number generator failed")]
    Random,
}

impl From<GetRandomFailed> for MitmError {
    fn from(_: GetRandomFailed) -> Self {
        Self::Random
    }
}

/// The authority of a session and what it has signed.
#[derive(Debug)]
pub(in crate::gate) struct Leaves {
    authority: Authority,
    /// The key of every leaf.
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    /// What all connections have in common.
    template: ServerConfig,
    kept: RefCell<HashMap<Host, Kept>>,
    /// Counts lookups, to know what was used last.
    clock: Cell<u64>,
}

#[derive(Debug)]
struct Kept {
    config: Arc<ServerConfig>,
    made: SystemTime,
    used: Cell<u64>,
}

impl Leaves {
    /// An authority without leaves: that of the session's earlier gate, or a new one.
    pub(in crate::gate) fn new(known: Option<&AuthorityNote>) -> Result<Self, MitmError> {
        let now = SystemTime::now();
        match known {
            Some(note) => Self::of(Authority::again(note, now)?),
            None => Self::generate(now),
        }
    }

    fn generate(now: SystemTime) -> Result<Self, MitmError> {
        Self::of(Authority::generate(now)?)
    }

    fn of(authority: Authority) -> Result<Self, MitmError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self {
            authority,
            signer: aws_lc_rs::sign::any_ecdsa_type(&der)?,
            key,
            template: template()?,
            kept: RefCell::default(),
            clock: Cell::new(0),
        })
    }

    /// The authority's certificate, for the clients of the session. Never a key.
    pub(in crate::gate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// What makes the authority again.
    pub(in crate::gate) fn note(&self) -> AuthorityNote {
        self.authority.note()
    }

    /// How to accept TLS for this host. Only for a host that was permitted.
    pub(super) fn config_for(&self, host: &Host) -> Result<Arc<ServerConfig>, MitmError> {
        self.config_at(host, SystemTime::now())
    }

    fn config_at(&self, host: &Host, now: SystemTime) -> Result<Arc<ServerConfig>, MitmError> {
        self.clock.set(self.clock.get().wrapping_add(1));
        let mut kept = self.kept.borrow_mut();
        if let Some(known) = kept.get(host)
            && now
                .duration_since(known.made)
                .is_ok_and(|age| age < RENEW_AFTER)
        {
            known.used.set(self.clock.get());
            return Ok(Arc::clone(&known.config));
        }
        let chain = vec![self.authority.issue(host, &self.key, now)?];
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signer));
        let mut config = self.template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        let config = Arc::new(config);
        if kept.len() >= CAPACITY && !kept.contains_key(host) {
            let oldest = kept
                .iter()
                .min_by_key(|(_, leaf)| leaf.used.get())
                .map(|(host, _)| host.clone());
            if let Some(oldest) = oldest {
                kept.remove(&oldest);
            }
        }
        let leaf = Kept {
            config: Arc::clone(&config),
            made: now,
            used: Cell::new(self.clock.get()),
        };
        kept.insert(host.clone(), leaf);
        Ok(config)
    }
}

/// TLS 1.2 and 1.3 with rustls' own choices. Sessions are resumed by tickets, whose key is in memory
/// and changes by the hour, so that no table of sessions grows with what the jail does; a ticket is
/// good for its own server name only, and every hello is screened before rustls sees it.
fn template() -> Result<ServerConfig, MitmError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        // Replaced for every host.
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    // No data before the handshake: it could be replayed (RFC 8446 section 8).
    config.max_early_data_size = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::time_provider::TimeProvider;
    use rustls::{
        CertificateError, ClientConfig, ClientConnection, RootCertStore, ServerConnection,
    };

    use super::super::authority::AUTHORITY_LIFE;
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_session_may_last_for_a_year_and_nobody_is_shown_an_old_leaf() {
        let start = SystemTime::now();
        let leaves = Leaves::generate(start).unwrap();
        let mut shown: Vec<Arc<ServerConfig>> = Vec::new();
        // Not a step of renewal's own, so that leaves of several ages are met.
        for step in 0..12 {
            let now = start + Duration::from_hours(7 * step);
            let config = leaves.config_at(&host("a.test"), now).unwrap();
            assert_eq!(refusal(&leaves, &config, now), None, "{step}");
            // Whoever began a while ago is not too late either.
            let later = now + LEAF_LIFE / 2 - Duration::from_secs(1);
            assert_eq!(refusal(&leaves, &config, later), None, "{step}");
            shown.push(config);
        }
        shown.dedup_by(|new, old| Arc::ptr_eq(new, old));
        assert_eq!(shown.len(), 6, "each is good for two steps of seven hours");
        let late = start + AUTHORITY_LIFE - LEAF_LIFE;
        let last = leaves.config_at(&host("a.test"), late).unwrap();
        assert_eq!(refusal(&leaves, &last, late), None);
        for (config, at) in [(&shown[0], late), (&last, late + LEAF_LIFE * 2)] {
            let refused = refusal(&leaves, config, at);
            assert!(
                matches!(&refused, Some(rustls::Error::InvalidCertificate(why))
                    if matches!(why, CertificateError::ExpiredContext { .. })),
                "the twin: {refused:?}"
            );
        }
        const { assert!(LEAF_LIFE.as_secs() <= 398 * 24 * 3600) };
    }

    #[test]
    fn whoever_trusts_the_authority_trusts_its_successor_and_nobody_elses() {
        let now = SystemTime::now();
        let first = Leaves::generate(now).unwrap();
        let again = Leaves::new(Some(&first.note())).unwrap();
        let config = again.config_at(&host("a.test"), now).unwrap();
        assert_eq!(refusal(&first, &config, now), None);
        let other = Leaves::generate(now).unwrap();
        let config = other.config_at(&host("a.test"), now).unwrap();
        assert!(refusal(&first, &config, now).is_some(), "the twin");
        assert_eq!(again.note().expires, first.note().expires);
    }

    /// A clock that stands.
    #[derive(Debug)]
    struct At(SystemTime);

    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
            Some(UnixTime::since_unix_epoch(since.unwrap()))
        }
    }

    /// Why a client that trusts the authority does not take this leaf at this time; `None`: it does.
    fn refusal(
        leaves: &Leaves,
        config: &Arc<ServerConfig>,
        at: SystemTime,
    ) -> Option<rustls::Error> {
        let authority = CertificateDer::from_pem_slice(leaves.authority_pem().as_bytes());
        let mut roots = RootCertStore::empty();
        roots.add(authority.unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut trusting = ClientConfig::builder_with_details(provider, Arc::new(At(at)))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        trusting.alpn_protocols = vec![ALPN_H2.to_vec()];
        let name = ServerName::try_from("a.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(trusting), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            if let Err(refusal) = client.process_new_packets() {
                return Some(refusal);
            }
        }
        None
    }

    #[test]
    fn a_leaf_is_made_once_a_host_and_anew_when_it_is_old() {
        let leaves = Leaves::new(None).unwrap();
        let now = SystemTime::now();
        let first = leaves.config_at(&host("a.test"), now).unwrap();
        let again = leaves.config_at(&host("a.test"), now).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = leaves.config_at(&host("b.test"), now).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        for later in [now + RENEW_AFTER, now - Duration::from_secs(1)] {
            let renewed = leaves.config_at(&host("a.test"), later).unwrap();
            assert!(!Arc::ptr_eq(&first, &renewed), "{later:?}");
        }
    }

    #[test]
    fn the_leaf_unused_for_longest_makes_room() {
        let leaves = Leaves::new(None).unwrap();
        let now = SystemTime::now();
        let first = leaves.config_at(&host("n0.test"), now).unwrap();
        for n in 1..CAPACITY {
            leaves.config_at(&host(&format!("n{n}.test")), now).unwrap();
        }
        // n0 was used last, so n1 goes.
        leaves.config_at(&host("n0.test"), now).unwrap();
        leaves.config_at(&host("new.test"), now).unwrap();
        assert_eq!(leaves.kept.borrow().len(), CAPACITY);
        assert!(leaves.kept.borrow().get(&host("n1.test")).is_none());
        let kept = leaves.config_at(&host("n0.test"), now).unwrap();
        assert!(Arc::ptr_eq(&first, &kept));
    }

    #[test]
    fn no_form_of_what_leaves_the_gate_has_a_key_in_it() {
        let leaves = Leaves::new(None).unwrap();
        let pem = leaves.authority_pem();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
        assert_eq!(pem.matches("-----BEGIN").count(), 1, "{pem}");
        let shown = format!("{:?}", leaves.authority);
        assert!(shown.contains("elided"), "{shown}");
    }

    #[test]
    fn early_data_is_not_taken() {
        assert_eq!(template().unwrap().max_early_data_size, 0);
    }
}
