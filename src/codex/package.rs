//! Which file Codex really is.
//!
//! What npm puts on `PATH` is `bin/codex.js`, a launcher for Node; the program is a static binary in a
//! package for the platform beside it. The jail runs that binary: no Node in the process tree, and a
//! killed session leaves nothing behind (killing the launcher leaves the binary running).

use std::path::{Path, PathBuf};

/// The machine, in the words of both npm and the binary's triple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `x64`, `x86_64`.
    X86_64,
    /// `arm64`, `aarch64`.
    Aarch64,
}

impl Arch {
    /// From `std::env::consts::ARCH`; none for a machine that Codex is not published for.
    pub fn from_rust(arch: &str) -> Option<Self> {
        match arch {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::X86_64 => "@openai/codex-linux-x64",
            Self::Aarch64 => "@openai/codex-linux-arm64",
        }
    }

    fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }
}

/// An installed Codex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeLayout {
    /// The static binary to execute.
    pub binary: PathBuf,
    /// What the jail must show of the host for it: a folder, or the binary alone.
    pub folder: PathBuf,
    /// Folders for the front of `PATH` (ripgrep).
    pub path_dirs: Vec<PathBuf>,
    /// The bubblewrap that came with it.
    pub bundled_bwrap: Option<PathBuf>,
}

/// The installation behind `launcher`, the canonical path of `codex` on `PATH`. `exists` is asked for
/// each file that might be there.
pub fn find(launcher: &Path, arch: Arch, exists: impl Fn(&Path) -> bool) -> Option<NativeLayout> {
    let mut layout = candidates(launcher, arch)
        .into_iter()
        .find(|layout| exists(&layout.binary))?;
    layout.path_dirs.retain(|folder| exists(folder));
    layout.bundled_bwrap = layout.bundled_bwrap.filter(|bwrap| exists(bwrap));
    Some(layout)
}

/// Where the binary behind `launcher` may be, likeliest first.
pub fn candidates(launcher: &Path, arch: Arch) -> Vec<NativeLayout> {
    if launcher.file_name() != Some("codex.js".as_ref()) {
        return vec![named_directly(launcher, arch)];
    }
    platform_packages(launcher, arch)
        .map(|package| package.join("vendor").join(arch.triple()))
        .flat_map(|root| [current(&root), until_0_118(&root)])
        .collect()
}

/// Node's own search (`require.resolve` in the launcher): every `node_modules` from the launcher
/// upwards; then the launcher's package itself, which in old releases carried every platform.
fn platform_packages(launcher: &Path, arch: Arch) -> impl Iterator<Item = PathBuf> {
    let installed = launcher
        .ancestors()
        .skip(1)
        .filter(|folder| !folder.ends_with("node_modules"))
        .map(move |folder| folder.join("node_modules").join(arch.package()));
    let own = launcher.ancestors().nth(2).map(Path::to_owned);
    installed.chain(own)
}

/// Layout version 1 of `codex-package.json`; tried with 0.169.0.
fn current(root: &Path) -> NativeLayout {
    NativeLayout {
        binary: root.join("bin/codex"),
        folder: root.to_owned(),
        path_dirs: vec![root.join("codex-path")],
        bundled_bwrap: Some(root.join("codex-resources/bwrap")),
    }
}

/// Before that; tried with 0.118.0, whose bubblewrap is part of the binary.
fn until_0_118(root: &Path) -> NativeLayout {
    NativeLayout {
        binary: root.join("codex/codex"),
        folder: root.to_owned(),
        path_dirs: vec![root.join("path")],
        bundled_bwrap: None,
    }
}

/// Not npm's launcher: the binary inside its package, or one that somebody put on `PATH` by itself.
fn named_directly(binary: &Path, arch: Arch) -> NativeLayout {
    let root = binary
        .ancestors()
        .nth(2)
        .filter(|root| root.ends_with(arch.triple()));
    let packaged = root.and_then(|root| {
        [current(root), until_0_118(root)]
            .into_iter()
            .find(|layout| layout.binary == binary)
    });
    packaged.unwrap_or_else(|| NativeLayout {
        binary: binary.to_owned(),
        folder: binary.to_owned(),
        path_dirs: Vec::new(),
        bundled_bwrap: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = "/opt/n/node_modules/@openai/codex/node_modules/@openai/codex-linux-x64";
    const HOISTED: &str = "/opt/n/node_modules/@openai/codex-linux-x64";

    fn found(launcher: &str, arch: Arch, files: &[String]) -> Option<NativeLayout> {
        find(Path::new(launcher), arch, |path| {
            files.iter().any(|file| Path::new(file).starts_with(path))
        })
    }

    #[test]
    fn the_layout_of_0_169_is_found_nested_or_hoisted() {
        for package in [NESTED, HOISTED] {
            let root = format!("{package}/vendor/x86_64-unknown-linux-musl");
            let files = ["bin/codex", "codex-path/rg", "codex-resources/bwrap"]
                .map(|file| format!("{root}/{file}"));
            assert_eq!(
                found(
                    "/opt/n/node_modules/@openai/codex/bin/codex.js",
                    Arch::X86_64,
                    &files
                ),
                Some(NativeLayout {
                    binary: format!("{root}/bin/codex").into(),
                    path_dirs: vec![format!("{root}/codex-path").into()],
                    bundled_bwrap: Some(format!("{root}/codex-resources/bwrap").into()),
                    folder: root.into(),
                })
            );
        }
    }

    #[test]
    fn the_layout_of_0_118_is_found_and_has_no_bubblewrap() {
        let root = "/n/node_modules/@openai/codex-linux-arm64/vendor/aarch64-unknown-linux-musl";
        let files = ["codex/codex", "path/rg"].map(|file| format!("{root}/{file}"));
        assert_eq!(
            found(
                "/n/node_modules/@openai/codex/bin/codex.js",
                Arch::Aarch64,
                &files
            ),
            Some(NativeLayout {
                binary: format!("{root}/codex/codex").into(),
                folder: root.into(),
                path_dirs: vec![format!("{root}/path").into()],
                bundled_bwrap: None,
            })
        );
    }

    #[test]
    fn a_launcher_without_a_package_for_this_machine_is_no_installation() {
        let other = format!("{HOISTED}/vendor/x86_64-unknown-linux-musl/bin/codex");
        let launcher = "/opt/n/node_modules/@openai/codex/bin/codex.js";
        assert_eq!(found(launcher, Arch::Aarch64, &[other]), None);
    }

    #[test]
    fn a_binary_named_directly_brings_its_package_but_never_the_folder_of_others() {
        let packaged = format!("{HOISTED}/vendor/x86_64-unknown-linux-musl/bin/codex");
        let layout = found(&packaged, Arch::X86_64, std::slice::from_ref(&packaged));
        let folder = Path::new(HOISTED).join("vendor/x86_64-unknown-linux-musl");
        assert_eq!(layout.map(|layout| layout.folder), Some(folder));

        let lone = "/usr/local/bin/codex";
        let layout = found(lone, Arch::X86_64, &[lone.to_owned()]);
        assert_eq!(layout.map(|layout| layout.folder), Some(lone.into()));
    }
}
