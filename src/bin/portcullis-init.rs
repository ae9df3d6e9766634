//! The first process in the jail: confines itself, then becomes the command.
fn main() -> std::process::ExitCode {
    portcullis::jail::init::main()
}
