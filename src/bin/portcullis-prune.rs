//! Removes and packs the service's logs by the rules of the host: what portcullis-prune.service runs.
fn main() -> std::process::ExitCode {
    portcullis::cli::prune_main()
}
