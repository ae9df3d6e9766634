//! The notary of a host's logs.
fn main() -> std::process::ExitCode {
    portcullis::audit::notary::main()
}
