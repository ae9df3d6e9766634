//! `openssl s_client`: which certificate it is shown, and which protocol is agreed.

use crate::cli::{EVERYONE, Who};
use crate::scene::{NAME, Scene};
use crate::tls_origin::OriginSpec;

#[test]
fn s_client_without_a_proxy_agrees_on_the_protocol_and_verifies_the_sessions_certificate() {
    for who in EVERYONE {
        let scene = Scene::new(who, "transparent = true", "");
        for protocol in ["h2", "http/1.1"] {
            let script = format!(
                "openssl s_client -connect {NAME}:{port} -servername {NAME} -alpn {protocol} \
                 -verify_hostname {NAME} -verify_return_error -CAfile \"$NODE_EXTRA_CA_CERTS\" </dev/null",
                port = scene.origin.port()
            );
            let run = scene.run_bare(&["sh", "-c", &script]);
            assert_eq!(run.status, Some(0), "{who:?} {run:#?}");
            let agreed = format!("ALPN protocol: {protocol}");
            assert!(run.stdout.contains(&agreed), "{who:?} {run:#?}");
            assert!(
                run.stdout.contains("Verify return code: 0 (ok)"),
                "{run:#?}"
            );
        }
        let expected = format!("allow transparent {NAME}:{}", scene.origin.port());
        assert_eq!(scene.decisions(), [expected], "{who:?}");
    }
}

#[test]
fn s_client_with_another_server_name_is_refused_before_it_sees_a_certificate() {
    let scene = Scene::before(Who::User, OriginSpec::new(NAME), "transparent = true", "");
    let script = format!(
        "openssl s_client -connect {NAME}:{port} -servername front.test </dev/null",
        port = scene.origin.port()
    );
    let run = scene.run_bare(&["sh", "-c", &script]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    assert!(
        run.stdout.contains("no peer certificate available"),
        "{run:#?}"
    );
    assert_eq!(scene.refusals(), ["sni_mismatch"]);
    assert_eq!(scene.origin.connections(), 0);
}
