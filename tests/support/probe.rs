//! Where the probe is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The probe, built: cargo builds no examples for a single test.
pub(crate) fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let bins = Path::new(env!("CARGO_BIN_EXE_portcullis-init"))
            .parent()
            .unwrap();
        let profile = match bins.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--example",
                "probe",
                "--profile",
                profile,
            ])
            .arg("--target-dir")
            .arg(bins.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(status.unwrap().success());
        bins.join("examples/probe")
    })
}
