//! Sessions whose way out is an upstream proxy.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and start programs"
)]

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod cli;
#[path = "support/proxy.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod proxy;
#[path = "support/tls_origin.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_origin;
#[path = "support/tls_proxy.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod tls_proxy;
#[path = "support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;

use cli::{EVERYONE, Install, Run, Who};
use tls_origin::OriginSpec;
use tls_proxy::{TlsFront, squid};
use upstream::Origin;

const PROFILE: &str = "[network]\nallow_upstream_proxy = true\n\
    [network.domains]\n\"a.test\" = \"allow\"\n";

fn curl(install: &Install, variables: &[(&str, &str)]) -> Run {
    let profile = install.path("profile.toml");
    let profile = profile.to_str().unwrap();
    let line = ["run", "-p", profile, "--", "curl", "-s", "http://a.test/x"];
    let mut command = install.command(line);
    command.envs(variables.iter().copied());
    Run::of(&command.output().unwrap())
}

#[test]
fn the_callers_proxy_leads_out_where_the_profile_allows_it_and_the_jail_never_hears_of_it() {
    for who in EVERYONE {
        let proxy = Origin::echo();
        let install = Install::new(who);
        install.write("profile.toml", PROFILE);
        let url = format!("http://ada:s3cret@{}", proxy.address);
        let run = curl(&install, &[("http_proxy", &url)]);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.as_str()),
            (Some(0), "GET http://a.test/x HTTP/1.1", ""),
            "{who:?}"
        );
        let login = "proxy-authorization: basic ywrhonmzy3jlda==";
        assert!(proxy.log.text().to_lowercase().contains(login));
        let via = install.events("egress.dialed")[0]["via"].clone();
        assert_eq!(via, proxy.address.to_string());
        let said = serde_json::to_string(&install.records()).unwrap();
        assert!(!said.contains("s3cret"));
        let profile = install.path("profile.toml").display().to_string();
        let mut env = install.command(["run", "-p", &profile, "--", "env"]);
        env.env("http_proxy", &url);
        let said = Run::of(&env.output().unwrap()).stdout;
        assert!(
            said.contains("http_proxy=http://127.0.0.1:3128") && !said.contains("s3cret"),
            "{said}"
        );
    }
}

#[test]
fn without_the_permission_the_callers_proxy_does_not_count() {
    let proxy = Origin::echo();
    let install = Install::new(Who::Root);
    install.write(
        "profile.toml",
        "[network.domains]\n\"a.test\" = \"allow\"\n[network.dns]\nservers = [\"127.0.0.1:9\"]\n",
    );
    let url = format!("http://{}", proxy.address);
    let run = curl(&install, &[("http_proxy", &url), ("ALL_PROXY", &url)]);
    assert!(run.stdout.contains("resolve_failed"), "{run:?}");
    assert_eq!(proxy.log.connections(), 0);
}

#[test]
fn a_proxy_that_cannot_be_used_ends_the_launch_with_the_cure() {
    let install = Install::new(Who::Root);
    install.write("profile.toml", PROFILE);
    let run = curl(&install, &[("HTTPS_PROXY", "quic://u:s3cret@proxy.test:1")]);
    assert_eq!(run.status, Some(125));
    assert!(
        run.stderr.contains("HTTPS_PROXY") && run.stderr.contains("https://, socks5://"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}

#[test]
fn the_callers_proxy_of_https_leads_out_held_to_the_callers_authorities() {
    let secure = OriginSpec::new("t.test").https().start();
    let web = Origin::raw_at(80, |stream| {
        upstream::serve_http(stream, &|head, _| {
            upstream::ok(head.lines().next().unwrap_or_default())
        })
    });
    let hosts = [("t.test", secure.addr), ("w.test", web.address)];
    let (proxy, ca) = squid("localhost", &hosts, Some(("ada", "s3cret")));
    let url = format!("https://ada:s3cret@localhost:{}", proxy.address.port());
    let script = "curl -s http://w.test/p; curl -sk -o out -w ' %{http_code}' https://t.test/; \
        curl -s -o out -w ' %{http_code}' http://direct.test/; env | grep -c -e s3cre[t] -e CERT";
    for who in EVERYONE {
        let install = Install::new(who);
        install.write("ca.pem", &ca);
        let profile = "[network]\nallow_upstream_proxy = true\n[network.dns]\nservers = ['127.0.0.1:9']\n\
            [network.domains]\n't.test' = 'allow'\n'w.test' = 'allow'\n'direct.test' = 'allow'\n";
        let profile = install.write("profile.toml", profile);
        let line = [
            "run",
            "-p",
            profile.to_str().unwrap(),
            "--",
            "sh",
            "-c",
            script,
        ];
        let mut command = install.command(line);
        command
            .env("HTTPS_PROXY", &url)
            .env("http_proxy", &url)
            .env("NO_PROXY", "direct.test")
            .env("SSL_CERT_FILE", install.path("ca.pem"));
        let run = Run::of(&command.output().unwrap());
        let expected = "GET /p HTTP/1.1 200 5020\n";
        assert_eq!(
            (run.status, run.stdout.as_str()),
            (Some(1), expected),
            "{who:?} {run:?}"
        );
        assert!(run.stderr.contains("direct.test:80"), "{run:?}");
        let via = format!("localhost:{}", proxy.address.port());
        let dialed = install.events("egress.dialed");
        assert!(dialed.iter().all(|event| event["via"] == via.as_str()));
        assert_eq!(dialed.len(), 2);
        let said = serde_json::to_string(&install.records()).unwrap();
        assert!(!said.contains("s3cret"));
    }
    assert!(!web.log.text().to_lowercase().contains("proxy-auth"));
}

#[test]
fn a_proxy_of_https_in_the_profile_is_held_to_the_hosts_authorities_and_to_extra_ca() {
    let proxy = Origin::echo();
    let front = TlsFront::new("localhost", proxy.address);
    for (extra, stdout) in [
        (
            "extra_ca = ['~/corp.pem']\n",
            "GET http://a.test/x HTTP/1.1",
        ),
        ("", "upstream_proxy_failed"),
    ] {
        let install = Install::new(Who::User);
        install.write("home/corp.pem", &front.ca);
        let text = format!(
            "[network]\nallow_upstream_proxy = true\n{extra}[network.domains]\n'a.test' = 'allow'\n\
             [network.upstream_proxy]\nurl = 'https://localhost:{}'\n",
            front.port()
        );
        install.write("profile.toml", &text);
        let run = curl(&install, &[]);
        assert!(run.stdout.contains(stdout), "{run:?}");
        if extra.is_empty() {
            let refused = install.events("egress.refused");
            let detail = format!(
                "the upstream proxy localhost:{}: its certificate is refused: unknown_issuer",
                front.port()
            );
            assert_eq!(refused[0]["detail"], detail.as_str());
        }
    }
    assert_eq!(proxy.log.connections(), 1);
}
