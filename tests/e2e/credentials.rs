//! A sealed sign-in: the model gets the real key, the jail never has it.

use std::fmt::Write;

use serde_json::json;

use crate::cli::Run;
use crate::codex_install::{VERSIONS, bin};
use crate::scene::{Scene, Transport};
use crate::stub::{NAME, Stub};

pub(crate) const KEY: &str = "sk-the-real-secret-key";

/// What the agent can read of its own session, and where it looks for the key.
pub(crate) const LOOK: &str = "env | grep CODEX_API_KEY; cat ~/.codex/auth.json; \
    grep -rsac -e 'the-real-secre[t]' /proc/[0-9]*/environ ~ . | grep -v ':0$'; echo looked";

/// The shipped profile, with the stub in the place of the API.
pub(crate) fn sealed_profile(stub: &Stub) -> String {
    let (port, dns_port) = (stub.port, stub.dns_port);
    let mut text = format!(
        "extends = \"codex-sealed\"\n\
         [network]\nmitm = false\n\
         [network.dns]\nservers = [\"127.0.0.1:{dns_port}\"]\n\
         [network.addresses]\nallow = [\"127.0.0.1/32\"]\n\
         [network.tls]\n\"{NAME}\" = \"inspect\"\n"
    );
    let rule = format!("host = \"{NAME}\"\nports = [{port}]");
    writeln!(text, "[[network.rules]]\n{rule}\naction = \"allow\"").unwrap();
    writeln!(
        text,
        "[[network.credentials]]\nname = \"openai-api-key\"\n{rule}\nheader = \"authorization\"\n\
         value = \"Bearer ${{codex:api_key}}\"\nenv = \"CODEX_API_KEY\"\nbodies = \"pass\""
    )
    .unwrap();
    text
}

/// `portcullis run -p SEALED -- codex exec PROMPT`.
fn exec(scene: &Scene, variables: &[(&str, &str)]) -> Run {
    exec_with(scene, &sealed_profile(&scene.stub), variables)
}

pub(crate) fn exec_with(scene: &Scene, profile: &str, variables: &[(&str, &str)]) -> Run {
    let profile = scene.install.write("sealed.toml", profile);
    let path = format!("{}:/usr/bin:/bin", bin(scene.codex()).display());
    let mut command = scene.install.command(["run", "-p"]);
    command
        .arg(profile)
        .args(["--", "codex", "exec", "--json", "--skip-git-repo-check", "look"])
        .env("PATH", path)
        .env("CODEX_HOME", scene.install.path("codex-home"))
        // What the gate trusts at origins is the caller's own choice of authorities.
        .env("SSL_CERT_FILE", scene.stub.ca())
        .envs(variables.iter().copied());
    Run::of(&command.output().unwrap())
}

#[test]
fn the_model_gets_the_key_and_the_jail_its_placeholder() {
    let script = json!([{ "run": LOOK }, { "say": "done" }]);
    for version in VERSIONS {
        for transport in [Transport::Sse, Transport::WebSocket] {
            let scene = Scene::expecting(version, transport, &format!("Bearer {KEY}"), &script);
            let auth = json!({"auth_mode": "apikey", "OPENAI_API_KEY": KEY});
            for variables in [&[("OPENAI_API_KEY", KEY)][..], &[]] {
                scene
                    .install
                    .write("codex-home/auth.json", &auth.to_string());
                let run = exec(&scene, variables);
                assert_eq!(run.status, Some(0), "{version:?} {transport:?}: {run:?}");
                assert!(!format!("{run:?}").contains(KEY), "{run:?}");
            }
            let requests = scene.stub.requests();
            assert!(
                requests.len() >= 4,
                "{version:?} {transport:?}: {requests:?}"
            );
            for request in &requests {
                assert_eq!(
                    request["authorized"], true,
                    "{version:?} {transport:?}: {request}"
                );
            }
            let outputs = scene.stub.outputs();
            let seen = outputs
                .iter()
                .find(|output| output.contains("looked"))
                .unwrap();
            assert!(seen.contains("CODEX_API_KEY=sk-portcullis-"), "{seen}");
            assert!(
                seen.contains("\"OPENAI_API_KEY\":\"sk-portcullis-"),
                "{seen}"
            );
            assert!(!seen.contains("the-real-secret"), "{seen}");
            let used = scene.install.events("credential.used");
            assert!(!used.is_empty());
            assert!(used.iter().all(|record| {
                record["credential"] == "openai-api-key" && record["host"] == NAME
            }));
            let records: String = scene
                .install
                .records()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert!(!records.contains(KEY));
        }
    }
}

#[test]
fn the_placeholder_is_worthless_elsewhere_and_its_use_is_refused() {
    let script = json!([
        { "run": format!(
            "curl -sS --max-time 30 -H \"x-other: $CODEX_API_KEY\" https://{NAME}:$STUB_PORT/v1/models"
        ) },
        { "say": "done" },
    ]);
    for version in VERSIONS {
        let scene = Scene::expecting(version, Transport::Sse, &format!("Bearer {KEY}"), &script);
        scene.install.write(
            "codex-home/auth.json",
            &json!({"auth_mode": "apikey", "OPENAI_API_KEY": KEY}).to_string(),
        );
        let port = scene.stub.port.to_string();
        let profile =
            sealed_profile(&scene.stub) + "[environment.set]\nSTUB_PORT = \"" + &port + "\"\n";
        let run = exec_with(&scene, &profile, &[]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let outputs = scene.stub.outputs();
        assert!(
            outputs[0].contains("credential_misplaced"),
            "{}",
            outputs[0]
        );
        let refused = scene.install.events("egress.refused");
        assert!(
            refused.iter().any(|record| record["detail"]
                == "the placeholder of credential openai-api-key stands in another header than the credential's"),
            "{refused:?}"
        );
        assert!(
            scene
                .stub
                .requests()
                .iter()
                .all(|request| request["path"] != "/v1/models")
        );
    }
}

/// A token as Codex reads them (RFC 7519).
pub(crate) fn token(claims: &serde_json::Value, signature: &str) -> String {
    let part = |text: String| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    let header = part(json!({ "alg": "RS256", "typ": "JWT" }).to_string());
    format!("{header}.{}.{signature}", part(claims.to_string()))
}

#[test]
fn a_chatgpt_account_works_with_the_token_outside() {
    let script = json!([{ "run": LOOK }, { "say": "done" }]);
    let account = json!({"email": "ada@example.com", "https://api.openai.com/auth": {
        "chatgpt_plan_type": "plus", "chatgpt_account_id": "acc-1", "chatgpt_user_id": "u-1"}});
    let expires = jiff::Timestamp::now().as_second() + 86_400;
    let access = token(&json!({ "exp": expires }), "the-real-secret-access");
    let auth = json!({
        "OPENAI_API_KEY": null,
        "tokens": {
            "id_token": token(&account, "the-real-secret-id"),
            "access_token": access,
            "refresh_token": "the-real-secret-refresh",
            "account_id": "acc-1",
        },
        "last_refresh": jiff::Timestamp::now().to_string(),
    });
    for version in VERSIONS {
        let scene = Scene::expecting(
            version,
            Transport::Sse,
            &format!("Bearer {access}"),
            &script,
        );
        let port = scene.stub.port;
        scene
            .install
            .write("codex-home/auth.json", &auth.to_string());
        scene.install.write(
            "codex-home/config.toml",
            &format!(
                "model = \"stub\"\nmodel_provider = \"stub\"\n[model_providers.stub]\nname = \"stub\"\n\
                 wire_api = \"responses\"\nbase_url = \"https://{NAME}:{port}/v1\"\nrequires_openai_auth = true\n"
            ),
        );
        let profile = sealed_profile(&scene.stub)
            .replace("name = \"openai-api-key\"", "name = \"chatgpt-sign-in\"")
            .replace("${codex:api_key}", "${codex:access_token}")
            .replace("env = \"CODEX_API_KEY\"\n", "");
        let run = exec_with(&scene, &profile, &[]);
        assert_eq!(run.status, Some(0), "{version:?}: {run:?}");
        let requests = scene.stub.requests();
        let model: Vec<_> = requests
            .iter()
            .filter(|request| request["transport"] == "sse")
            .collect();
        assert!(model.len() >= 2, "{version:?}: {requests:?}");
        for request in model {
            assert_eq!(request["authorized"], true, "{version:?}: {request}");
        }
        let outputs = scene.stub.outputs();
        let seen = outputs
            .iter()
            .find(|output| output.contains("looked"))
            .unwrap();
        assert!(seen.contains("portcullis--"), "{seen}");
        assert!(!seen.contains("the-real-secret"), "{seen}");
        let records: String = scene
            .install
            .records()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(!records.contains("the-real-secret"));
    }
}
