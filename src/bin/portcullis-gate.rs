//! The gate of one session: its only way out.
fn main() -> std::process::ExitCode {
    portcullis::gate::main()
}
