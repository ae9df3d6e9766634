//! Samples of every format in every surrounding, and what must stay. Samples are put together here, so that
//! nobody who looks for secrets in sources takes them for some.

use super::*;

/// Letters and digits that look like a key, another for each number.
fn random(length: usize, seed: u64, alphabet: &str) -> String {
    let letters: Vec<char> = alphabet.chars().collect();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text: String = (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            letters[usize::try_from(state % letters.len() as u64).unwrap()]
        })
        .collect();
    // Every key of these has a digit; this one too.
    if length > 4 {
        text.replace_range(2..3, "7");
    }
    text
}

const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const HEX: &str = "0123456789abcdef";

/// Keys that are known by themselves: format and sample.
fn samples() -> Vec<(&'static str, String)> {
    let any = |prefix: &str, length, seed| format!("{prefix}{}", random(length, seed, ALNUM));
    let hex = |prefix: &str, length, seed| format!("{prefix}{}", random(length, seed, HEX));
    let jwt = format!(
        "ey{}.ey{}.{}",
        "JhbGciOiJIUzI1NiJ9",
        "JzdWIiOiIxMjM0NTY3ODkwIn0",
        random(43, 50, ALNUM)
    );
    vec![
        ("aws-id", format!("AK{}{}", "IA", random(16, 1, UPPER))),
        ("aws-id", format!("AS{}{}", "IA", random(16, 2, UPPER))),
        ("github", any("ghp_", 36, 3)),
        ("github", any("gho_", 36, 4)),
        ("github", any("ghu_", 36, 5)),
        ("github", any("ghs_", 36, 6)),
        ("github", any("ghr_", 76, 7)),
        (
            "github",
            any("github_pat_", 22, 8) + "_" + &random(59, 9, ALNUM),
        ),
        ("gitlab", any("glpat-", 20, 10)),
        ("gitlab", any("glrt-", 20, 11)),
        ("openai", any("sk-", 48, 12)),
        (
            "openai",
            any("sk-proj-", 74, 13) + "-" + &random(40, 14, ALNUM),
        ),
        ("openai", any("sk-svcacct-", 60, 15)),
        ("openai", any("sess-", 40, 16)),
        ("anthropic", any("sk-ant-api03-", 80, 17) + "-AA"),
        ("anthropic", any("sk-ant-oat01-", 80, 18)),
        ("google", any("AIza", 35, 19)),
        ("google", any("ya29.", 60, 20)),
        (
            "slack",
            format!("xox{}-{}-{}", 'b', 1_234_567_890, random(24, 21, ALNUM)),
        ),
        (
            "slack",
            format!("xox{}-{}-{}", 'p', 1_234_567_890, random(32, 22, HEX)),
        ),
        ("slack", any("xapp-1-", 40, 23)),
        ("stripe", any("sk_live_", 24, 24)),
        ("stripe", any("rk_live_", 24, 25)),
        ("stripe", any("whsec_", 32, 26)),
        ("npm", any("npm_", 36, 27)),
        ("pypi", any("pypi-AgEIcHlwaS5vcmc", 80, 28)),
        ("crates", any("cio", 32, 29)),
        ("docker", any("dckr_pat_", 27, 30)),
        ("huggingface", any("hf_", 34, 31)),
        (
            "sendgrid",
            any("SG.", 22, 32) + "." + &random(43, 33, ALNUM),
        ),
        ("twilio", hex("SK", 32, 34)),
        ("vault", any("hvs.", 24, 35)),
        ("digitalocean", hex("dop_v1_", 64, 36)),
        ("vendor", any("gsk_", 52, 37)),
        ("vendor", any("xai-", 80, 38)),
        ("vendor", any("lin_api_", 40, 39)),
        ("vendor", hex("dapi", 32, 40)),
        ("vendor", hex("shpat_", 32, 41)),
        ("vendor", any("ATATT3", 60, 42)),
        ("chatgpt", any("rt_", 60, 43)),
        ("age", format!("AGE-SECRET-KEY-1{}", random(58, 44, UPPER))),
        ("jwt", jwt),
        ("telegram", format!("123456789:AA{}", random(33, 45, ALNUM))),
    ]
}

fn clean(hay: &str) -> (String, u32) {
    let mut hay = hay.to_owned();
    let count = text(&mut hay);
    (hay, count)
}

#[test]
fn every_format_compiles_and_has_a_source_and_a_name_of_its_own() {
    assert!(REDACTOR.is_some());
    let mut names = std::collections::BTreeSet::new();
    for format in FORMATS {
        assert!(compile(format.pattern).is_some(), "{}", format.name);
        let (Trigger::Exact(words) | Trigger::AnyCase(words)) = format.trigger;
        assert!(!words.is_empty() && !words.contains(&""), "{}", format.name);
        assert!(!format.source.is_empty());
        assert!(names.insert(format.name), "{}", format.name);
    }
    assert_eq!(formats().count(), FORMATS.len());
}

#[test]
fn where_a_pattern_is_found_one_of_its_triggers_is() {
    let redactor = REDACTOR.as_ref().unwrap();
    let mut found: u32 = 0;
    for (_, key) in samples() {
        for hay in [
            key.clone(),
            key.to_ascii_uppercase(),
            key.to_ascii_lowercase(),
            format!("Authorization: Basic {key}; Set-Cookie: a={key}"),
            format!("https://user:{key}@a.test/?sig={key}&x_goog_access_key={key};PWD={key}"),
            format!("curl -u a:{key} --api-key {key} --bearer {key} AWS_SECRET='{key}'"),
            format!(
                "name=\\\"x[password]\\\"\r\n\r\n{key}\r\n MASTER-KEY => {key}, X-Amz-Signature={key}"
            ),
        ] {
            let triggered = redactor.triggered(hay.as_bytes());
            for (format, triggered) in FORMATS.iter().zip(triggered) {
                let is_there = compile(format.pattern).unwrap().is_match(hay.as_bytes());
                found += u32::from(is_there);
                assert!(triggered || !is_there, "{}: {hay}", format.name);
            }
        }
    }
    assert!(found > 300, "{found}");
}

#[test]
fn a_key_is_replaced_by_the_name_of_its_format_wherever_it_stands() {
    let samples = samples();
    assert!(samples.len() >= 40, "{}", samples.len());
    for (name, key) in &samples {
        let marker = format!("[redacted:{name}]");
        for (before, after) in [
            ("", ""),
            (r#"{"note":""#, r#"","kept":"innocent"}"#),
            ("/v1/files/", "/innocent"),
            ("a=1&field=", "&kept=innocent"),
            ("X-Thing: ", "\r\nHost: innocent"),
            ("export THING=", " && innocent"),
            ("curl 'https://a.test/x/", "?innocent'"),
        ] {
            let (found, count) = clean(&format!("{before}{key}{after}"));
            assert_eq!(found, format!("{before}{marker}{after}"), "{key}");
            assert_eq!(count, 1);
        }
        // Its format is not named everywhere, but it is gone everywhere.
        for hay in [
            format!("Authorization: Bearer {key}"),
            format!("https://user:{key}@a.test/innocent"),
            format!("{{\"api_key\":\"{key}\"}} innocent"),
            format!("{{\\\"password\\\":\\\"{key}\\\"}} innocent"),
            format!("--token {key} innocent"),
        ] {
            let (found, _) = clean(&hay);
            assert!(!found.contains(key.as_str()), "{found}");
            assert!(found.contains("[redacted:"), "{found}");
            assert_eq!(clean(&found).0, found);
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_secret_is_known_by_where_it_stands() {
    for (hay, expected) in [
        (
            "Authorization: Bearer abc",
            "Authorization: Bearer [redacted:authorization]",
        ),
        (
            "authorization: Basic dXNlcjpwYXNz",
            "authorization: Basic [redacted:authorization]",
        ),
        (
            r#""Authorization":"Bearer a.b""#,
            r#""Authorization":"Bearer [redacted:authorization]""#,
        ),
        (
            "Proxy-Authorization: Basic dTpw x",
            "Proxy-Authorization: Basic [redacted:authorization] x",
        ),
        ("sent Bearer abc1def to", "sent Bearer [redacted:scheme] to"),
        ("Basic dXNlcjpwYXNz", "Basic [redacted:scheme]"),
        (
            "https://u:p@a.test/x",
            "https://[redacted:userinfo]@a.test/x",
        ),
        (
            "git+https://x-oauth-0123456789@a.test/x",
            "git+https://[redacted:userinfo]@a.test/x",
        ),
        (
            "postgres://u:p@db/x?sslmode=on",
            "postgres://[redacted:userinfo]@db/x?sslmode=on",
        ),
        (
            r#"{"password":"a \"b\" c","x":1}"#,
            r#"{"password":"[redacted:assigned]","x":1}"#,
        ),
        (
            r#"{"client_secret" : "s3","x":1}"#,
            r#"{"client_secret" : "[redacted:assigned]","x":1}"#,
        ),
        (
            r#"{\"refresh_token\":\"s3\"}"#,
            r#"{\"refresh_token\":\"[redacted:assigned]\"}"#,
        ),
        (
            "user=bob&password=hunter2&go=1",
            "user=bob&password=[redacted:assigned]&go=1",
        ),
        (
            "form[password]=hunter2&go=1",
            "form[password]=[redacted:assigned]&go=1",
        ),
        ("API_KEY=abc make", "API_KEY=[redacted:assigned] make"),
        ("secret: 'a b' x", "secret: '[redacted:assigned]' x"),
        (
            "X-Api-Key: abc\r\nx: y",
            "X-Api-Key: [redacted:assigned]\r\nx: y",
        ),
        (
            "Cookie: a=1; b=2\r\nx: y",
            "Cookie: [redacted:cookie]\r\nx: y",
        ),
        (
            "curl -u bob:pw https://a.test",
            "curl -u [redacted:login] https://a.test",
        ),
        ("x --password pw y", "x --password [redacted:flag] y"),
        (
            "Server=a;Uid=b;Pwd=c;x",
            "Server=a;Uid=b;Pwd=[redacted:pwd];x",
        ),
        (
            "?sv=1&sig=abcdefghij0123456789%3D&x",
            "?sv=1&sig=[redacted:azure]&x",
        ),
        (
            "AccountName=a;AccountKey=abcdefghijklmnopqrst==;x",
            "AccountName=a;AccountKey=[redacted:azure];x",
        ),
        (
            "name=\"password\"\r\n\r\nhunter2\r\n--b",
            "name=\"password\"\r\n\r\n[redacted:form-part]\r\n--b",
        ),
        (
            "/services/T01234567/B01234567/abcdefghijklmnopqrstuvwx",
            "/services/[redacted:slack-hook]",
        ),
        (
            "/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz0123456789",
            "/api/webhooks/123456789012345678/[redacted:discord-hook]",
        ),
    ] {
        let (found, count) = clean(hay);
        assert_eq!((found.as_str(), count), (expected, 1), "{hay}");
        assert_eq!(clean(&found), (found.clone(), 0), "{hay}");
    }
    let key = random(40, 99, ALNUM);
    let (found, _) = clean(&format!("aws_session_x = {key}\n"));
    assert_eq!(found, "aws_session_x = [redacted:aws]\n");
    let pem = format!("a\n-----BEGIN RSA {} KEY-----\nMIIx\n", "PRIVATE");
    assert_eq!(clean(&pem).0, "a\n[redacted:pem]");
    let whole = format!("{pem}-----END RSA {} KEY-----\nb", "PRIVATE");
    assert_eq!(clean(&whole).0, "a\n[redacted:pem]\nb");
}

#[test]
fn what_is_no_secret_stays() {
    let image = random(4000, 77, ALNUM);
    for hay in [
        "",
        "/v1/responses",
        "/repos/rust-lang/rust/commits/3f2a9c1b7d5e4f60718293a4b5c6d7e8f9012345",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DCNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
        "0192f0c1-a2b3-7c4d-8e5f-60718293a4b5",
        "/simple/scikit-learn/",
        "/@types/node/-/node-20.1.0.tgz",
        "/sk-learn-extra-tools-for-everybody",
        "/crates/tokio-util/0.7.10/download",
        "github.com/owner/repo.git",
        "git@github.com:owner/repo.git",
        "https://a.test/@scope/package",
        "https://git@a.test/x",
        "max_tokens=4096",
        "\"max_tokens\": 4096",
        "\"prompt_tokens\":12,\"token_count\":3",
        "/oauth/token",
        "/login/oauth/access_token",
        "token",
        "Basic authentication failed",
        "a bearer of news",
        "TOKEN=$GITHUB_TOKEN make",
        "password=${DB_PASSWORD}",
        "\"password\": null",
        "\"secret\": false",
        "PWD=/home/bob",
        "pwd=/x",
        "the disk-space-of-this-machine-is-low",
        "task-manager-with-a-long-name-2024",
        "risk-assessment-of-the-year-2024-a",
        "socks5 -u",
        "curl -u bob",
        "a.b.c",
        "eyJ",
        "monkey=banana",
        "keyboard: qwerty",
        "cookies are fine",
        "AKIA",
        "hf_",
        "SK",
        "wheel_cp311_abi3",
        "connection closed before message completed",
        "tcp://10.0.0.1:443",
        "cargo run --release -- --verbose",
        "rustc 1.91.0 (f8297e351 2025-10-28)",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
        &image,
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "[redacted:github]",
        "password=[redacted:assigned]",
    ] {
        assert_eq!(clean(hay), (hay.to_owned(), 0));
    }
}

#[test]
fn a_word_of_a_command_line_may_tell_of_the_next() {
    let mut words = [
        "curl",
        "-u",
        "bob:pw",
        "--oauth2-bearer",
        "abc",
        "--token",
        "--verbose",
        "-H",
        "X-Auth-Token: t",
        "--user",
        "bob",
        "--password=x",
        "innocent",
    ]
    .map(str::to_owned);
    assert_eq!(arguments(&mut words), 5);
    let expected = [
        "curl",
        "-u",
        "[redacted:login]",
        "--oauth2-bearer",
        "[redacted:flag]",
        "--token",
        "[redacted:flag]",
        "-H",
        "X-Auth-Token: [redacted:assigned]",
        "--user",
        "bob",
        "--password=[redacted:assigned]",
        "innocent",
    ];
    assert_eq!(words, expected);
}

#[test]
fn bytes_that_are_no_text_are_looked_through_as_well() {
    let key = format!("ghp_{}", random(36, 3, ALNUM));
    let hay = [b"\xff\x00", key.as_bytes(), b"\xfe"].concat();
    let (clean, count) = bytes(&hay);
    assert_eq!((&*clean, count), (&b"\xff\x00[redacted:github]\xfe"[..], 1));
}

proptest::proptest! {
    #[test]
    fn looking_twice_finds_nothing_more(
        hay in "([a-z:/=\"'&@ -]{0,12}(token|password|Bearer |://|eyJ|\\[redacted:|authorization|cookie|\\\\)?){0,8}",
    ) {
        let (once, _) = clean(&hay);
        proptest::prop_assert_eq!(clean(&once), (once.clone(), 0));
    }
}
