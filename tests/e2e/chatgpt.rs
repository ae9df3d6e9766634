//! Codex as its users have it: signed in, without a provider of its own, at its built-in addresses. The
//! real tokens stay outside.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cli::{Run, Who};
use crate::codex_install::{CodexVersion, VERSIONS};
use crate::credentials::token;
use crate::scene::Transport;
use crate::world::{SIGN_IN, World};

/// What the agent finds in its session: its environment, its sign-in, and every place with a secret.
const LOOK: &str = "env; cat ~/.codex/auth.json; \
    grep -rsac -e 'the-real-secre[t]' /proc/[0-9]*/environ /proc/[0-9]*/cmdline ~ /tmp . | grep -v ':0$'; echo looked";

const KEY: &str = "sk-the-real-secret-key";

const DAY: i64 = 24 * 60 * 60;

/// `auth.json` of a ChatGPT account, and its access token, which ends so many seconds from now.
fn account(plan: &str, ends_in: i64) -> (Value, String) {
    let claims = json!({
        "chatgpt_plan_type": plan, "chatgpt_account_id": "acc-1", "chatgpt_user_id": "u-1"});
    let now = jiff::Timestamp::now();
    let access = token(
        &json!({"exp": now.as_second() + ends_in, "https://api.openai.com/auth": claims}),
        "the-real-secret-access",
    );
    let who = json!({"email": "ada@example.com", "https://api.openai.com/auth": claims});
    let file = json!({
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": null,
        "tokens": {
            "id_token": token(&who, "the-real-secret-id"),
            "access_token": access,
            "refresh_token": "the-real-secret-refresh",
            "account_id": "acc-1",
        },
        "last_refresh": now.to_string(),
    });
    (file, access)
}

/// The shipped profile by its name; for an event stream one that also turns WebSockets down.
fn profile(world: &World, transport: Transport) -> String {
    match transport {
        Transport::WebSocket => "codex-sealed".to_owned(),
        Transport::Sse => {
            let text = "extends = \"codex-sealed\"\n[network]\nwebsocket = \"426\"\n";
            let file = world.install.write("sse.toml", text);
            file.display().to_string()
        }
    }
}

/// Every request that brought Codex to the model, by this transport.
fn asked(world: &World, transport: Transport) -> Vec<Value> {
    let name = match transport {
        Transport::Sse => "sse",
        Transport::WebSocket => "websocket",
    };
    let mut requests = world.stub.requests();
    requests.retain(|request| request["transport"] == name && !request["step"].is_null());
    requests
}

#[track_caller]
fn assert_nowhere(world: &World, run: &Run, secret: &str) {
    let records: String = world
        .install
        .records()
        .iter()
        .map(Value::to_string)
        .collect();
    let told = world.stub.outputs().concat();
    let errors = run.stderr.as_str();
    for (what, text) in [
        ("output", run.stdout.as_str()),
        ("errors", errors),
        ("records", &records),
        ("what the model was told", &told),
    ] {
        assert!(!text.contains(secret), "{what}: {text}");
    }
}

/// What went right in every session that reached the model.
#[track_caller]
fn assert_sealed(world: &World, run: &Run, transport: Transport, host: &str, credential: &str) {
    assert_eq!(run.status, Some(0), "{run:?}");
    let asked = asked(world, transport);
    assert!(asked.len() >= 2, "{:?}", world.stub.requests());
    for request in world.stub.requests() {
        assert_eq!(
            (&request["host"], &request["sni"], &request["authorized"]),
            (&json!(host), &json!(host), &json!(true)),
            "{request}"
        );
    }
    assert_eq!(world.stub.names(), BTreeSet::from([host.to_owned()]));
    let outputs = world.stub.outputs();
    let seen = outputs.iter().find(|output| output.contains("looked"));
    let seen = seen.unwrap_or_else(|| panic!("{outputs:?}"));
    assert!(seen.contains("portcullis-"), "{seen}");
    assert_nowhere(world, run, "the-real-secret");

    let used = world.install.events("credential.used");
    let used: BTreeSet<_> = used
        .iter()
        .map(|record| (record["credential"].as_str(), record["host"].as_str()))
        .collect();
    assert_eq!(used, BTreeSet::from([(Some(credential), Some(host))]));
    let decided = world.install.events("egress.decided");
    assert!(
        decided.iter().all(|record| record["host"] == host),
        "{decided:?}"
    );
    let verified = world.install.portcullis(["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

fn chatgpt(who: Who, version: CodexVersion, transport: Transport, variables: &[(&str, &str)]) {
    works("plus", who, version, transport, variables);
}

fn works(
    plan: &str,
    who: Who,
    version: CodexVersion,
    transport: Transport,
    variables: &[(&str, &str)],
) -> Vec<Value> {
    let script = json!([{ "run": LOOK }, { "say": "done" }]);
    let (file, access) = account(plan, DAY);
    let world = World::new(who, version, &access, &script);
    world.sign_in(&file);
    let run = world.exec(&profile(&world, transport), variables);
    assert_sealed(&world, &run, transport, "chatgpt.com", "chatgpt-sign-in");
    for request in world.stub.requests() {
        assert_eq!(request["account"], "acc-1", "{request}");
    }
    for request in asked(&world, transport) {
        assert_eq!(request["path"], "/backend-api/codex/responses");
    }
    let refused = world.install.events("egress.refused");
    assert_eq!(refused, Vec::<Value>::new());
    let kept = std::fs::read_to_string(world.install.path("home/.codex/auth.json")).unwrap();
    assert_eq!(kept, file.to_string(), "the caller's own file");
    world.stub.requests()
}

#[test]
fn a_chatgpt_sign_in_works_at_the_built_in_address_with_the_tokens_outside() {
    for version in VERSIONS {
        for transport in [Transport::WebSocket, Transport::Sse] {
            chatgpt(Who::Root, version, transport, &[]);
        }
    }
}

#[test]
fn a_chatgpt_sign_in_works_for_an_ordinary_user() {
    for version in VERSIONS {
        chatgpt(Who::User, version, Transport::WebSocket, &[]);
    }
}

/// Codex does not start for a member of a workspace before it has what the administrators set.
#[test]
fn an_account_of_a_workspace_gets_its_managed_configuration() {
    for version in VERSIONS {
        let requests = works("enterprise", Who::Root, version, Transport::WebSocket, &[]);
        let wanted = match version {
            CodexVersion::Oldest => "/backend-api/wham/config/requirements",
            CodexVersion::Newest => "/backend-api/wham/config/bundle",
        };
        assert!(
            requests.iter().any(|request| request["path"] == wanted),
            "{requests:?}"
        );
    }
}

/// Outside, Codex goes by the account and passes over `OPENAI_API_KEY`: so it does in the jail.
#[test]
fn a_chatgpt_sign_in_wins_over_a_key_that_is_there_for_something_else() {
    for version in VERSIONS {
        let variables = [("OPENAI_API_KEY", KEY)];
        chatgpt(Who::Root, version, Transport::WebSocket, &variables);
    }
}

#[test]
fn an_api_key_works_at_the_built_in_address_with_the_key_outside() {
    let script = json!([{ "run": LOOK }, { "say": "done" }]);
    for version in VERSIONS {
        for transport in [Transport::WebSocket, Transport::Sse] {
            for variable in ["OPENAI_API_KEY", "CODEX_API_KEY", "auth.json"] {
                let world = World::new(Who::Root, version, KEY, &script);
                let mut variables = Vec::new();
                if variable == "auth.json" {
                    world.sign_in(&json!({"auth_mode": "apikey", "OPENAI_API_KEY": KEY}));
                } else {
                    variables.push((variable, KEY));
                }
                let run = world.exec(&profile(&world, transport), &variables);
                assert_sealed(&world, &run, transport, "api.openai.com", "openai-api-key");
            }
        }
    }
}

/// The access token has ended, or was withdrawn: Codex wants a new one, and the jail has nothing to get it
/// with. That ends soon, says what to do, and sends nothing.
#[test]
fn an_old_token_is_not_renewed_from_the_jail_and_the_user_reads_what_to_do() {
    let script = json!([{ "say": "never" }]);
    std::thread::scope(|scope| {
        for version in VERSIONS {
            for ends_in in [-DAY, DAY] {
                let script = &script;
                scope.spawn(move || {
                    let world =
                        World::new(Who::Root, version, "another", script);
                    world.sign_in(&account("plus", ends_in).0);
                    let run = world.exec("codex-sealed", &[]);
                    assert_eq!(run.status, Some(1), "{version:?}: {run:?}");
                    let at_launch =
                        "portcullis: the ChatGPT sign-in of auth.json has expired: start codex once outside";
                    assert_eq!(run.stderr.contains(at_launch), ends_in < 0, "{run:?}");
                    let at_the_end = "host_denied; Codex's sign-in is not renewed from the jail: \
                        if it was too old, start codex once outside";
                    assert!(run.stderr.contains(at_the_end), "{version:?}: {run:?}");
                    assert!(run.stderr.contains("portcullis: refused auth.openai.com:443 ("));
                    let requests = world.stub.requests();
                    assert!(requests.iter().all(|request| request["host"] != SIGN_IN));
                    assert!(!world.stub.names().contains(SIGN_IN));
                    assert_nowhere(&world, &run, "the-real-secret");
                });
            }
        }
    });
}

/// The account is for Codex, not for whatever else it is good for at that host.
#[test]
fn the_token_goes_to_what_codex_does_with_it_and_nowhere_else_of_the_account() {
    let get = |path: &str| {
        let token = "$(sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/' ~/.codex/auth.json)";
        format!(
            "curl -sS --max-time 30 -H \"authorization: Bearer {token}\" https://chatgpt.com{path}"
        )
    };
    let script = json!([
        { "run": get("/backend-api/codex/models") + "; " + &get("/backend-api/conversations") + "; echo looked" },
        { "say": "done" },
    ]);
    for version in VERSIONS {
        let (file, access) = account("plus", DAY);
        let world = World::new(Who::Root, version, &access, &script);
        world.sign_in(&file);
        let run = world.exec("codex-sealed", &[]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let outputs = world.stub.outputs();
        assert!(
            outputs[0].contains("credential_misplaced"),
            "{}",
            outputs[0]
        );
        let requests = world.stub.requests();
        let by_curl = requests.iter().filter(|request| {
            let agent = request["user_agent"].as_str();
            agent.is_some_and(|agent| agent.starts_with("curl/"))
        });
        let by_curl: Vec<_> = by_curl
            .map(|request| (&request["path"], &request["authorized"]))
            .collect();
        assert_eq!(
            by_curl,
            [(&json!("/backend-api/codex/models"), &json!(true))]
        );
        let refused = world.install.events("egress.refused");
        let details: BTreeSet<_> = refused
            .iter()
            .map(|record| record["detail"].as_str())
            .collect();
        assert_eq!(
            details,
            BTreeSet::from([Some(
                "the placeholder of credential chatgpt-sign-in stands in a request to a path that is not the credential's"
            )])
        );
    }
}
