//! Credentials that stay outside: reads each value where the profile says, makes its placeholder, and
//! takes the value out of everything the jail gets: environment, command line, copied files.
//!
//! Owns: the values from here to the gate's boot frame. Never: prints one, names one in an error, writes
//! one to disk, keeps one after the gate has it.

mod codex_sign_in;
mod source;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use memchr::memmem;
use zeroize::Zeroize;

use crate::codex::environment::{KEY_VARIABLE, KEY_VARIABLES};
use crate::policy::{CodexSecret, Credential, CredentialSource, Profile};
use crate::secret::Secret;
use crate::sys::harden;
use crate::wire::gate::{CredentialValue, MARK};

use super::Progress;
use super::caller::Caller;
use super::command::Command;
use super::error::LaunchError;
use codex_sign_in::SignIn;

/// Values below this length are not looked for in what the jail gets: they would be found everywhere.
const SHORTEST_SEALED: usize = 8;

/// Codex's sign-in in the jail's home.
const AUTH_FILE: &str = ".codex/auth.json";

/// A profile's credentials with their values.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    values: Vec<CredentialValue>,
    /// Variables of the jail with what they hold: placeholders.
    variables: Vec<(String, String)>,
    /// Where the profile speaks of Codex's own sign-in.
    sign_in: Option<SignIn>,
    /// What stands for the secrets of that sign-in.
    codex: Vec<(CodexSecret, String)>,
}

/// Finds every value. Optional credentials without one leave the profile.
pub(super) fn settle(
    profile: &mut Profile,
    caller: &Caller,
    writable: &[PathBuf],
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Credentials, LaunchError> {
    let mut found = Credentials::default();
    let from_codex = |rule: &Credential| matches!(rule.source, CredentialSource::Codex(_));
    let sealed = profile.network.credentials.iter().any(from_codex);
    if profile.codex.enabled && !sealed {
        let sign_in = SignIn::read(caller).ok();
        if let Some(note) = sign_in.and_then(|of| of.note_unsealed()) {
            tell(Progress::Note(&note));
        }
    }
    if profile.network.credentials.is_empty() {
        return Ok(found);
    }
    let system = |what| move |source| LaunchError::System { what, source };
    // From here on secrets are in our memory: nobody of the same user attaches or makes a core of it.
    harden::unreadable().map_err(system("make this process unreadable"))?;
    if sealed {
        let sign_in = SignIn::read(caller)?;
        // The jail's own copy stands in the home; anywhere else the host's would show.
        if sign_in.place() != caller.home.join(AUTH_FILE) {
            profile.filesystem.masked.push(sign_in.place().to_owned());
        }
        found.sign_in = Some(sign_in);
    }
    let mut settled = Vec::new();
    for rule in std::mem::take(&mut profile.network.credentials) {
        let value = source::read(&rule, caller, writable, found.sign_in.as_ref(), tell);
        match value.and_then(|value| source::checked(&value, &rule)) {
            Ok(value) => {
                found.add(&rule, value).map_err(system("random numbers"))?;
                let place = source::place(&rule, caller);
                let place = place.and_then(|place| place.canonicalize().ok());
                profile.filesystem.masked.extend(place);
                settled.push(rule);
            }
            Err(problem) if problem.missing && rule.optional => {}
            Err(problem) => {
                return Err(LaunchError::Credential {
                    name: rule.name,
                    problem: problem.text,
                });
            }
        }
    }
    profile.network.credentials = settled;
    if let Some(sign_in) = &found.sign_in {
        for note in sign_in.notes(&profile.network.credentials) {
            tell(Progress::Note(&note));
        }
    }
    Ok(found)
}

impl Credentials {
    fn add(&mut self, rule: &Credential, value: Secret<String>) -> io::Result<()> {
        let mark = random_mark()?;
        let placeholder = match (&rule.source, &self.sign_in) {
            (CredentialSource::Codex(which), Some(sign_in)) => {
                let placeholder = sign_in.placeholder(*which, value.expose(), &mark);
                self.codex.push((*which, placeholder.clone()));
                placeholder
            }
            _ => format!("sk-portcullis-{mark}"),
        };
        // With this variable Codex would pass over the account that it is signed in with.
        let by_account = self.sign_in.as_ref().is_some_and(SignIn::by_account);
        let fits = |variable: &&String| !by_account || *variable != KEY_VARIABLE;
        if let Some(variable) = rule.env.as_ref().filter(fits) {
            self.variables.push((variable.clone(), placeholder.clone()));
        }
        self.values.push(CredentialValue {
            name: rule.name.clone(),
            placeholder,
            value,
        });
        Ok(())
    }

    /// The values, for the boot frame alone: copies that are wiped with it.
    pub(super) fn for_the_gate(&self) -> Vec<CredentialValue> {
        let copy = |known: &CredentialValue| CredentialValue {
            name: known.name.clone(),
            placeholder: known.placeholder.clone(),
            value: Secret::new(known.value.expose().clone()),
        };
        self.values.iter().map(copy).collect()
    }

    /// Wipes the values, once the command runs: nothing is left to seal.
    pub(super) fn forget(&mut self) {
        self.values.clear();
        self.sign_in = None;
    }

    /// A text with a placeholder in the place of every value.
    pub(super) fn sealed(&self, text: &str) -> String {
        let known = self.values.iter().filter(|known| is_known_by_sight(known));
        known.fold(text.to_owned(), |text, known| {
            text.replace(known.value.expose(), &known.placeholder)
        })
    }

    /// The command line and the files of a command, without any value.
    pub(super) fn seal_command(&self, command: &mut Command, home: &Path) {
        for word in &mut command.argv {
            *word = self.sealed(word);
        }
        for (_, text) in &mut command.environment {
            *text = self.sealed(text);
        }
        if let Some(sign_in) = &self.sign_in {
            let place = home.join(AUTH_FILE);
            for (_, copy) in command.files.iter_mut().filter(|(path, _)| *path == place) {
                copy.zeroize();
            }
            command.files.retain(|(path, _)| *path != place);
            let file = sign_in.sealed_file(&self.codex);
            command
                .files
                .extend(file.map(|text| (place, text.into_bytes())));
        }
        for (_, content) in &mut command.files {
            for known in self.values.iter().filter(|known| is_known_by_sight(known)) {
                replace(
                    content,
                    known.value.expose().as_bytes(),
                    known.placeholder.as_bytes(),
                );
            }
        }
    }

    /// The jail's variables: placeholders win over whatever else they were to hold, and no other
    /// variable holds a value. Where Codex's sign-in is sealed, so is every key of Codex's, also one
    /// that is not the credential's because another was found before it.
    pub(super) fn seal_environment(&self, variables: &mut Vec<(String, String)>) {
        if self.sign_in.is_some() {
            let found = |(which, _): &&(CodexSecret, String)| *which == CodexSecret::ApiKey;
            let placeholder = self.codex.iter().find(found).map(|(_, text)| text);
            let is_key = |name: &str| KEY_VARIABLES.contains(&name);
            variables.retain(|(name, _)| placeholder.is_some() || !is_key(name));
            for (_, text) in variables.iter_mut().filter(|(name, _)| is_key(name)) {
                text.zeroize();
                text.extend(placeholder.map(String::as_str));
            }
        }
        for (_, text) in variables.iter_mut() {
            *text = self.sealed(text);
        }
        variables.retain(|(name, _)| !self.variables.iter().any(|(own, _)| own == name));
        variables.extend(self.variables.iter().cloned());
        variables.sort_unstable();
    }
}

/// Whether a value is long enough to be told from chance.
fn is_known_by_sight(known: &CredentialValue) -> bool {
    known.value.expose().len() >= SHORTEST_SEALED
}

/// 128 bits from the kernel, in hex digits.
fn random_mark() -> io::Result<String> {
    let mut bytes = [0; MARK / 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}

fn replace(content: &mut Vec<u8>, value: &[u8], placeholder: &[u8]) {
    let places: Vec<usize> = memmem::find_iter(content, value).collect();
    for at in places.into_iter().rev() {
        content.splice(at..at + value.len(), placeholder.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let value = |name: &str, value: &str| CredentialValue {
            name: name.to_owned(),
            placeholder: format!("placeholder-of-{name}"),
            value: Secret::new(value.to_owned()),
        };
        Credentials {
            values: vec![value("key", "sk-real-one"), value("short", "abc")],
            variables: vec![("KEY".to_owned(), "placeholder-of-key".to_owned())],
            ..Credentials::default()
        }
    }

    #[test]
    fn no_variable_holds_a_value_and_the_credentials_own_holds_its_placeholder() {
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let mut variables = vec![
            pair("KEY", "sk-real-one"),
            pair("OTHER", "x=sk-real-one;sk-real-one"),
            pair("ABC", "abc"),
        ];
        credentials().seal_environment(&mut variables);
        assert_eq!(
            variables,
            [
                pair("ABC", "abc"),
                pair("KEY", "placeholder-of-key"),
                pair("OTHER", "x=placeholder-of-key;placeholder-of-key"),
            ]
        );
        let mut set_to_something_else = vec![pair("KEY", "mine")];
        credentials().seal_environment(&mut set_to_something_else);
        assert_eq!(set_to_something_else, [pair("KEY", "placeholder-of-key")]);
    }

    #[test]
    fn neither_command_line_nor_files_hold_a_value() {
        let mut command = Command {
            argv: vec!["tool".to_owned(), "--key=sk-real-one".to_owned()],
            files: vec![("/f".into(), b"\xff sk-real-one sk-real-one".to_vec())],
            ..Command::default()
        };
        credentials().seal_command(&mut command, Path::new("/home/ada"));
        assert_eq!(command.argv, ["tool", "--key=placeholder-of-key"]);
        assert_eq!(
            command.files[0].1,
            b"\xff placeholder-of-key placeholder-of-key"
        );
    }

    #[test]
    fn every_mark_is_random() {
        let (one, other) = (random_mark().unwrap(), random_mark().unwrap());
        assert_eq!((one.len(), other.len()), (MARK, MARK));
        assert_ne!(one, other);
    }
}
