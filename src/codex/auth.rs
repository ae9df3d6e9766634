//! `auth.json`, Codex's own sign-in, for the jail: the same account, none of its secrets.
//!
//! Two shapes, as 0.118 and 0.169 write them: `{"auth_mode": "apikey", "OPENAI_API_KEY": …}`, and
//! `{"OPENAI_API_KEY": null, "tokens": {id_token, access_token, refresh_token, account_id},
//! "last_refresh": …}`. What else a version may keep there is left out: it could be a secret.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};
use zeroize::Zeroize;

use crate::secret::Secret;

/// Where Codex signs in and renews an account's tokens.
pub const SIGN_IN_HOST: &str = "auth.openai.com";

/// A sign-in that was read.
pub struct AuthFile {
    auth_mode: Option<String>,
    api_key: Option<Secret<String>>,
    tokens: Option<Tokens>,
}

struct Tokens {
    /// Who the account is; Codex reads its claims and sends it to nobody but the sign-in host.
    id_token: Secret<String>,
    access_token: Secret<String>,
    account_id: Option<String>,
}

/// Printed without anything of the account.
impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFile")
            .field("auth_mode", &self.auth_mode)
            .field("api_key", &self.api_key)
            .finish_non_exhaustive()
    }
}

/// The text is no `auth.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no auth.json that is understood")]
pub struct NotAuthFile;

/// What stands for each secret in the jail; what has nothing is left out.
#[derive(Debug, Clone)]
pub struct Substitutes<'a> {
    /// For the API key.
    pub api_key: Option<&'a str>,
    /// For the access token; see [`access_token_placeholder`].
    pub access_token: Option<&'a str>,
    /// When the tokens were refreshed last, as Codex is to believe (RFC 3339): it refreshes by itself
    /// after eight days, and in the jail it cannot.
    pub refreshed: String,
}

impl AuthFile {
    /// Reads `auth.json`. What was parsed and is not kept is wiped.
    pub fn parse(text: &[u8]) -> Result<Self, NotAuthFile> {
        let mut value: Value = serde_json::from_slice(text).map_err(|_| NotAuthFile)?;
        let read = value.as_object().map(Self::read);
        wipe(&mut value);
        read.ok_or(NotAuthFile)
    }

    fn read(file: &Map<String, Value>) -> Self {
        let tokens = file.get("tokens").and_then(Value::as_object);
        Self {
            auth_mode: text(file, "auth_mode"),
            api_key: text(file, "OPENAI_API_KEY").map(Secret::new),
            tokens: tokens.and_then(|tokens| {
                Some(Tokens {
                    id_token: Secret::new(text(tokens, "id_token")?),
                    access_token: Secret::new(text(tokens, "access_token")?),
                    account_id: text(tokens, "account_id"),
                })
            }),
        }
    }

    /// The API key, if the sign-in is one by key.
    pub fn api_key(&self) -> Option<&Secret<String>> {
        self.api_key.as_ref()
    }

    /// The access token of a ChatGPT account.
    pub fn access_token(&self) -> Option<&Secret<String>> {
        self.tokens.as_ref().map(|tokens| &tokens.access_token)
    }

    /// Whether Codex goes by the ChatGPT account and not by the key, where a file has both: as
    /// `auth_mode` says, and without one the key wins (0.118 and 0.169).
    pub fn is_chatgpt(&self) -> bool {
        let by_account = match self.auth_mode.as_deref() {
            Some(mode) => mode.starts_with("chatgpt"),
            None => self.api_key.is_none(),
        };
        by_account && self.tokens.is_some()
    }

    /// When the access token ends, in seconds since 1970, if it says so.
    pub fn expires(&self) -> Option<i64> {
        let mut claims = claims(self.access_token()?.expose())?;
        let expires = claims.get("exp").and_then(Value::as_i64);
        claims.values_mut().for_each(wipe);
        expires
    }

    /// The file for the jail.
    pub fn sealed(&self, substitutes: &Substitutes<'_>) -> String {
        let mut file = Map::new();
        if let Some(mode) = &self.auth_mode {
            file.insert("auth_mode".to_owned(), json!(mode));
        }
        let api_key = substitutes.api_key.filter(|_| self.api_key.is_some());
        file.insert("OPENAI_API_KEY".to_owned(), json!(api_key));
        if let (Some(tokens), Some(access_token)) = (&self.tokens, substitutes.access_token) {
            let tokens = json!({
                "id_token": sealed_id_token(tokens.id_token.expose()),
                "access_token": access_token,
                "refresh_token": "portcullis-refreshes-outside",
                "account_id": tokens.account_id,
            });
            file.insert("tokens".to_owned(), tokens);
            file.insert("last_refresh".to_owned(), json!(substitutes.refreshed));
        }
        Value::Object(file).to_string()
    }
}

/// A string member that is there and not empty.
fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    let text = object.get(key)?.as_str()?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// A token (RFC 7519) that Codex takes for the account's and that no server takes: of the claims only
/// those that Codex reads itself, an end that does not come during a session, and the mark in place of
/// the signature (44 digits of base64url, which is 33 bytes).
pub fn access_token_placeholder(token: &str, expires: i64, mark: &str) -> String {
    const ACCOUNT: &str = "https://api.openai.com/auth";
    const READ: [&str; 3] = ["chatgpt_account_id", "chatgpt_plan_type", "chatgpt_user_id"];
    let mut claims = claims(token).unwrap_or_default();
    let account: Map<String, Value> = claims
        .get(ACCOUNT)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| READ.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    claims.values_mut().for_each(wipe);
    let mut payload = json!({ "exp": expires });
    if let (Some(payload), false) = (payload.as_object_mut(), account.is_empty()) {
        payload.insert(ACCOUNT.to_owned(), Value::Object(account));
    }
    unsigned(&payload, &format!("portcullis--{mark}"))
}

/// The same claims under no signature.
fn sealed_id_token(token: &str) -> String {
    let payload = Value::Object(claims(token).unwrap_or_default());
    unsigned(
        &payload,
        &BASE64URL_NOPAD.encode(b"portcullis: no signature"),
    )
}

fn unsigned(payload: &Value, signature: &str) -> String {
    let header = BASE64URL_NOPAD.encode(br#"{"alg":"RS256","typ":"JWT"}"#);
    let payload = BASE64URL_NOPAD.encode(payload.to_string().as_bytes());
    format!("{header}.{payload}.{signature}")
}

/// A token's claims, unverified.
fn claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let mut payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    let claims = serde_json::from_slice(&payload).ok();
    payload.zeroize();
    claims
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "00112233445566778899aabbccddeeff";

    fn token(payload: &Value, signature: &str) -> String {
        unsigned(payload, signature)
    }

    fn substitutes<'a>() -> Substitutes<'a> {
        Substitutes {
            api_key: Some("sk-portcullis-x"),
            access_token: Some("a.b.c"),
            refreshed: "2026-03-01T00:00:00Z".to_owned(),
        }
    }

    fn sealed(file: &Value, substitutes: &Substitutes<'_>) -> Value {
        let file = AuthFile::parse(file.to_string().as_bytes()).unwrap();
        serde_json::from_str(&file.sealed(substitutes)).unwrap()
    }

    #[test]
    fn an_api_key_is_replaced_or_left_out() {
        let file =
            json!({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-proj-real", "agent_identity": "s"});
        let parsed = AuthFile::parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.api_key().unwrap().expose(), "sk-proj-real");
        assert!(!format!("{parsed:?}").contains("real"));
        assert_eq!(
            sealed(&file, &substitutes()),
            json!({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-portcullis-x"})
        );
        let none = Substitutes {
            api_key: None,
            ..substitutes()
        };
        assert_eq!(
            sealed(&file, &none),
            json!({"auth_mode": "apikey", "OPENAI_API_KEY": null})
        );
    }

    #[test]
    fn a_chatgpt_account_keeps_who_it_is_and_loses_every_secret() {
        let account = json!({"email": "ada@example.com", "https://api.openai.com/auth": {
            "chatgpt_plan_type": "plus", "chatgpt_account_id": "acc-1"}});
        let file = json!({
            "OPENAI_API_KEY": null,
            "tokens": {
                "id_token": token(&account, "id-signature"),
                "access_token": token(&json!({"exp": 77}), "access-signature"),
                "refresh_token": "rt_real",
                "account_id": "acc-1",
            },
            "last_refresh": "2020-01-01T00:00:00Z",
        });
        let parsed = AuthFile::parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.expires(), Some(77));
        let sealed = sealed(&file, &substitutes());
        let id_token = sealed["tokens"]["id_token"].as_str().unwrap();
        assert_eq!(Value::Object(claims(id_token).unwrap()), account);
        assert_eq!(
            sealed,
            json!({
                "OPENAI_API_KEY": null,
                "tokens": {
                    "id_token": id_token,
                    "access_token": "a.b.c",
                    "refresh_token": "portcullis-refreshes-outside",
                    "account_id": "acc-1",
                },
                "last_refresh": "2026-03-01T00:00:00Z",
            })
        );
        for secret in ["id-signature", "access-signature", "rt_real"] {
            assert!(!sealed.to_string().contains(secret), "{secret}");
        }
    }

    #[test]
    fn a_file_with_an_account_and_a_key_is_what_its_mode_says() {
        let tokens = json!({"id_token": "x", "access_token": "y", "refresh_token": "z"});
        let cases = [
            (json!({"tokens": tokens}), true),
            (json!({"OPENAI_API_KEY": "k", "tokens": tokens}), false),
            (
                json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": "k", "tokens": tokens}),
                true,
            ),
            (
                json!({"auth_mode": "apikey", "OPENAI_API_KEY": "k", "tokens": tokens}),
                false,
            ),
            (
                json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": "k"}),
                false,
            ),
            (json!({"OPENAI_API_KEY": "k"}), false),
        ];
        for (file, is_chatgpt) in cases {
            let parsed = AuthFile::parse(file.to_string().as_bytes()).unwrap();
            assert_eq!(parsed.is_chatgpt(), is_chatgpt, "{file}");
        }
    }

    #[test]
    fn an_account_without_a_credential_for_it_does_not_enter() {
        let file = json!({"tokens": {"id_token": "x", "access_token": "y", "refresh_token": "z"}});
        let none = Substitutes {
            access_token: None,
            ..substitutes()
        };
        assert_eq!(sealed(&file, &none), json!({"OPENAI_API_KEY": null}));
    }

    #[test]
    fn an_access_token_of_the_jail_is_a_token_that_ends_with_its_mark() {
        let real = token(
            &json!({"exp": 5, "jti": "one-time", "scp": ["all"], "https://api.openai.com/auth": {
                "chatgpt_account_id": "acc-1", "session": "s"}}),
            "real-signature",
        );
        let placeholder = access_token_placeholder(&real, 99, MARK);
        assert!(
            placeholder.ends_with(&format!(".portcullis--{MARK}")),
            "{placeholder}"
        );
        assert_eq!(
            Value::Object(claims(&placeholder).unwrap()),
            json!({"exp": 99, "https://api.openai.com/auth": {"chatgpt_account_id": "acc-1"}})
        );
        let of_no_token = access_token_placeholder("opaque", 99, MARK);
        assert_eq!(
            Value::Object(claims(&of_no_token).unwrap()),
            json!({"exp": 99})
        );
        // The signature is base64url as in any other.
        assert!(
            BASE64URL_NOPAD
                .decode(format!("portcullis--{MARK}").as_bytes())
                .is_ok()
        );
    }

    #[test]
    fn what_is_no_auth_file_is_told_without_its_text() {
        for odd in ["", "{", "[]", "\"sk-real\""] {
            let error = AuthFile::parse(odd.as_bytes()).unwrap_err();
            assert_eq!(error, NotAuthFile, "{odd}");
        }
        assert!(AuthFile::parse(b"{}").unwrap().api_key().is_none());
    }
}
