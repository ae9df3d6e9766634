//! Layers: strictest ← base ← … ← the profile asked for. A profile without `extends` extends `base`; one
//! that extends its own name extends the compiled-in profile of that name.

use super::Profile;
use super::error::ProfileError;
use super::file::ProfileFile;
use super::read::{Source, overlay, strictest};
use super::{BASE, Overrides, builtin, builtin_names, credentials};

/// The longest chain of `extends`; more is a mistake, not a plan.
const MAX_CHAIN: usize = 8;

/// Hands in a profile's text by name; `None`: there is none of this name.
pub type Load<'a> = dyn FnMut(&str) -> Result<Option<String>, String> + 'a;

impl Profile {
    /// Reads a profile and all that it extends.
    pub fn read(name: &str, load: &mut Load<'_>) -> Result<Self, ProfileError> {
        Self::read_with(name, load, &Overrides::default())
    }

    /// The same with flags laid over it. A profile may need one of them to be whole, as `--mitm`.
    pub fn read_with(
        name: &str,
        load: &mut Load<'_>,
        overrides: &Overrides,
    ) -> Result<Self, ProfileError> {
        Self::layered(name, load)?.apply(overrides)
    }

    /// The layers, not yet checked as a whole.
    fn layered(name: &str, load: &mut Load<'_>) -> Result<Self, ProfileError> {
        let mut profile = strictest(name);
        let chain = chain(name, load)?;
        let last = chain.len().saturating_sub(1);
        for (i, (layer, file)) in chain.into_iter().enumerate() {
            let source = Source {
                profile: &layer,
                inherited: i != last,
            };
            overlay(&mut profile, source, file)?;
        }
        credentials::check(&profile)?;
        Ok(profile)
    }
}

/// The files of a chain, the one that extends nothing first.
fn chain(name: &str, load: &mut Load<'_>) -> Result<Vec<(String, ProfileFile)>, ProfileError> {
    let mut chain: Vec<(String, ProfileFile)> = Vec::new();
    let mut next = Some(name.to_owned());
    while let Some(name) = next {
        let broken = |problem| ProfileError::Chain {
            chain: chain
                .iter()
                .map(|(layer, _)| layer.as_str())
                .chain([name.as_str()])
                .collect::<Vec<_>>()
                .join(" → "),
            problem,
        };
        // A caller's own profile may build on the compiled-in one of its name.
        let own = chain.last().is_some_and(|(layer, _)| *layer == name);
        let compiled = own.then(|| builtin(&name)).flatten();
        let known = chain.iter().filter(|(layer, _)| *layer == name).count();
        if known > usize::from(compiled.is_some()) {
            return Err(broken(
                "`extends` leads back to where it came from; rename one of them",
            ));
        }
        if chain.len() == MAX_CHAIN {
            return Err(broken(
                "`extends` goes deeper than 8 profiles; merge some of them",
            ));
        }
        let extended_by = chain.last().map(|(layer, _)| layer.as_str());
        let file = match compiled {
            Some(text) => ProfileFile::parse(&name, text)?,
            None => one(&name, extended_by, load)?,
        };
        next = parent(&name, &file)?;
        chain.push((name, file));
    }
    chain.reverse();
    Ok(chain)
}

fn one(
    name: &str,
    extended_by: Option<&str>,
    load: &mut Load<'_>,
) -> Result<ProfileFile, ProfileError> {
    let text = load(name).map_err(|problem| ProfileError::Load {
        profile: name.to_owned(),
        problem,
    })?;
    let text = text.ok_or_else(|| {
        let available = builtin_names().map(ToOwned::to_owned).collect();
        ProfileError::missing(name, extended_by, available)
    })?;
    ProfileFile::parse(name, &text)
}

/// What a file extends.
fn parent(name: &str, file: &ProfileFile) -> Result<Option<String>, ProfileError> {
    match &file.extends {
        None => Ok((name != BASE).then(|| BASE.to_owned())),
        Some(parent) if is_name(parent) => Ok(Some(parent.clone())),
        Some(parent) => {
            let problem = format!(
                "{parent:?} is no profile name; accepted are letters, digits, '-', '_' and '.', not in front"
            );
            Err(ProfileError::key(name, "extends", problem))
        }
    }
}

/// Whether a text names a profile: never a path, never hidden.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 64 && !text.starts_with('.') && text.bytes().all(plain)
}
