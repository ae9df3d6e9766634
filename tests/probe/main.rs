//! Acts inside a jail and says what the kernel answered; with `session ORDER` it plays the session
//! outside.
#![expect(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../support/jail.rs"]
mod jail;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[1] == "session" {
        jail::play_file(arguments[2].as_ref());
    }
}
