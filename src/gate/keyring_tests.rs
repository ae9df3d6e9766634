//! Where a value goes, and where a placeholder stops a request.

use hyper::Request;

use super::*;
use crate::ids::ConnId;
use crate::policy::{Handling, Host, Port};

const MARK_TEXT: &str = "00112233445566778899aabbccddeeff";
const VALUE: &str = "real-secret-value";

fn placeholder() -> String {
    format!("sk-portcullis-{MARK_TEXT}")
}

fn rule(changes: &[(&str, serde_json::Value)]) -> Credential {
    let mut rule = serde_json::json!({
        "name": "k", "host": "api.test", "header": "authorization", "value": "Bearer ${env:K}",
    });
    for (key, value) in changes {
        rule[*key] = value.clone();
    }
    serde_json::from_value(rule).unwrap()
}

fn value(name: &str, placeholder: String, value: &str) -> CredentialValue {
    CredentialValue {
        name: name.to_owned(),
        placeholder,
        value: Secret::new(value.to_owned()),
    }
}

fn keyring(changes: &[(&str, serde_json::Value)]) -> Keyring {
    Keyring::new(&[rule(changes)], &[value("k", placeholder(), VALUE)]).unwrap()
}

fn inspected(host: &str, port: u16) -> Destination {
    Destination {
        by: crate::gate::witness::By::default(),
        conn: ConnId(1),
        transport: Transport::Inspected,
        host: Host::parse(host).unwrap(),
        port: Port::new(port).unwrap(),
        handling: Handling::Tunnel,
        rule: None,
    }
}

fn head(target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, text) in fields {
        request = request.header(*name, *text);
    }
    request.body(()).unwrap().into_parts().0
}

/// The field as it would leave, or why nothing leaves.
fn outcome(keyring: &Keyring, to: &Destination, mut head: Parts) -> Result<Option<String>, String> {
    let used = keyring
        .apply(to, &mut head)
        .map_err(|misplaced| misplaced.detail)?;
    let field = head.headers.get(AUTHORIZATION);
    let text = field.map(|field| field.to_str().unwrap().to_owned());
    assert_eq!(
        used.names.len(),
        usize::from(
            text.as_ref()
                .is_some_and(|text| text.contains(VALUE) || text.starts_with("Basic "))
        ),
    );
    Ok(text)
}

fn basic_of(plain: &str) -> String {
    format!("Basic {}", BASE64.encode(plain.as_bytes()))
}

#[test]
fn the_placeholder_in_its_place_becomes_the_value() {
    let keyring = keyring(&[]);
    let real = Ok(Some(format!("Bearer {VALUE}")));
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let sent = format!("{scheme} {}", placeholder());
        let head = head("/v1?q", &[("authorization", &sent)]);
        assert_eq!(
            outcome(&keyring, &inspected("api.test", 443), head),
            real,
            "{scheme}"
        );
    }
    let mut head = head(
        "/",
        &[
            ("authorization", &format!("Bearer {}", placeholder())),
            ("accept-encoding", "br"),
        ],
    );
    keyring
        .apply(&inspected("api.test", 443), &mut head)
        .unwrap();
    assert_eq!(head.headers[ACCEPT_ENCODING], "identity");
    assert!(head.headers[AUTHORIZATION].is_sensitive());
    assert!(!format!("{head:?}").contains(VALUE));
}

#[test]
fn basic_credentials_are_written_anew() {
    let keyring = keyring(&[]);
    let to = inspected("api.test", 443);
    for (sent, expected) in [
        (format!("git:{}", placeholder()), format!("git:{VALUE}")),
        (format!("{}:", placeholder()), format!("{VALUE}:")),
        (
            format!("{}:x-oauth-basic", placeholder()),
            format!("{VALUE}:x-oauth-basic"),
        ),
    ] {
        let head = head("/", &[("authorization", &basic_of(&sent))]);
        assert_eq!(outcome(&keyring, &to, head), Ok(Some(basic_of(&expected))));
    }
    for sent in [
        format!("git:x{}", placeholder()),
        format!("{0}:{0}", placeholder()),
        format!("a:b:{}", placeholder()),
        placeholder(),
    ] {
        let head = head("/", &[("authorization", &basic_of(&sent))]);
        assert!(outcome(&keyring, &to, head).is_err(), "{sent}");
    }
    let mut head = head(
        "/",
        &[(
            "authorization",
            &basic_of(&format!("git:{}", placeholder())),
        )],
    );
    let used = keyring.apply(&to, &mut head).unwrap();
    let reflected = BASE64.encode(format!("git:{VALUE}").as_bytes());
    let answer = format!("authorization: Basic {reflected}");
    let needles = keyring.values_and(used.reflections);
    assert!(placeholder::find(&needles, answer.as_bytes()).is_some());
    assert!(placeholder::find(&keyring.values_and(Vec::new()), answer.as_bytes()).is_none());
}

#[test]
fn a_request_without_a_placeholder_is_not_touched() {
    let keyring = keyring(&[]);
    for fields in [
        &[][..],
        &[("authorization", "Bearer mine")],
        &[("x-a", "b"), ("cookie", "c=d")],
    ] {
        let mut sent = head("/a?b=c", fields);
        let before = sent.headers.clone();
        assert!(
            keyring
                .apply(&inspected("api.test", 443), &mut sent)
                .unwrap()
                .names
                .is_empty()
        );
        assert_eq!(sent.headers, before);
    }
}

#[test]
fn a_placeholder_anywhere_else_stops_the_request() {
    let keyring = keyring(&[("paths", serde_json::json!(["/v1/**"]))]);
    let at = |to: &Destination, target: &str, fields: &[(&str, &str)]| {
        let mut head = head(target, fields);
        let before = head.headers.clone();
        let misplaced = keyring.apply(to, &mut head).unwrap_err();
        assert_eq!(head.headers, before, "nothing was put in");
        assert_eq!(misplaced.reason, DenyReason::CredentialMisplaced);
        let detail = misplaced
            .detail
            .strip_prefix("the placeholder of credential k stands ")
            .unwrap();
        detail.to_owned()
    };
    let right = format!("Bearer {}", placeholder());
    let mark = placeholder();
    let own = inspected("api.test", 443);
    let plain = Destination {
        transport: Transport::Forward,
        ..inspected("api.test", 443)
    };
    let field = [("authorization", right.as_str())];
    assert_eq!(
        at(&plain, "/v1/x", &field),
        "in a request that is not sent over inspected TLS"
    );
    for other in [
        inspected("evil.test", 443),
        inspected("api.test", 8443),
        inspected("x.api.test", 443),
    ] {
        assert_eq!(
            at(&other, "/v1/x", &field),
            "in a request to another host or port than the credential's"
        );
    }
    for path in ["/v2", "/v1/../v2", "/v1//x"] {
        assert_eq!(
            at(&own, path, &field),
            "in a request to a path that is not the credential's"
        );
    }
    let form = "in its header, but not in the form of the profile's value";
    for sent in [
        mark.clone(),
        format!("Bearer  {mark}"),
        format!("Bearer {mark}x"),
        format!("Token {mark}"),
        format!("Bearer x, Bearer {mark}"),
        basic_of(&format!("u:x{mark}")),
    ] {
        assert_eq!(
            at(&own, "/v1/x", &[("authorization", &sent)]),
            form,
            "{sent}"
        );
    }
    let twice = [
        ("authorization", right.as_str()),
        ("authorization", "Bearer mine"),
    ];
    assert_eq!(at(&own, "/v1/x", &twice), form);
    let another = "in another header than the credential's";
    for sent in [
        right.clone(),
        format!("k={mark}; d=e"),
        basic_of(&format!("u:{mark}")),
    ] {
        assert_eq!(at(&own, "/v1/x", &[("x-key", &sent)]), another, "{sent}");
    }
    // Beside the right one as well.
    assert_eq!(at(&own, "/v1/x", &[field[0], ("x-key", &mark)]), another);
    assert_eq!(at(&own, "/v1/x", &[(&mark, "1")]), "in a header's name");
    assert_eq!(at(&own, &format!("/v1/{mark}"), &field), "in the path");
    assert_eq!(at(&own, &format!("/v1/x?k={mark}"), &field), "in the query");
    let encoded = MARK_TEXT
        .bytes()
        .fold(String::new(), |text, b| format!("{text}%{b:02X}"));
    assert_eq!(at(&own, &format!("/v1/x?k={encoded}"), &[]), "in the query");
    assert_eq!(at(&own, &format!("/v1/{encoded}"), &[]), "in the path");
}

#[test]
fn a_credential_that_is_always_put_in_replaces_what_the_client_sent() {
    let keyring = keyring(&[("inject", "always".into())]);
    let own = inspected("api.test", 443);
    let real = Ok(Some(format!("Bearer {VALUE}")));
    for fields in [
        &[][..],
        &[("authorization", "Bearer dummy")],
        &[("authorization", "a"), ("authorization", "b")],
    ] {
        assert_eq!(outcome(&keyring, &own, head("/", fields)), real);
    }
    let elsewhere = outcome(
        &keyring,
        &inspected("other.test", 443),
        head("/", &[("authorization", "mine")]),
    );
    assert_eq!(elsewhere, Ok(Some("mine".to_owned())));
    let plain = Destination {
        transport: Transport::Forward,
        ..inspected("api.test", 443)
    };
    assert_eq!(outcome(&keyring, &plain, head("/", &[])), Ok(None));
}

#[test]
fn a_placeholder_in_content_is_looked_for_unless_its_own_host_may_read_it() {
    let strict = keyring(&[]);
    let lenient = keyring(&[("bodies", "pass".into())]);
    let looked_for = |keyring: &Keyring, to: &Destination| keyring.marks_for(to).len();
    let (own, other) = (inspected("api.test", 443), inspected("other.test", 443));
    let plain = Destination {
        transport: Transport::Forward,
        ..inspected("api.test", 443)
    };
    assert_eq!(looked_for(&strict, &own), 1);
    assert_eq!(looked_for(&lenient, &own), 0);
    assert_eq!(looked_for(&lenient, &other), 1);
    assert_eq!(looked_for(&lenient, &plain), 1);
}

#[test]
fn of_two_credentials_for_one_host_the_placeholder_tells_which() {
    let other_mark = "ffeeddccbbaa99887766554433221100";
    let other = format!("sk-portcullis-{other_mark}");
    let rules = [
        rule(&[]),
        rule(&[("name", "l".into()), ("value", "token ${env:L}".into())]),
    ];
    let values = vec![
        value("k", placeholder(), VALUE),
        value("l", other.clone(), "second-secret"),
    ];
    let keyring = Keyring::new(&rules, &values).unwrap();
    let own = inspected("api.test", 443);
    let mut sent = head("/", &[("authorization", &format!("token {other}"))]);
    keyring.apply(&own, &mut sent).unwrap();
    assert_eq!(sent.headers[AUTHORIZATION], "token second-secret");
    let crossed = head("/", &[("authorization", &format!("Bearer {other}"))]);
    assert!(outcome(&keyring, &own, crossed).is_err());
}

#[test]
fn values_and_policy_must_fit() {
    let values = |name: &str| vec![value(name, placeholder(), VALUE)];
    assert!(Keyring::new(&[rule(&[])], &values("k")).is_ok());
    assert!(Keyring::new(&[rule(&[])], &[]).is_err());
    assert!(Keyring::new(&[], &values("k")).is_err());
    assert!(Keyring::new(&[rule(&[])], &values("other")).is_err());
    assert!(Keyring::new(&[rule(&[])], &[value("k", "short".to_owned(), VALUE)]).is_err());
    let printed = format!("{:?}", keyring(&[]));
    assert!(!printed.contains(VALUE), "{printed}");
}
