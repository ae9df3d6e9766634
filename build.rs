//! Links the unwinder of GCC into our programs: as a shared library of its own (libgcc_s.so.1) it takes
//! each of them 0.11 ms of 0.79 ms to be there, and two pages of memory. A start has five of them.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script asks the compiler"
)]

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let native = env::var("HOST") == env::var("TARGET");
    if native && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") && has_it()
    {
        // As a whole and last: what is defined here needs no shared library any more (`--as-needed`).
        let arguments = "--push-state,--whole-archive,-l:libgcc_eh.a,--pop-state";
        println!("cargo::rustc-link-arg-bins=-Wl,{arguments}");
    }
}

/// Whether the C compiler, which links, has the library. It names one that it has by its path.
fn has_it() -> bool {
    let asked = Command::new("cc")
        .arg("-print-file-name=libgcc_eh.a")
        .output();
    asked.is_ok_and(|said| {
        let path = String::from_utf8_lossy(&said.stdout);
        Path::new(path.trim()).is_absolute()
    })
}
