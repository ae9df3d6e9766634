//! Sessions as users name them: by identifier or by any prefix that only one has.

use super::logs::Logs;
use crate::cli::failure::Failure;
use crate::cli::print::escape;
use crate::exit::Exit;
use crate::ids::SessionId;

/// How many candidates of an ambiguous prefix are listed.
const CANDIDATES: usize = 8;

/// The one session that this names.
pub(super) fn find(folder: &Logs, name: &str) -> Result<SessionId, Failure> {
    let sessions = folder.sessions()?;
    among(&sessions, name, folder.path())
}

/// The one of these that this names.
pub(super) fn among(
    sessions: &[SessionId],
    name: &str,
    path: &std::path::Path,
) -> Result<SessionId, Failure> {
    choose(sessions, name).map_err(|why| {
        let path = escape(&path.to_string_lossy());
        Failure::new(
            Exit::Usage,
            format!("session {:?} in {path}: {why}", escape(name)),
        )
    })
}

/// Nobody ever recorded a session here.
pub(super) fn unknown(path: &std::path::Path, name: &str) -> Failure {
    let (path, name) = (escape(&path.to_string_lossy()), escape(name));
    let cure = "check --dir";
    Failure::new(
        Exit::Usage,
        format!("session {name:?}: there is no folder {path}; {cure}"),
    )
}

fn choose(sessions: &[SessionId], name: &str) -> Result<SessionId, String> {
    let digits = name.to_ascii_lowercase();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("not a session id or the beginning of one (hex digits)".into());
    }
    let is_meant = |id: &&SessionId| id.to_string().starts_with(&digits);
    let matching: Vec<&SessionId> = sessions.iter().filter(is_meant).collect();
    match matching.as_slice() {
        [one] => Ok(**one),
        [] => Err("no session begins so; `portcullis audit verify` lists them".into()),
        several => {
            let mut names: Vec<String> = several
                .iter()
                .rev()
                .take(CANDIDATES)
                .map(ToString::to_string)
                .collect();
            if several.len() > CANDIDATES {
                names.push(format!("and {} more", several.len() - CANDIDATES));
            }
            Err(format!(
                "{} sessions begin so; give more digits: {}",
                several.len(),
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_names_a_session_only_if_no_other_begins_so() {
        let ids = [
            "0192f0c1a2b37c4d8e5f60718293a4b5",
            "0192f0c1a2b37c4d8e5f60718293a4b6",
            "02",
        ];
        let pad = |id: &str| format!("{id:0<32}").parse().unwrap();
        let sessions: Vec<SessionId> = ids.into_iter().map(pad).collect();
        assert_eq!(choose(&sessions, "02"), Ok(sessions[2]));
        assert_eq!(choose(&sessions, &ids[0].to_uppercase()), Ok(sessions[0]));
        let [one, two, _] = ids;
        let ambiguous = format!("2 sessions begin so; give more digits: {two}, {one}");
        assert_eq!(choose(&sessions, "019"), Err(ambiguous));
        for unknown in ["", "3", "../x", "0192f0c1a2b37c4d8e5f60718293a4b55"] {
            assert!(choose(&sessions, unknown).is_err(), "{unknown}");
        }
    }
}
