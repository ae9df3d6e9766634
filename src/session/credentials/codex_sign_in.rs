//! The caller's own Codex sign-in: read once, and written again for the jail with placeholders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::codex::auth::{self, AuthFile, Substitutes};
use crate::codex::environment::{KEY_VARIABLE, KEY_VARIABLES};
use crate::policy::{CodexSecret, Credential, CredentialSource};
use crate::secret::Secret;

use super::super::caller::Caller;
use super::super::error::LaunchError;

/// The longest `auth.json`; its tokens take a few KiB.
const MAX_FILE: u64 = 256 << 10;

/// Seconds. An access token that ends within this is told at launch.
const SOON: i64 = 60 * 60;

/// The jail's token says that it lasts this long (seconds), so that Codex there does not try to refresh
/// what only the host can.
const LASTS: i64 = 30 * 24 * 60 * 60;

/// What the caller has.
#[derive(Debug)]
pub(super) struct SignIn {
    /// Where it stands on the host.
    place: PathBuf,
    file: Option<AuthFile>,
    api_key: Option<Secret<String>>,
    /// Codex goes by the ChatGPT account: there is one, and no `CODEX_API_KEY`, which wins over it.
    by_account: bool,
    now: jiff::Timestamp,
}

impl SignIn {
    /// `CODEX_API_KEY`, else `OPENAI_API_KEY`; `$CODEX_HOME/auth.json`.
    pub(super) fn read(caller: &Caller) -> Result<Self, LaunchError> {
        let home = caller
            .variable("CODEX_HOME")
            .map_or_else(|| caller.home.join(".codex"), PathBuf::from);
        let path = home.join("auth.json");
        let wrong = |problem: String| LaunchError::Credential {
            name: "codex".to_owned(),
            problem: format!("{}: {problem}; run codex login outside", path.display()),
        };
        let length = fs::metadata(&path).map(|metadata| metadata.len());
        if length.is_ok_and(|length| length > MAX_FILE) {
            return Err(wrong("is longer than an auth.json is".to_owned()));
        }
        let file = match fs::read(&path).map(Zeroizing::new) {
            Ok(text) => Some(AuthFile::parse(&text).map_err(|error| wrong(error.to_string()))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(wrong(error.to_string())),
        };
        let key = KEY_VARIABLES
            .iter()
            .find_map(|name| caller.variable(name)?.to_str());
        Ok(Self {
            api_key: key.map(|key| Secret::new(key.to_owned())),
            by_account: caller.variable(KEY_VARIABLE).is_none()
                && file.as_ref().is_some_and(AuthFile::is_chatgpt),
            place: path,
            file,
            now: jiff::Timestamp::now(),
        })
    }

    /// Whether Codex uses the ChatGPT account rather than a key.
    pub(super) fn by_account(&self) -> bool {
        self.by_account
    }

    /// Where the host has it.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// One of its secrets.
    pub(super) fn take(&self, which: CodexSecret) -> Option<Secret<String>> {
        let copy = |secret: &Secret<String>| Secret::new(secret.expose().clone());
        match which {
            CodexSecret::ApiKey => {
                let of_file = || self.file.as_ref()?.api_key();
                self.api_key.as_ref().or_else(of_file).map(copy)
            }
            CodexSecret::AccessToken => self.file.as_ref()?.access_token().map(copy),
        }
    }

    /// What to do where there is none.
    pub(super) fn cure(which: CodexSecret) -> &'static str {
        match which {
            CodexSecret::ApiKey => {
                "no API key in CODEX_API_KEY, OPENAI_API_KEY or auth.json; export one, or run codex login outside"
            }
            CodexSecret::AccessToken => "auth.json has no ChatGPT account; run codex login outside",
        }
    }

    /// What stands for it in the jail.
    pub(super) fn placeholder(&self, which: CodexSecret, value: &str, mark: &str) -> String {
        match which {
            CodexSecret::ApiKey => format!("sk-portcullis-{mark}"),
            CodexSecret::AccessToken => {
                let expires = self.now.as_second().saturating_add(LASTS);
                auth::access_token_placeholder(value, expires, mark)
            }
        }
    }

    /// `auth.json` for the jail: every secret of it replaced, or left out where the profile has no
    /// credential for it.
    pub(super) fn sealed_file(&self, placeholders: &[(CodexSecret, String)]) -> Option<String> {
        let of = |which: CodexSecret| {
            let found = placeholders.iter().find(|(what, _)| *what == which);
            found.map(|(_, placeholder)| placeholder.as_str())
        };
        let substitutes = Substitutes {
            api_key: of(CodexSecret::ApiKey),
            access_token: of(CodexSecret::AccessToken),
            refreshed: self.now.to_string(),
        };
        Some(self.file.as_ref()?.sealed(&substitutes))
    }

    /// What the caller should know at launch.
    pub(super) fn notes(&self, rules: &[Credential]) -> Vec<String> {
        let has = |which: CodexSecret| {
            rules
                .iter()
                .any(|rule| rule.source == CredentialSource::Codex(which))
        };
        // A key may also come from elsewhere, under the name by which Codex knows it.
        let is_key = |name: &String| KEY_VARIABLES.contains(&name.as_str());
        let brought = rules
            .iter()
            .any(|rule| rule.env.as_ref().is_some_and(is_key));
        let api_key = brought || has(CodexSecret::ApiKey);
        let access_token = has(CodexSecret::AccessToken);
        if !api_key && !access_token {
            let (key, account) = (
                Self::cure(CodexSecret::ApiKey),
                Self::cure(CodexSecret::AccessToken),
            );
            return vec![format!("Codex has no sign-in here: {key}; {account}")];
        }
        if !access_token || (api_key && !self.by_account) {
            return Vec::new();
        }
        let note = self.age().map(|age| match age {
            Age::Over => {
                format!("{OVER}: start codex once outside, which refreshes it, then run this again")
            }
            Age::EndsIn(minutes) => ends_in(minutes),
        });
        note.into_iter().collect()
    }

    /// What the caller should know where the jail gets the sign-in as it is. A refresh token is good for
    /// one use: the jail's copy takes that from the caller's, and what it gets for it is not kept.
    pub(super) fn note_unsealed(&self) -> Option<String> {
        let age = match self.age().filter(|_| self.by_account)? {
            Age::Over => format!("{OVER}: start codex once outside first"),
            Age::EndsIn(minutes) => ends_in(minutes),
        };
        Some(format!(
            "{age}; refreshed in the jail it is lost with the session, and yours may have to be signed in again"
        ))
    }

    /// That the access token has ended, or ends soon.
    fn age(&self) -> Option<Age> {
        let expires = self.file.as_ref().and_then(AuthFile::expires)?;
        match expires.saturating_sub(self.now.as_second()) {
            ..=0 => Some(Age::Over),
            left if left < SOON => Some(Age::EndsIn(left / 60)),
            _ => None,
        }
    }
}

/// An access token that is not good for much longer.
enum Age {
    Over,
    /// Minutes. Codex itself refreshes it in the last five, in 0.118 at its end (openai/codex,
    /// `login/src/auth/manager.rs`).
    EndsIn(i64),
}

const OVER: &str = "the ChatGPT sign-in of auth.json has expired";

fn ends_in(minutes: i64) -> String {
    format!(
        "the ChatGPT sign-in of auth.json ends in {minutes} minutes: a longer session needs a new one, from \
         codex login outside"
    )
}
