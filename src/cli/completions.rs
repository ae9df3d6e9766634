//! `portcullis completions SHELL`.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::Exit;

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portcullis completions bash > ~/.local/share/bash-completion/completions/portcullis"
)]
pub struct CompletionsArguments {
    /// The shell to write for
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &CompletionsArguments) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut super::Arguments::command(),
        "portcullis",
        &mut script,
    );
    // A closed pipe is the reader's choice.
    drop(io::stdout().lock().write_all(&script));
    Exit::Success
}
