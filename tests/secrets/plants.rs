//! What is planted where. Keys are made up here, so that nobody who looks for secrets in sources takes them for
//! some.

use data_encoding::BASE64;

/// A secret, an innocent word beside it, and how both are sent.
#[derive(Debug, Clone)]
pub(crate) struct Plant {
    pub(crate) place: &'static str,
    pub(crate) secret: String,
    pub(crate) innocent: String,
    how: &'static str,
}

/// `{s}` and `{i}` stand for the two; `$B` is the origin.
const PLACES: [(&str, &str); 30] = [
    ("path", "c $B/x/{s}/{i}"),
    ("query", "c \"$B/q?k={s}&i={i}\""),
    ("userinfo", "c https://u:{s}@${B#https://}/{i}"),
    ("basic login", "c -u bob:{s} $B/{i}"),
    ("bearer", "c --oauth2-bearer {s} $B/{i}"),
    (
        "proxy's login",
        "c -x socks5h://u:{s}@127.0.0.1:8081 $B/{i}",
    ),
    ("header", "c -H 'x-one: {s}' -H 'x-two: {i}' $B/h"),
    ("api key header", "c -H 'x-api-key: {s}' $B/{i}"),
    ("header within words", "c -H 'x-one: a {s}; b={i}' $B/h"),
    ("header's name", "c -H 'x-{s}: {i}' $B/h"),
    ("cookie", "c -b 'sid={s}' $B/{i}"),
    ("form", "c -d 'password={s}&i={i}' $B/f"),
    ("form by key", "c -d 'field={s}&i={i}' $B/f"),
    (
        "json",
        "c -H 'content-type: application/json' -d '{\"secret\":\"{s}\",\"i\":\"{i}\"}' $B/j",
    ),
    (
        "json by key",
        "c -d '{\"list\":[1,\"{s}\"],\"i\":\"{i}\"}' $B/j",
    ),
    (
        "json within json",
        "c -d '{\"text\":\"{\\\"token\\\":\\\"{s}\\\"}\",\"i\":\"{i}\"}' $B/j",
    ),
    ("multipart", "c -F 'password={s}' -F 'i={i}' $B/m"),
    (
        "multipart file",
        "printf 'key\\n{s}\\n{i}\\n' > f; c -F 'file=@f' $B/m",
    ),
    ("shell in a body", "c -d 'export API_KEY={s} I={i}' $B/s"),
    (
        "header in a body",
        "c -d 'Authorization: Bearer {s} # {i}' $B/s",
    ),
    ("url in a body", "c -d 'see postgres://u:{s}@db/{i}' $B/s"),
    (
        "compressed",
        "printf 'token={s}&i={i}' | gzip > z; c -H 'content-encoding: gzip' --data-binary @z $B/z",
    ),
    (
        "unknown coding",
        "c -H 'content-encoding: br' -d 'token={s}' $B/{i}",
    ),
    (
        "beyond a border",
        "(head -c 65520 /dev/zero | tr '\\0' 'a'; printf ' {s} rest') > l; c --data-binary @l $B/{i}",
    ),
    ("name", "c https://{s}.{i}.test/ 2>/dev/null || true"),
    ("environment", "c -H \"x-env: $PLANTED\" $B/{i}"),
    ("argv", "true"),
    ("session's name", "true"),
    ("answer's body", "true"),
    ("answer's header", "true"),
];

/// One of each, each with a key of its own.
pub(crate) fn plants() -> Vec<Plant> {
    let plants = PLACES.iter().enumerate();
    plants
        .map(|(at, (place, how))| Plant {
            place,
            secret: key(at, place),
            innocent: format!("innocent-{at}-word"),
            how,
        })
        .collect()
}

/// A key of another kind for each; where the place alone tells, one without any form.
fn key(at: usize, place: &str) -> String {
    let random = |length: usize| -> String {
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut state = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let letter = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(letters[usize::try_from(state % 36).unwrap()])
        };
        // A digit in any case, and a letter.
        "a7".chars().chain((2..length).map(letter)).collect()
    };
    match place {
        "userinfo" | "basic login" | "api key header" | "form" | "json" | "json within json"
        | "multipart" | "shell in a body" | "header in a body" | "url in a body" | "compressed"
        | "argv" | "answer's body" => format!("plain{at}word{}", random(6)),
        // Names are case-insensitive and have no underscore.
        "name" | "header's name" | "session's name" => format!("glpat-{}", random(20)),
        _ => match at % 6 {
            0 => format!("ghp_{}", random(36)),
            1 => format!("sk-ant-api03-{}", random(60)),
            2 => format!("sk-proj-{}", random(60)),
            3 => format!("npm_{}", random(36)),
            4 => format!("xoxb-{}", random(40)),
            _ => format!("sk_live_{}", random(24)),
        },
    }
}

impl Plant {
    /// The line of the script that sends it.
    pub(crate) fn line(&self) -> String {
        self.how
            .replace("{s}", &self.secret)
            .replace("{i}", &self.innocent)
    }

    /// Every spelling in which it may not be found.
    pub(crate) fn forms(&self) -> Vec<String> {
        let encoded = |user: &str| BASE64.encode(format!("{user}:{}", self.secret).as_bytes());
        vec![self.secret.clone(), encoded("u"), encoded("bob")]
    }

    /// Whether it reaches the origin in a request's head.
    pub(crate) fn is_sent_in_head(&self) -> bool {
        matches!(
            self.place,
            "path"
                | "query"
                | "userinfo"
                | "basic login"
                | "bearer"
                | "header"
                | "cookie"
                | "api key header"
                | "header's name"
                | "environment"
        )
    }

    /// What the origin sees of it.
    pub(crate) fn sent(&self) -> String {
        match self.place {
            "userinfo" => BASE64.encode(format!("u:{}", self.secret).as_bytes()),
            "basic login" => BASE64.encode(format!("bob:{}", self.secret).as_bytes()),
            _ => self.secret.clone(),
        }
    }

    /// Whether nothing of its surroundings is kept.
    pub(crate) fn leaves_nothing(&self) -> bool {
        // Header fields of an answer go to the client alone.
        self.place == "answer's header"
    }
}
