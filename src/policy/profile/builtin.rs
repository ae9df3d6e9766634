//! The profiles that are compiled in: those of the folder `profiles/`.

/// The profile that every other extends unless it says otherwise.
pub const BASE: &str = "base";

const BUILTIN: [(&str, &str); 5] = [
    (BASE, include_str!("../../../profiles/base.toml")),
    ("codex", include_str!("../../../profiles/codex.toml")),
    (
        "codex-sealed",
        include_str!("../../../profiles/codex-sealed.toml"),
    ),
    ("offline", include_str!("../../../profiles/offline.toml")),
    (
        "registries",
        include_str!("../../../profiles/registries.toml"),
    ),
];

/// The text of a compiled-in profile.
pub fn builtin(name: &str) -> Option<&'static str> {
    BUILTIN
        .iter()
        .find(|(builtin, _)| *builtin == name)
        .map(|(_, text)| *text)
}

/// The names of the compiled-in profiles.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}
