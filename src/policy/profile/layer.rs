//! Layers: strictest ← base ← … ← the profile asked for ← the project's file ← flags, held to the
//! requirements. A profile without `extends` extends `base`; one that extends its own name extends the
//! next one of that name: the caller's, then the host's, then the compiled-in one.

use std::path::PathBuf;

use super::error::ProfileError;
use super::file::ProfileFile;
use super::origin::Origins;
use super::read::{Source, overlay, strictest};
use super::{BASE, Overrides, Profile, builtin, builtin_names};
use crate::policy::requirements::{Cut, Requirements};
use crate::policy::upstream::ProxyUrl;

/// The longest chain of `extends`; more is a mistake, not a plan.
const MAX_CHAIN: usize = 8;

/// The text of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerText {
    /// What it says.
    pub text: String,
    /// Where it stands, for people.
    pub place: String,
}

/// Hands in a profile's text by name: the first of that name, the second where the first extends its
/// own name, and so on. `None`: there are no more.
type Load<'a> = dyn FnMut(&str, usize) -> Result<Option<LayerText>, String> + 'a;

/// What is laid over a chain of profiles.
#[derive(Debug, Clone, Copy)]
pub struct Overlays<'a> {
    /// The file of the project, with its path.
    pub project: Option<&'a LayerText>,
    /// The flags.
    pub overrides: &'a Overrides,
    /// What no layer exceeds.
    pub requirements: Option<&'a Requirements>,
    /// Whether to note where each value was written.
    pub origins: bool,
}

/// A profile as it was read.
#[derive(Debug)]
pub struct Reading {
    /// What holds.
    pub profile: Profile,
    /// What the requirements took away.
    pub cuts: Vec<Cut>,
    /// The files of certificates that the requirements leave; `None`: any.
    pub authorities: Option<Vec<PathBuf>>,
    /// The upstream proxies that the requirements leave; `None`: any.
    pub upstream_proxies: Option<Vec<ProxyUrl>>,
    /// Where each value was written, if that was asked for.
    pub origins: Option<Origins>,
}

impl Profile {
    /// Reads a profile and all that it extends. Hands in one text by name; beneath it are the
    /// compiled-in profiles.
    pub fn read(
        name: &str,
        load: &mut dyn FnMut(&str) -> Result<Option<String>, String>,
    ) -> Result<Self, ProfileError> {
        Self::read_with(name, load, &Overrides::default())
    }

    /// The same with flags laid over it. A profile may need one of them to be whole, as `--mitm`.
    pub fn read_with(
        name: &str,
        load: &mut dyn FnMut(&str) -> Result<Option<String>, String>,
        overrides: &Overrides,
    ) -> Result<Self, ProfileError> {
        let mut load = |name: &str, nth| {
            let text = match nth {
                0 => load(name)?,
                1 => builtin(name).map(ToOwned::to_owned),
                _ => None,
            };
            let place = name.to_owned();
            Ok(text.map(|text| LayerText { text, place }))
        };
        let over = Overlays::flags(overrides);
        Self::read_layers(name, &mut load, over).map(|reading| reading.profile)
    }

    /// Reads a profile with all its over.
    pub fn read_layers(
        name: &str,
        load: &mut Load<'_>,
        over: Overlays<'_>,
    ) -> Result<Reading, ProfileError> {
        let mut reading = Reading {
            profile: strictest(name),
            cuts: Vec::new(),
            authorities: None,
            upstream_proxies: None,
            origins: over.origins.then(Origins::default),
        };
        reading.note("the default")?;
        let chain = chain(name, load)?;
        let last = chain.len().saturating_sub(1);
        for (i, layer) in chain.into_iter().enumerate() {
            let source = Source {
                profile: &layer.name,
                inherited: i != last,
            };
            overlay(&mut reading.profile, source, layer.file)?;
            reading.note(&layer.place)?;
        }
        if let Some(project) = over.project {
            reading.profile.narrow(&project.place, &project.text)?;
            reading.note(&project.place)?;
        }
        reading.profile.lay(over.overrides)?;
        reading.note("the command line")?;
        if let Some(requirements) = over.requirements {
            reading.cuts = reading.profile.hold_to(requirements);
            reading.authorities = requirements.authorities().map(<[_]>::to_vec);
            reading.upstream_proxies = requirements.upstream_proxies().map(<[_]>::to_vec);
            reading.note(requirements.place())?;
        }
        reading.profile.check()?;
        Ok(reading)
    }
}

impl<'a> Overlays<'a> {
    /// Flags and nothing else.
    pub fn flags(overrides: &'a Overrides) -> Self {
        Self {
            project: None,
            overrides,
            requirements: None,
            origins: false,
        }
    }
}

impl Reading {
    fn note(&mut self, place: &str) -> Result<(), ProfileError> {
        let Some(origins) = &mut self.origins else {
            return Ok(());
        };
        origins
            .note(&self.profile, place)
            .map_err(|error| ProfileError::Load {
                profile: self.profile.name.clone(),
                problem: format!("tell where its values were written: {error}"),
            })
    }
}

/// One file of a chain.
struct Layer {
    name: String,
    place: String,
    file: ProfileFile,
}

/// The files of a chain, the one that extends nothing first.
fn chain(name: &str, load: &mut Load<'_>) -> Result<Vec<Layer>, ProfileError> {
    let mut chain: Vec<Layer> = Vec::new();
    let mut next = Some(name.to_owned());
    while let Some(name) = next {
        let broken = |problem| ProfileError::Chain {
            chain: chain
                .iter()
                .map(|layer| layer.name.as_str())
                .chain([name.as_str()])
                .collect::<Vec<_>>()
                .join(" → "),
            problem,
        };
        let back = "`extends` leads back to where it came from; rename one of them";
        let known = chain.iter().filter(|layer| layer.name == name).count();
        // Those of one name follow each other, or somebody in between leads back.
        let own = chain
            .iter()
            .rev()
            .take_while(|layer| layer.name == name)
            .count();
        if known != own {
            return Err(broken(back));
        }
        if chain.len() == MAX_CHAIN {
            return Err(broken(
                "`extends` goes deeper than 8 profiles; merge some of them",
            ));
        }
        let found = load(&name, own).map_err(|problem| ProfileError::Load {
            profile: name.clone(),
            problem,
        })?;
        let Some(LayerText { text, place }) = found else {
            if own > 0 {
                return Err(broken(back));
            }
            let available = builtin_names().map(ToOwned::to_owned).collect();
            let extended_by = chain.last().map(|layer| layer.name.as_str());
            return Err(ProfileError::missing(&name, extended_by, available));
        };
        let file = ProfileFile::parse(&name, &text)?;
        next = parent(&name, &file)?;
        chain.push(Layer { name, place, file });
    }
    chain.reverse();
    Ok(chain)
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
