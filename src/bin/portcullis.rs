//! The command line; with `run` it is also the session process.
fn main() -> std::process::ExitCode {
    portcullis::cli::main()
}
