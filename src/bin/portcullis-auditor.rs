//! Reads, verifies, sums up and sends logs: what `portcullis audit` executes.
fn main() -> std::process::ExitCode {
    portcullis::cli::auditor_main()
}
