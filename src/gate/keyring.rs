//! Credentials: a request that leaves with a placeholder in the one right place gets the value; a
//! placeholder anywhere else stops the request.
//!
//! Owns: the values, from the boot frame to the end of the process. Trusts: the policy for where a
//! value belongs, and [`Transport::Inspected`] for a verified origin. Never: puts a value into anything
//! but the one header field of a request over verified TLS to the credential's own host, port and path;
//! never prints, records or compares one in a way that tells it.

use std::rc::Rc;

use data_encoding::BASE64;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use zeroize::Zeroizing;

use crate::policy::{Bodies, Credential, DenyReason, Inject, Transport};
use crate::secret::Secret;
use crate::wire::gate::{CredentialValue, MARK};

use super::authorize::Destination;
use super::placeholder::{self, Needle};

/// Values below this length are not looked for in answers: they would be found everywhere.
const SHORTEST_ECHO: usize = 8;

/// The values and the policy do not fit each other.
#[derive(Debug, thiserror::Error)]
#[error("credential {0:?}: its value and the policy do not fit")]
pub(super) struct Unfit(String);

/// Every credential of the session.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    keys: Vec<Key>,
    /// The random ends of all placeholders.
    marks: Rc<[Needle]>,
    /// All values that are long enough to be told from chance.
    values: Rc<[Needle]>,
}

/// One credential with its value.
#[derive(Debug)]
struct Key {
    rule: Credential,
    name: Rc<str>,
    header: HeaderName,
    placeholder: String,
    value: Secret<String>,
}

/// Why a request may not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misplaced {
    /// [`DenyReason::CredentialMisplaced`] or [`DenyReason::CredentialUnavailable`].
    pub(super) reason: DenyReason,
    /// For the record: the credential's name and words of ours.
    pub(super) detail: String,
}

impl Misplaced {
    /// A placeholder in a place where it does not belong.
    pub(super) fn at(name: &str, place: &str) -> Self {
        Self {
            reason: DenyReason::CredentialMisplaced,
            detail: format!("the placeholder of credential {name} stands {place}"),
        }
    }

    /// An answer that would carry a value into the jail.
    pub(super) fn echoed(name: &str) -> Self {
        Self {
            reason: DenyReason::CredentialMisplaced,
            detail: format!("the answer holds the value of credential {name}"),
        }
    }
}

/// What was put into one request.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// The credentials, by name.
    pub(super) names: Vec<Rc<str>>,
    /// What an answer could reflect beside the values themselves.
    pub(super) reflections: Vec<Needle>,
}

impl Keyring {
    /// Matches values with the policy's credentials: each has exactly one.
    pub(super) fn new(rules: &[Credential], values: &[CredentialValue]) -> Result<Self, Unfit> {
        let mut keys = Vec::new();
        for value in values {
            let key = Key::new(rules, value).ok_or_else(|| Unfit(value.name.clone()))?;
            keys.push(key);
        }
        let has_value =
            |rule: &&Credential| keys.iter().filter(|key| key.rule.name == rule.name).count() == 1;
        if let Some(without) = rules.iter().find(|rule| !has_value(rule)) {
            return Err(Unfit(without.name.clone()));
        }
        let marks = keys
            .iter()
            .map(|key| Needle::new(&key.name, key.mark().to_vec()));
        let told = |key: &&Key| key.value.expose().len() >= SHORTEST_ECHO;
        let value = |key: &Key| Needle::new(&key.name, key.value.expose().as_bytes().to_vec());
        Ok(Self {
            marks: marks.collect(),
            values: keys.iter().filter(told).map(value).collect(),
            keys,
        })
    }

    /// Whether these are the credentials it was made of: a value goes by the rule it came with.
    pub(super) fn is_of(&self, rules: &[Credential]) -> bool {
        rules.len() == self.keys.len()
            && rules
                .iter()
                .all(|rule| self.keys.iter().any(|key| key.rule == *rule))
    }

    /// Whether there is nothing to put in and nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Puts values into a request's head, where they belong; any placeholder that is left afterwards
    /// stops it. The head is as its origin would get it, without the fields of one hop.
    pub(super) fn apply(&self, to: &Destination, head: &mut Parts) -> Result<Used, Misplaced> {
        let mut used = Used::default();
        let mut fields: Vec<(&HeaderName, HeaderValue)> = Vec::new();
        for key in self.keys.iter().filter(|key| key.belongs_to(to, head)) {
            if fields.iter().any(|(name, _)| **name == key.header) {
                continue;
            }
            let Some(filled) = key.fill(&head.headers)? else {
                continue;
            };
            fields.push((&key.header, filled.field));
            used.names.push(Rc::clone(&key.name));
            used.reflections.extend(filled.reflection);
        }
        let taken = |name: &HeaderName| fields.iter().any(|(field, _)| *field == name);
        self.check(to, head, taken)?;
        for (name, field) in fields {
            head.headers.insert(name, field);
        }
        if !used.names.is_empty() {
            // An answer in plain text can be looked through for the value.
            let identity = HeaderValue::from_static("identity");
            head.headers.insert(ACCEPT_ENCODING, identity);
        }
        Ok(used)
    }

    /// The random ends of all placeholders.
    pub(super) fn marks(&self) -> &[Needle] {
        &self.marks
    }

    /// All values that are long enough to be told from chance.
    pub(super) fn values(&self) -> &[Needle] {
        &self.values
    }

    /// What may not stand in the content of a request to this place.
    pub(super) fn marks_for(&self, to: &Destination) -> Rc<[Needle]> {
        let passes = |key: &Key| {
            key.rule.bodies == Bodies::Pass
                && to.transport == Transport::Inspected
                && key.rule.is_at(&to.host, to.port)
        };
        if !self.keys.iter().any(passes) {
            return Rc::clone(&self.marks);
        }
        let marks = self.keys.iter().zip(self.marks.iter());
        marks
            .filter(|(key, _)| !passes(key))
            .map(|(_, mark)| mark.clone())
            .collect()
    }

    /// What may not stand in an answer.
    pub(super) fn values_and(&self, reflections: Vec<Needle>) -> Rc<[Needle]> {
        if reflections.is_empty() {
            return Rc::clone(&self.values);
        }
        self.values.iter().cloned().chain(reflections).collect()
    }

    /// No placeholder but in the fields that are replaced.
    fn check(
        &self,
        to: &Destination,
        head: &Parts,
        replaced: impl Fn(&HeaderName) -> bool,
    ) -> Result<(), Misplaced> {
        let found = |needle: &Needle, place| Err(Misplaced::at(&needle.name, place));
        if let Some(needle) = placeholder::find_in_target(&self.marks, head.uri.path().as_bytes()) {
            return found(needle, "in the path");
        }
        let query = head.uri.query().unwrap_or_default();
        if let Some(needle) = placeholder::find_in_target(&self.marks, query.as_bytes()) {
            return found(needle, "in the query");
        }
        for (name, value) in head.headers.iter().filter(|(name, _)| !replaced(name)) {
            if let Some(needle) = placeholder::find(&self.marks, name.as_str().as_bytes()) {
                return found(needle, "in a header's name");
            }
            if let Some(needle) = placeholder::find_in_field(&self.marks, value.as_bytes()) {
                return found(needle, self.why_not(needle, to, head, name));
            }
        }
        Ok(())
    }

    /// Why a header field is not the place for it, in words of ours.
    fn why_not(
        &self,
        needle: &Needle,
        to: &Destination,
        head: &Parts,
        name: &HeaderName,
    ) -> &'static str {
        let Some(key) = self.keys.iter().find(|key| key.name == needle.name) else {
            return "in a header";
        };
        if key.header != *name {
            "in another header than the credential's"
        } else if !key.rule.is_at(&to.host, to.port) {
            "in a request to another host or port than the credential's"
        } else if to.transport != Transport::Inspected {
            "in a request that is not sent over inspected TLS"
        } else if !key.belongs_to(to, head) {
            "in a request to a path that is not the credential's"
        } else {
            "in its header, but not in the form of the profile's value"
        }
    }
}

/// A field that is ready to be put in.
struct Filled {
    field: HeaderValue,
    reflection: Option<Needle>,
}

impl Key {
    fn new(rules: &[Credential], value: &CredentialValue) -> Option<Self> {
        let rule = rules.iter().find(|rule| rule.name == value.name)?.clone();
        let mark_at = value.placeholder.len().checked_sub(MARK)?;
        value.placeholder.get(mark_at..)?;
        Some(Self {
            name: Rc::from(rule.name.as_str()),
            header: HeaderName::try_from(rule.header.as_str()).ok()?,
            rule,
            placeholder: value.placeholder.clone(),
            value: Secret::new(value.value.expose().clone()),
        })
    }

    fn mark(&self) -> &[u8] {
        let bytes = self.placeholder.as_bytes();
        bytes.last_chunk::<MARK>().map_or(bytes, |mark| mark)
    }

    /// Whether a value of this credential may go with this request at all.
    fn belongs_to(&self, to: &Destination, head: &Parts) -> bool {
        to.transport == Transport::Inspected
            && self.rule.belongs_to(&to.host, to.port, head.uri.path())
    }

    /// The field with the value in it, if the client asks for it by the placeholder or needs not ask.
    fn fill(&self, headers: &HeaderMap) -> Result<Option<Filled>, Misplaced> {
        if self.rule.inject == Inject::Always {
            return self.filled_template().map(Some);
        }
        let mut sent = headers.get_all(&self.header).iter();
        // Of two, nobody knows which one counts.
        let (Some(only), None) = (sent.next(), sent.next()) else {
            return Ok(None);
        };
        if self.is_template(only.as_bytes()) {
            return self.filled_template().map(Some);
        }
        if self.header == AUTHORIZATION {
            return self.filled_basic(only.as_bytes());
        }
        Ok(None)
    }

    /// The profile's value with the placeholder in it. An authentication scheme has no case (RFC 9110
    /// section 11.1).
    fn is_template(&self, sent: &[u8]) -> bool {
        let template = &self.rule.template;
        let Some((before, rest)) = sent.split_at_checked(template.before.len()) else {
            return false;
        };
        let rest = rest.strip_prefix(self.placeholder.as_bytes());
        before.eq_ignore_ascii_case(template.before.as_bytes())
            && rest.is_some_and(|after| after == template.after.as_bytes())
    }

    fn filled_template(&self) -> Result<Filled, Misplaced> {
        let template = &self.rule.template;
        let parts = [&template.before, self.value.expose(), &template.after];
        let length = parts.iter().map(|part| part.len()).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(length));
        for part in parts {
            text.extend_from_slice(part.as_bytes());
        }
        let field = self.field(&text)?;
        Ok(Filled {
            field,
            reflection: None,
        })
    }

    /// `Basic` with the placeholder as user or as password (RFC 7617), which is how git and installers
    /// send a token that they were given in a URL.
    fn filled_basic(&self, sent: &[u8]) -> Result<Option<Filled>, Misplaced> {
        let Some(decoded) = placeholder::basic(sent) else {
            return Ok(None);
        };
        let Some(colon) = memchr::memchr(b':', &decoded) else {
            return Ok(None);
        };
        let (user, password) = decoded.split_at(colon);
        let password = password.strip_prefix(b":").unwrap_or_default();
        let (marked, value) = (self.placeholder.as_bytes(), self.value.expose().as_bytes());
        let (user, password) = match (user == marked, password == marked) {
            (true, false) => (value, password),
            (false, true) => (user, value),
            (true, true) | (false, false) => return Ok(None),
        };
        // A user that no longer is what it was: everything after the first colon is the password.
        if user.contains(&b':') {
            return Ok(None);
        }
        let mut plain = Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.len()));
        for part in [user, b":", password] {
            plain.extend_from_slice(part);
        }
        let encoded = Zeroizing::new(BASE64.encode(&plain));
        let text = Zeroizing::new(["Basic ", encoded.as_str()].concat());
        Ok(Some(Filled {
            field: self.field(text.as_bytes())?,
            reflection: Some(Needle::new(&self.name, encoded.as_bytes().to_vec())),
        }))
    }

    fn field(&self, text: &[u8]) -> Result<HeaderValue, Misplaced> {
        let mut field = HeaderValue::from_bytes(text).map_err(|_| Misplaced {
            reason: DenyReason::CredentialUnavailable,
            detail: format!("the value of credential {} fits no header", self.name),
        })?;
        // Not in a Debug text, not in an HPACK table (RFC 7541 section 7.1.3).
        field.set_sensitive(true);
        Ok(field)
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
