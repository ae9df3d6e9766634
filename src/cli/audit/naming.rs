//! Sessions as users name them: by identifier or by any prefix that only one has.

use std::path::Path;

use super::logs::{Home, Logs};
use crate::cli::failure::Failure;
use crate::cli::print::escape;
use crate::exit::Exit;
use crate::ids::SessionId;

/// How many candidates of an ambiguous prefix are listed.
const CANDIDATES: usize = 8;

/// The one session that this names.
pub(super) fn find(folder: &Logs, name: &str) -> Result<SessionId, Failure> {
    find_home(folder, name).map(|(session, _)| session)
}

/// The one log that this names, and where it is.
pub(super) fn find_home(folder: &Logs, name: &str) -> Result<(SessionId, Home), Failure> {
    let all = folder.all()?;
    let places = |home: &Home| match home {
        Home::Folder(_) if folder.uid(*home).is_some() => Some(folder.place(*home)),
        Home::Folder(_) | Home::Service => None,
    };
    let named: Vec<_> = all.iter().map(|(id, home)| (*id, places(home))).collect();
    let place = choose(&named, name).map_err(|why| failed(name, folder.path(), &why))?;
    let meant = all.get(place).copied();
    meant.ok_or_else(|| failed(name, folder.path(), "it is gone"))
}

/// The one of these that this names.
pub(super) fn among(sessions: &[SessionId], name: &str, path: &Path) -> Result<SessionId, Failure> {
    let named: Vec<_> = sessions.iter().map(|id| (*id, None)).collect();
    let place = choose(&named, name).map_err(|why| failed(name, path, &why))?;
    let meant = sessions.get(place).copied();
    meant.ok_or_else(|| failed(name, path, "it is gone"))
}

fn failed(name: &str, path: &Path, why: &str) -> Failure {
    let path = escape(&path.to_string_lossy());
    Failure::new(
        Exit::Usage,
        format!("session {:?} in {path}: {why}", escape(name)),
    )
}

/// Nobody ever recorded a session here.
pub(super) fn unknown(path: &Path, name: &str) -> Failure {
    let (path, name) = (escape(&path.to_string_lossy()), escape(name));
    let cure = "check --dir";
    Failure::new(
        Exit::Usage,
        format!("session {name:?}: there is no folder {path}; {cure}"),
    )
}

/// Which of these it names, each with the folder that has to be told with it.
fn choose(sessions: &[(SessionId, Option<&Path>)], name: &str) -> Result<usize, String> {
    let digits = name.to_ascii_lowercase();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("not a session id or the beginning of one (hex digits)".into());
    }
    let all = sessions.iter().enumerate();
    let matching: Vec<_> = all
        .filter(|(_, (id, _))| id.to_string().starts_with(&digits))
        .collect();
    let [first, rest @ ..] = matching.as_slice() else {
        return Err("no session begins so; `portcullis audit verify` lists them".into());
    };
    let (place, (id, _)) = first;
    if rest.is_empty() {
        return Ok(*place);
    }
    let shown = |(_, (id, place)): &(usize, &(SessionId, Option<&Path>))| match place {
        Some(place) => format!("{id} in {}", escape(&place.to_string_lossy())),
        None => id.to_string(),
    };
    let count = matching.len();
    let mut names: Vec<String> = matching.iter().rev().take(CANDIDATES).map(shown).collect();
    if count > CANDIDATES {
        names.push(format!("and {} more", count - CANDIDATES));
    }
    let names = names.join(", ");
    Err(if rest.iter().all(|(_, (other, _))| other == id) {
        format!("{count} folders have a log of it; name one of them with --dir: {names}")
    } else {
        format!("{count} sessions begin so; give more digits: {names}")
    })
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
        let sessions: Vec<(SessionId, Option<&Path>)> =
            ids.into_iter().map(|id| (pad(id), None)).collect();
        assert_eq!(choose(&sessions, "02"), Ok(2));
        assert_eq!(choose(&sessions, &ids[0].to_uppercase()), Ok(0));
        let [one, two, _] = ids;
        let ambiguous = format!("2 sessions begin so; give more digits: {two}, {one}");
        assert_eq!(choose(&sessions, "019"), Err(ambiguous));
        for unknown in ["", "3", "../x", "0192f0c1a2b37c4d8e5f60718293a4b55"] {
            assert!(choose(&sessions, unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn candidates_are_told_with_the_folders_they_are_in() {
        let id = "0192f0c1a2b37c4d8e5f60718293a4b5";
        let session: SessionId = id.parse().unwrap();
        let places = ["/logs/1", "/logs/2"].map(|place| (session, Some(Path::new(place))));
        let why = format!(
            "2 folders have a log of it; name one of them with --dir: {id} in /logs/2, {id} in /logs/1"
        );
        assert_eq!(choose(&places, id), Err(why));
    }
}
