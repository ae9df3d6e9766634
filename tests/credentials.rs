//! Credentials in real jails: the jail has the placeholder, and the value is nowhere in it; what is
//! wrong with a source is told with its name and never with its value.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cli::{EVERYONE, Install, Run, Who};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

const VALUE: &str = "the-real-secret-value";

/// Looks for the value in everything the jail can read: environments, files, its own command line.
const LOOK: &str = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; \
    grep -rsa -e 'the-real-secre[t]' ~ . /tmp /etc /run 2>/dev/null; true";

fn profile(entry: &str) -> String {
    format!(
        "[network.tls]\n\"api.test\" = \"inspect\"\n\
         [[network.credentials]]\nname = \"k\"\nhost = \"api.test\"\nheader = \"authorization\"\n{entry}\n"
    )
}

/// `portcullis run -p PROFILE FLAGS -- COMMAND` with variables of the caller's.
fn run(
    install: &Install,
    entry: &str,
    flags: &[&str],
    variables: &[(&str, &str)],
    command: &[&str],
) -> Run {
    let file = install.write("profile.toml", &profile(entry));
    run_with(install, file.to_str().unwrap(), flags, variables, command)
}

fn run_with(
    install: &Install,
    profile: &str,
    flags: &[&str],
    variables: &[(&str, &str)],
    command: &[&str],
) -> Run {
    let arguments = [&["run", "-p", profile], flags, &["--"], command].concat();
    let output = install
        .command(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    Run::of(&output)
}

/// The one variable's value that `env` printed.
fn variable<'a>(run: &'a Run, name: &str) -> &'a str {
    let line = run
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in {run:?}"))
}

#[track_caller]
fn assert_placeholder(text: &str) {
    let mark = text
        .strip_prefix("sk-portcullis-")
        .unwrap_or_else(|| panic!("{text:?}"));
    assert!(
        mark.len() == 32 && mark.bytes().all(|b| b.is_ascii_hexdigit()),
        "{text}"
    );
}

/// Neither what the jail printed nor what was told nor what was recorded has the value.
#[track_caller]
fn assert_nowhere(install: &Install, run: &Run, value: &str) {
    let records: String = install.records().iter().map(Value::to_string).collect();
    for (what, text) in [
        ("output", &run.stdout),
        ("errors", &run.stderr),
        ("records", &records),
    ] {
        assert!(!text.contains(value), "{what}: {text}");
    }
}

#[test]
fn the_jail_has_the_placeholder_and_nowhere_the_value() {
    for who in EVERYONE {
        let install = Install::new(who);
        // Without a credential the same variable passes, and everything sees it.
        let open = install.write("open.toml", "[environment]\npass = [\"API_TOKEN\"]");
        let twin = run_with(
            &install,
            open.to_str().unwrap(),
            &[],
            &[("API_TOKEN", VALUE)],
            &["env"],
        );
        assert_eq!(variable(&twin, "API_TOKEN"), VALUE, "{who:?}");

        let entry = "value = \"Bearer ${env:API_TOKEN}\"\n\
            [environment]\npass = [\"API_TOKEN\", \"SAME\"]\nset = { ALSO = \"x=the-real-secret-value\" }";
        let variables = [("API_TOKEN", VALUE), ("SAME", VALUE)];
        let asked = ["sh", "-c", LOOK, "--key=the-real-secret-value"];
        fs::remove_dir_all(install.path("home/.local")).unwrap();
        for flags in [
            &[][..],
            &["--env", "API_TOKEN"],
            &["--env", "API_TOKEN=the-real-secret-value"],
        ] {
            let run = run(&install, entry, flags, &variables, &asked);
            assert_eq!(run.status, Some(0), "{who:?} {flags:?}: {run:?}");
            let placeholder = variable(&run, "API_TOKEN");
            assert_placeholder(placeholder);
            assert_eq!(variable(&run, "SAME"), placeholder);
            assert_eq!(variable(&run, "ALSO"), format!("x={placeholder}"));
            assert_nowhere(&install, &run, "the-real-secret");
        }
        let verified = install.portcullis(["audit", "verify"]);
        assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    }
}

#[test]
fn every_session_has_its_own_placeholder() {
    let install = Install::new(Who::Root);
    let once = || {
        let run = run(
            &install,
            "value = \"${env:T}\"",
            &[],
            &[("T", VALUE)],
            &["env"],
        );
        variable(&run, "T").to_owned()
    };
    assert_ne!(once(), once());
}

#[test]
fn a_file_a_service_credential_and_a_command_are_read_outside() {
    for who in EVERYONE {
        let install = Install::new(who);
        let secret = install.write("home/keys/token", "the-real-secret-value\n");
        install.own("home/keys");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let folder = install.path("home/keys").display().to_string();
        let path = secret.display().to_string();
        for entry in [
            "value = \"token ${file:~/keys/token}\"\nenv = \"T\"".to_owned(),
            format!("value = \"token ${{file:{path}}}\"\nenv = \"T\""),
            "value = \"token ${credential:token}\"\nenv = \"T\"".to_owned(),
            "value = \"token ${command}\"\ncommand = [\"cat\", \"~/keys/token\"]\nenv = \"T\""
                .to_owned(),
            format!(
                "value = \"token ${{command}}\"\ncommand = [\"/bin/cat\", \"{path}\"]\nenv = \"T\""
            ),
        ] {
            let variables = [("CREDENTIALS_DIRECTORY", folder.as_str())];
            let run = run(&install, &entry, &[], &variables, &["sh", "-c", LOOK]);
            assert_eq!(
                (run.status, run.stderr.as_str()),
                (Some(0), ""),
                "{who:?} {entry}"
            );
            assert_placeholder(variable(&run, "T"));
            assert_nowhere(&install, &run, VALUE);
        }
    }
}

#[test]
fn a_file_with_a_value_is_masked_where_the_profile_shows_its_folder() {
    let install = Install::new(Who::Root);
    let secret = install.write("home/keys/token", VALUE);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    install.write("home/keys/public", "for everybody");
    let read = ["sh", "-c", "cat ~/keys/public; cat ~/keys/token; true"];
    let shown = ["--ro", "~/keys"];
    let entry = "value = \"${file:~/keys/token}\"\nenv = \"T\"";
    let run_sealed = run(&install, entry, &shown, &[], &read);
    assert_eq!(run_sealed.stdout, "for everybody", "{run_sealed:?}");
    let twin = run_with(&install, "base", &shown, &[], &read);
    assert_eq!(twin.stdout, format!("for everybody{VALUE}"));
}

#[test]
fn a_file_that_others_can_read_is_told() {
    let install = Install::new(Who::Root);
    let secret = install.write("home/token", VALUE);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let run = run(
        &install,
        "value = \"${file:~/token}\"\nenv = \"T\"",
        &[],
        &[],
        &["true"],
    );
    let told = format!(
        "portcullis: credential k: others can read {}; chmod 600 it",
        secret.display()
    );
    assert_eq!(
        (run.status, run.stderr.trim_end()),
        (Some(0), told.as_str())
    );
}

#[test]
fn what_is_wrong_with_a_source_is_told_by_its_name_and_never_by_its_value() {
    let install = Install::new(Who::Root);
    install.write("work/token", VALUE);
    let script = install.write("work/print", "#!/bin/sh\necho the-real-secret-value\n");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    install.write("home/binary", "the-real-secret\u{1}value");
    install.write("home/lines", "the-real-secret-value\nmore");
    install.write("home/empty", "\n");
    for name in ["binary", "lines", "empty"] {
        let file = install.path("home").join(name);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let work = install.work().display().to_string();
    for (entry, variables, told) in [
        ("value = \"${env:T}\"".to_owned(), &[][..], "T is not set; export it"),
        ("value = \"${env:T}\"".to_owned(), &[("T", "")], "the variable T is empty"),
        ("value = \"${env:T}\"".to_owned(), &[("T", " the-real-secret")], "spaces at its ends"),
        ("value = \"${file:~/nowhere}\"\nenv = \"T\"".to_owned(), &[], "nowhere: No such file"),
        ("value = \"${file:~/binary}\"\nenv = \"T\"".to_owned(), &[], "the file ~/binary has more lines than one"),
        ("value = \"${file:~/lines}\"\nenv = \"T\"".to_owned(), &[], "the file ~/lines has more lines than one"),
        ("value = \"${file:~/empty}\"\nenv = \"T\"".to_owned(), &[], "the file ~/empty is empty"),
        ("value = \"${file:/dev/zero}\"\nenv = \"T\"".to_owned(), &[], "is no regular file"),
        (format!("value = \"${{file:{work}/token}}\"\nenv = \"T\""), &[], "lies in a folder that the session can write"),
        ("value = \"${credential:t}\"\nenv = \"T\"".to_owned(), &[], "CREDENTIALS_DIRECTORY is not set"),
        (format!("value = \"${{command}}\"\ncommand = [\"{work}/print\"]\nenv = \"T\""), &[], "which lies in a folder that the session can write"),
        (format!("value = \"${{command}}\"\ncommand = [\"sh\", \"{work}/print\"]\nenv = \"T\""), &[], "which lies in a folder that the session can write"),
        ("value = \"${command}\"\ncommand = [\"./print\"]\nenv = \"T\"".to_owned(), &[], "no program \"./print\""),
        ("value = \"${command}\"\ncommand = [\"sh\", \"-c\", \"echo the-real-secret; exit 3\"]\nenv = \"T\"".to_owned(), &[], "ended with exit status: 3"),
        ("value = \"${codex:api_key}\"".to_owned(), &[], "no API key in CODEX_API_KEY, OPENAI_API_KEY or auth.json"),
    ] {
        let run = run(&install, &entry, &[], variables, &["true"]);
        let (status, lines) = run.complaint();
        assert_eq!((status, lines.len()), (Some(125), 1), "{entry}: {run:?}");
        assert!(lines[0].starts_with("portcullis: credential "), "{lines:?}");
        assert!(lines[0].contains(told), "no {told:?} in {lines:?}");
        assert!(!run.stderr.contains("the-real-secret"), "{run:?}");
    }
}

#[test]
fn a_program_from_a_path_in_the_workspace_is_not_run() {
    let install = Install::new(Who::Root);
    let tool = install.write(
        "work/bin/tool",
        "#!/bin/sh\ntouch ran\necho the-real-secret-value\n",
    );
    fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", install.path("work/bin").display());
    let entry = "value = \"${command}\"\ncommand = [\"tool\"]\nenv = \"T\"";
    let run = run(&install, entry, &[], &[("PATH", &path)], &["true"]);
    assert_eq!(run.status, Some(125), "{run:?}");
    assert!(
        run.stderr.contains("no program \"tool\" in PATH outside"),
        "{run:?}"
    );
    assert!(!install.path("work/ran").exists());
}

#[test]
fn an_optional_credential_without_a_source_is_left_out() {
    let install = Install::new(Who::Root);
    let entry = "value = \"${env:T}\"\noptional = true";
    let without = run(&install, entry, &[], &[], &["env"]);
    assert_eq!(
        (without.status, without.stdout.contains("T=sk-")),
        (Some(0), false),
        "{without:?}"
    );
    let with = run(&install, entry, &[], &[("T", VALUE)], &["env"]);
    assert_placeholder(variable(&with, "T"));
}

#[test]
fn a_wrong_profile_is_refused_before_anything_is_read() {
    let install = Install::new(Who::Root);
    let file = install.write(
        "p.toml",
        "[[network.credentials]]\nhost = \"api.test\"\nheader = \"x-key\"\nvalue = \"${env:T}\"",
    );
    let run = run_with(
        &install,
        file.to_str().unwrap(),
        &[],
        &[("T", VALUE)],
        &["true"],
    );
    assert_eq!(run.status, Some(125), "{run:?}");
    assert!(
        run.stderr
            .contains("TLS to api.test is not looked into, so the value could not be put in"),
        "{run:?}"
    );
}

// === Codex ===

fn token(claims: &Value, signature: &str) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!(
        "{}.{}.{signature}",
        part(&json!({"alg": "RS256"})),
        part(claims)
    )
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

fn auth_json_of_the_jail(run: &Run) -> Value {
    let text = run.stdout.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(text.unwrap_or_else(|| panic!("{run:?}"))).unwrap()
}

const CODEX_LOOK: &str = "cat ~/.codex/auth.json; echo; env; grep -rsa -e 'the-real-secre[t]' ~ /proc/[0-9]*/environ; true";

#[test]
fn codex_gets_a_placeholder_for_a_key_from_the_environment_and_from_auth_json() {
    for who in EVERYONE {
        let install = Install::new(who);
        fs::create_dir(install.path("home/.codex")).unwrap();
        let file = json!({"auth_mode": "apikey", "OPENAI_API_KEY": VALUE});
        install.write("home/.codex/auth.json", &file.to_string());
        install.own("home/.codex");
        let look = ["sh", "-c", CODEX_LOOK];
        for variables in [
            &[][..],
            &[("OPENAI_API_KEY", VALUE)],
            &[("CODEX_API_KEY", VALUE)],
        ] {
            let sealed = run_with(&install, "codex-sealed", &[], variables, &look);
            assert_eq!(
                (sealed.status, sealed.stderr.as_str()),
                (Some(0), ""),
                "{who:?} {sealed:?}"
            );
            let placeholder = variable(&sealed, "CODEX_API_KEY");
            assert_placeholder(placeholder);
            assert_eq!(
                auth_json_of_the_jail(&sealed),
                json!({"auth_mode": "apikey", "OPENAI_API_KEY": placeholder})
            );
            assert_nowhere(&install, &sealed, "the-real-secret");
        }
        let open = run_with(&install, "codex", &[], &[], &look);
        assert_eq!(
            auth_json_of_the_jail(&open),
            file,
            "the twin without a seal"
        );
    }
}

#[test]
fn codex_gets_its_chatgpt_account_without_the_secrets_of_it() {
    let install = Install::new(Who::Root);
    let account = json!({"email": "ada@example.com", "https://api.openai.com/auth": {"chatgpt_plan_type": "plus"}});
    let write = |expires: i64| {
        let file = json!({
            "OPENAI_API_KEY": null,
            "tokens": {
                "id_token": token(&account, "the-real-secret-id"),
                "access_token": token(&json!({"exp": expires}), "the-real-secret-access"),
                "refresh_token": "the-real-secret-refresh",
                "account_id": "acc-1",
            },
            "last_refresh": "2020-01-01T00:00:00Z",
        });
        install.write("home/.codex/auth.json", &file.to_string());
    };
    let now = jiff::Timestamp::now().as_second();
    write(now + 86_400);
    let sealed = run_with(
        &install,
        "codex-sealed",
        &[],
        &[],
        &["sh", "-c", CODEX_LOOK],
    );
    assert_eq!(
        (sealed.status, sealed.stderr.as_str()),
        (Some(0), ""),
        "{sealed:?}"
    );
    let tokens = &auth_json_of_the_jail(&sealed)["tokens"];
    assert_eq!(claims(tokens["id_token"].as_str().unwrap()), account);
    let access = claims(tokens["access_token"].as_str().unwrap());
    assert!(access["exp"].as_i64().unwrap() > now + 86_400, "{access}");
    assert_eq!(tokens["account_id"], "acc-1");
    assert_nowhere(&install, &sealed, "the-real-secret");

    write(now - 10);
    let expired = run_with(&install, "codex-sealed", &[], &[], &["true"]);
    let told = "portcullis: the ChatGPT sign-in of auth.json has expired: start codex once outside";
    assert!(expired.stderr.starts_with(told), "{expired:?}");
    let unsealed = run_with(&install, "codex", &[], &[], &["true"]);
    let told = "portcullis: the ChatGPT sign-in of auth.json has expired: start codex once outside first; refreshed in the jail it is lost";
    assert!(unsealed.stderr.starts_with(told), "{unsealed:?}");
    write(now + 600 + 30);
    for profile in ["codex-sealed", "codex"] {
        let soon = run_with(&install, profile, &[], &[], &["true"]);
        let told = "portcullis: the ChatGPT sign-in of auth.json ends in 10 minutes: a longer session needs a new one";
        assert!(soon.stderr.starts_with(told), "{soon:?}");
    }
    let by_key = run_with(
        &install,
        "codex",
        &[],
        &[("CODEX_API_KEY", VALUE)],
        &["true"],
    );
    assert_eq!(by_key.stderr, "", "{by_key:?}");
    write(now + 86_400);
    let unsealed = run_with(&install, "codex", &[], &[], &["true"]);
    assert_eq!(unsealed.stderr, "", "{unsealed:?}");
}

#[test]
fn the_hosts_sign_in_shows_nowhere_else_in_the_jail() {
    let install = Install::new(Who::Root);
    let file = json!({"auth_mode": "apikey", "OPENAI_API_KEY": VALUE});
    let look = [
        "sh",
        "-c",
        "cat ~/.codex/auth.json; echo; cat own-home/auth.json; true",
    ];
    for mode in ["workspace-write", "danger-full-access"] {
        // In the workspace, where the jail would read it.
        let home = install.path("work/own-home");
        install.write("work/own-home/auth.json", &file.to_string());
        let variables = [("CODEX_HOME", home.to_str().unwrap())];
        let flags = ["--mode", mode];
        let sealed = run_with(&install, "codex-sealed", &flags, &variables, &look);
        assert_eq!(sealed.status, Some(0), "{mode}: {sealed:?}");
        assert!(
            sealed.stdout.contains("sk-portcullis-"),
            "{mode}: {sealed:?}"
        );
        assert!(
            !sealed.stdout.contains("the-real-secret"),
            "{mode}: {sealed:?}"
        );
        let open = run_with(&install, "base", &[], &variables, &look);
        assert!(
            open.stdout.contains("the-real-secret"),
            "the twin: {open:?}"
        );

        fs::remove_dir_all(home).unwrap();
        install.write("home/.codex/auth.json", &file.to_string());
        for more in [&[][..], &["--ro", "~/.codex"]] {
            let flags = [&flags[..], more].concat();
            let sealed = run_with(&install, "codex-sealed", &flags, &[], &look);
            assert!(
                !sealed.stdout.contains("the-real-secret"),
                "{flags:?}: {sealed:?}"
            );
        }
        fs::remove_dir_all(install.path("home/.codex")).unwrap();
    }
}

#[test]
fn codex_without_a_sign_in_is_told_where_one_would_be() {
    let install = Install::new(Who::Root);
    let run = run_with(&install, "codex-sealed", &[], &[], &["true"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(
        run.stderr
            .contains("Codex has no sign-in here: no API key in"),
        "{run:?}"
    );
}

#[test]
fn the_session_is_not_readable_while_it_has_values() {
    // The command that prints the value sees its parent, the session: nobody but root may read it.
    let install = Install::new(Who::User);
    let witness = install.path("home/witness").display().to_string();
    let script = format!(
        "stat -c %u /proc/$PPID/mem > {witness}; cat /proc/$PPID/environ >> {witness} 2>&1; echo the-real-secret-value"
    );
    let entry =
        format!("value = \"${{command}}\"\ncommand = [\"sh\", \"-c\", {script:?}]\nenv = \"T\"");
    let run = run(&install, &entry, &[], &[], &["true"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let seen = fs::read_to_string(install.path("home/witness")).unwrap();
    assert!(
        seen.starts_with("0\n") && seen.contains("Permission denied"),
        "{seen}"
    );
    // The twin: what is readable shows its owner.
    let own = Command::new("stat")
        .args(["-c", "%u", "/proc/self/mem"])
        .output()
        .unwrap();
    assert_eq!(own.stdout, b"0\n");
}

#[test]
fn a_key_of_codex_that_is_not_used_does_not_enter_either() {
    let other = "sk-the-real-secret-other";
    for (variables, file) in [
        (
            &[("CODEX_API_KEY", VALUE), ("OPENAI_API_KEY", other)][..],
            json!({}),
        ),
        (
            &[("OPENAI_API_KEY", VALUE)],
            json!({"auth_mode": "apikey", "OPENAI_API_KEY": other}),
        ),
        (
            &[("CODEX_API_KEY", VALUE)],
            json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": other, "tokens": {
                "id_token": token(&json!({}), "the-real-secret-id"),
                "access_token": token(&json!({}), "the-real-secret-access"),
                "refresh_token": "the-real-secret-refresh"}}),
        ),
    ] {
        let install = Install::new(Who::Root);
        install.write("home/.codex/auth.json", &file.to_string());
        let look = ["sh", "-c", CODEX_LOOK];
        let sealed = run_with(&install, "codex-sealed", &[], variables, &look);
        assert_eq!(sealed.status, Some(0), "{sealed:?}");
        let placeholder = variable(&sealed, "CODEX_API_KEY");
        assert_placeholder(placeholder);
        for (name, _) in variables {
            assert_eq!(variable(&sealed, name), placeholder);
        }
        assert_nowhere(&install, &sealed, "the-real-secret");
    }
}

#[test]
fn with_a_chatgpt_account_the_openai_key_is_sealed_but_is_not_codexs() {
    let install = Install::new(Who::Root);
    let file = json!({"auth_mode": "chatgpt", "tokens": {
        "id_token": token(&json!({}), "the-real-secret-id"),
        "access_token": token(&json!({}), "the-real-secret-access"),
        "refresh_token": "the-real-secret-refresh"}});
    install.write("home/.codex/auth.json", &file.to_string());
    let look = ["sh", "-c", CODEX_LOOK];
    let variables = [("OPENAI_API_KEY", VALUE)];
    let sealed = run_with(&install, "codex-sealed", &[], &variables, &look);
    assert_eq!(sealed.status, Some(0), "{sealed:?}");
    assert_placeholder(variable(&sealed, "OPENAI_API_KEY"));
    assert!(!sealed.stdout.contains("CODEX_API_KEY="), "{sealed:?}");
    assert_nowhere(&install, &sealed, "the-real-secret");
    let open = run_with(&install, "codex", &[], &variables, &look);
    assert!(
        !open.stdout.contains("CODEX_API_KEY="),
        "the twin without a seal: {open:?}"
    );
}
