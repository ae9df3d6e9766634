//! The audit writer of one session.
fn main() -> std::process::ExitCode {
    portcullis::audit::writer::main()
}
