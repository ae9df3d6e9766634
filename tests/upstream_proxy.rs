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
#[path = "support/upstream.rs"]
#[expect(dead_code, reason = "shared with other suites")]
mod upstream;

use cli::{EVERYONE, Install, Run, Who};
use proxy::answering;
use upstream::Origin;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

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
        let proxy = answering(ESTABLISHED, Origin::echo().address);
        let install = Install::new(who);
        install.write("profile.toml", PROFILE);
        let url = format!("http://ada:s3cret@{}", proxy.address);
        let run = curl(&install, &[("http_proxy", &url)]);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.as_str()),
            (Some(0), "GET /x HTTP/1.1", ""),
            "{who:?}"
        );
        assert!(proxy.log.text().starts_with("CONNECT a.test:80 HTTP/1.1"));
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
    let proxy = answering(ESTABLISHED, Origin::echo().address);
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
    let run = curl(
        &install,
        &[("HTTPS_PROXY", "https://u:s3cret@proxy.test:1")],
    );
    assert_eq!(run.status, Some(125));
    assert!(
        run.stderr.contains("HTTPS_PROXY") && run.stderr.contains("not spoken yet"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}
