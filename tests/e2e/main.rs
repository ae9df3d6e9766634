//! Real Codex, oldest and newest, in the real jail, against the stub of the model.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

mod chatgpt;
#[path = "../support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "../support/codex_install.rs"]
mod codex_install;
mod credentials;
mod exchanged;
mod fallback;
#[path = "../support/fd_store.rs"]
mod fd_store;
mod refusals;
mod sandbox;
mod scene;
#[path = "../support/screen.rs"]
mod screen;
mod served;
#[path = "../support/service.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod service;
#[path = "../support/stub.rs"]
mod stub;
#[path = "../support/terminal.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod terminal;
mod terminal_ui;
mod work;
mod world;
