//! `portcullisd`: see `portcullis::daemon`.
fn main() -> std::process::ExitCode {
    portcullis::daemon::main()
}
