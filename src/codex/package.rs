//! Where the npm package of Codex keeps the native binary. `codex` on `PATH` is a node launcher; the
//! jail executes what it would start, so that no node process stands between session and Codex (killing
//! the launcher leaves the native process running, and the thread locked).

use std::path::{Path, PathBuf};

/// One place where the native binary may be, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeLayout {
    /// The binary, static and position independent.
    pub binary: PathBuf,
    /// The folder that the jail has to show: binary, search tool, resources.
    pub folder: PathBuf,
    /// Folders that Codex wants in `PATH`: its own search tool.
    pub path_dirs: Vec<PathBuf>,
    /// The bubblewrap that it brings, where it brings one as a file.
    pub bundled_bwrap: Option<PathBuf>,
}

/// Where to look, most likely first, given the launcher with all links resolved. Empty if that is not
/// Codex's. A native binary that was named directly is its own layout.
pub fn candidates(launcher: &Path, arch: &str) -> Vec<NativeLayout> {
    let Some(triple) = triple(arch) else {
        return Vec::new();
    };
    if launcher.file_name().is_some_and(|name| name == "codex") {
        return vendor_of(launcher)
            .map(|vendor| layouts(&vendor))
            .unwrap_or_default();
    }
    if launcher.file_name().is_none_or(|name| name != "codex.js") {
        return Vec::new();
    }
    // …/@openai/codex/bin/codex.js
    let Some(package) = launcher.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    let platform = format!(
        "@openai/codex-linux-{}",
        if arch == "x86_64" { "x64" } else { "arm64" }
    );
    let nested = package.join("node_modules").join(&platform);
    let hoisted = package
        .parent()
        .and_then(Path::parent)
        .map(|modules| modules.join(&platform));
    [Some(nested), hoisted, Some(package.to_path_buf())]
        .into_iter()
        .flatten()
        .flat_map(|root| layouts(&root.join("vendor").join(triple)))
        .collect()
}

/// From 0.130 on `bin/codex`, before that `codex/codex`.
fn layouts(vendor: &Path) -> Vec<NativeLayout> {
    let layout = |binary: &str, path: &str, bwrap: Option<&str>| NativeLayout {
        binary: vendor.join(binary),
        folder: vendor.to_path_buf(),
        path_dirs: vec![vendor.join(path)],
        bundled_bwrap: bwrap.map(|bwrap| vendor.join(bwrap)),
    };
    vec![
        layout("bin/codex", "codex-path", Some("codex-resources/bwrap")),
        layout("codex/codex", "path", None),
    ]
}

/// The vendor folder of a native binary: two levels up, and named for a triple.
fn vendor_of(binary: &Path) -> Option<PathBuf> {
    let vendor = binary.parent()?.parent()?;
    let name = vendor.file_name()?.to_str()?;
    name.ends_with("-linux-musl").then(|| vendor.to_path_buf())
}

fn triple(arch: &str) -> Option<&'static str> {
    match arch {
        "x86_64" => Some("x86_64-unknown-linux-musl"),
        "aarch64" => Some("aarch64-unknown-linux-musl"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries(launcher: &str) -> Vec<String> {
        let found = candidates(Path::new(launcher), "x86_64");
        found
            .iter()
            .map(|layout| layout.binary.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_launcher_leads_to_both_layouts_nested_and_hoisted() {
        let vendor = "codex-linux-x64/vendor/x86_64-unknown-linux-musl";
        let expected = [
            format!("/n/@openai/codex/node_modules/@openai/{vendor}/bin/codex"),
            format!("/n/@openai/codex/node_modules/@openai/{vendor}/codex/codex"),
            format!("/n/@openai/{vendor}/bin/codex"),
            format!("/n/@openai/{vendor}/codex/codex"),
            "/n/@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex".to_owned(),
            "/n/@openai/codex/vendor/x86_64-unknown-linux-musl/codex/codex".to_owned(),
        ];
        assert_eq!(binaries("/n/@openai/codex/bin/codex.js"), expected);
    }

    #[test]
    fn a_native_binary_is_its_own_and_other_programs_are_none() {
        let native = "/v/x86_64-unknown-linux-musl/bin/codex";
        assert_eq!(binaries(native).first().map(String::as_str), Some(native));
        assert_eq!(binaries("/usr/bin/codex"), Vec::<String>::new());
        assert_eq!(binaries("/usr/bin/python3"), Vec::<String>::new());
        assert_eq!(
            candidates(Path::new("/n/@openai/codex/bin/codex.js"), "riscv64"),
            vec![]
        );
    }
}
