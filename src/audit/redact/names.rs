//! Names without their secrets: what stands in a secret's place must be a name again, so that whoever reads the
//! record finds one of the form it expects.

use super::text;
use crate::ids::SessionName;
use crate::policy::Host;

/// What a name is that only as a whole shows a secret.
const NOTHING_LEFT: &str = "redacted.invalid";

/// Takes the labels out that are secrets: a secret can be a label of a host that was asked for. The rest tells where
/// it went.
pub(in crate::audit) fn host(host: &mut Host) {
    if let Host::Name(name) = host
        && let Some(clean) = without_secrets(name.as_str())
        && let Ok(clean) = Host::parse(&clean)
    {
        *host = clean;
    }
}

/// The same of a name as it was asked for, which need not be one.
pub(in crate::audit) fn domain(name: &mut String) {
    if let Some(clean) = without_secrets(name) {
        *name = clean;
    }
}

/// Takes the secrets out of what a caller calls a session: `ci-glpat-…` is `ci-redacted-gitlab`.
pub(in crate::audit) fn session(name: &mut SessionName) {
    let mut clean = name.as_str().to_owned();
    if text(&mut clean) == 0 {
        return;
    }
    // The marks have characters that no name has.
    let clean: String = clean
        .chars()
        .filter_map(|c| match c {
            '[' | ']' => None,
            ':' => Some('-'),
            other => Some(other),
        })
        .collect();
    let is_clean = |name: &SessionName| text(&mut name.as_str().to_owned()) == 0;
    let clean = clean.parse().ok().filter(is_clean);
    // As a constant it is one.
    if let Some(clean) = clean.or_else(|| "redacted".parse().ok()) {
        *name = clean;
    }
}

/// A name without its labels that are secrets; `None`: it has none.
fn without_secrets(name: &str) -> Option<String> {
    if text(&mut name.to_owned()) == 0 {
        return None;
    }
    let labels = name.split('.').map(|label| {
        if text(&mut label.to_owned()) == 0 {
            label
        } else {
            "redacted"
        }
    });
    let clean = labels.collect::<Vec<_>>().join(".");
    // One that only the whole name shows leaves nothing of it.
    let known = text(&mut clean.clone()) == 0;
    Some(if known {
        clean
    } else {
        NOTHING_LEFT.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> String {
        let mut name = text.parse().unwrap();
        session(&mut name);
        name.to_string()
    }

    #[test]
    fn the_name_of_a_session_stays_a_name_without_its_secrets() {
        let secret = format!("glpat-{}", "a1b2".repeat(6));
        for plain in ["nightly", "ci-run.7", "token", "redacted"] {
            assert_eq!(named(plain), plain);
        }
        for before in ["", "ci-", "ci_7."] {
            let name = named(&format!("{before}{secret}"));
            assert_eq!(name, format!("{before}redacted-gitlab"));
        }
    }

    #[test]
    fn a_label_that_is_a_secret_goes_and_the_others_stay() {
        let secret = format!("glpat-{}", "a1b2".repeat(6));
        let mut name = format!("{secret}.a.test");
        domain(&mut name);
        assert_eq!(name, "redacted.a.test");
        let mut asked = Host::parse(&format!("b.{secret}.test")).unwrap();
        host(&mut asked);
        assert_eq!(asked, Host::parse("b.redacted.test").unwrap());
    }
}
