//! Reports: everything of a session, and nothing of a jail that a page or a terminal would obey.

use std::os::unix::fs::PermissionsExt;

use super::support::{Book, Folder, both, text_of};

/// What a jail could hope to do to a page.
const HOSTILE: &str =
    r#"/<script>alert(1)</script>/'\"onload=x/`[a](javascript:b)|c/\u001b[2J\u202e/<!--/&lt;"#;

fn hostile() -> Book {
    let mut book = Book::new("<i>eve</i>", "2026-03-01T10:00:00Z");
    let rest = format!(
        r#""method":"GET","path":"{HOSTILE}","reason":"host_not_allowed","rule":"{HOSTILE}","process":{{"pid":7,"host_pid":107,"parents":[],"exe":"{HOSTILE}","argv":["{HOSTILE}"]}},"#
    );
    let argv = format!(
        r#""argv":["{HOSTILE}"],"profile":"{HOSTILE}","mode":"{HOSTILE}","workspace":"{HOSTILE}","generation":"{HOSTILE}","isolation":{{"bwrap":"{HOSTILE}","landlock_abi":4,"seccomp_allowed":301,"shortfalls":[{{"what":"{HOSTILE}","needs":"{HOSTILE}"}}]}}"#
    );
    let refused =
        format!(r#""conn":9,"transport":"connect","reason":"malformed","detail":"{HOSTILE}""#);
    let asked = format!(r#""question":1,"conn":3,"host":"a.test","port":443,"path":"{HOSTILE}""#);
    let answered = format!(r#""question":1,"end":"denied","by":"{HOSTILE}""#);
    let stopping = format!(r#""by":"{HOSTILE}","kill":false"#);
    let ended = format!(
        r#""status":{{"not_started":"{HOSTILE}"}},"ms":5,"workspace":{{"changed":3,"hooks":["{HOSTILE}",{{"path":"{HOSTILE}"}}]}}"#
    );
    // The report reads them leniently where this version's writer would not write them.
    let plain = format!(r#""decided":"{HOSTILE}""#);
    book.put("session.started", &argv)
        .decided(
            1,
            "a.test",
            "deny",
            &rest.replace(
                &format!(r#","process":{{"pid":7,"host_pid":107,"parents":[],"exe":"{HOSTILE}","argv":["{HOSTILE}"]}}"#),
                "",
            ),
        )
        .put("egress.refused", &refused)
        .put("approval.asked", &asked)
        .put("approval.answered", &answered)
        .put("session.stopping", &stopping)
        .put("new.event", &plain)
        .decided(2, "b.test", "allow", &rest)
        .put("session.ended", &ended);
    book
}

#[test]
fn a_page_has_no_tag_script_or_address_of_a_jails() {
    let folder = Folder::new();
    let book = hostile();
    book.save(&folder);
    let ran = folder.audit(&["report", &book.session.to_string()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let page = ran.out;
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    // The jail's words are there, as text.
    assert!(
        page.matches("&lt;script&gt;alert(1)&lt;/script&gt;")
            .count()
            > 8,
        "{page}"
    );
    assert!(page.contains("&lt;i&gt;eve&lt;/i&gt;"));
    for bad in [
        "<script", "<i>", "<!--", "\u{1b}", "\u{202e}", "href", "src=", "http://", "https://",
    ] {
        assert!(!page.contains(bad), "{bad}");
    }
    // Every tag is one of ours, and none has an attribute of a jail's.
    let ours = [
        "!DOCTYPE", "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span",
        "dl", "dt", "dd", "div", "b", "table", "thead", "tbody", "tr", "th", "td", "code", "svg",
        "line", "rect", "text", "footer", "br",
    ];
    for tag in page.split('<').skip(1) {
        let name = tag.trim_start_matches('/');
        let end = name.find([' ', '>']).unwrap();
        assert!(ours.contains(&&name[..end]), "<{tag}");
        let inside = &name[..name.find('>').unwrap()];
        assert!(
            !inside.contains("onload") && !inside.contains("javascript"),
            "<{tag}"
        );
    }
}

#[test]
fn markdown_of_a_jail_stays_in_its_code() {
    let folder = Folder::new();
    let book = hostile();
    book.save(&folder);
    let ran = folder.audit(&["report", &book.session.to_string(), "--format", "md"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("# Session `"), "{}", ran.out);
    assert!(ran.out.matches("<script>alert(1)</script>").count() > 8);
    for bad in ["\u{1b}", "\u{202e}"] {
        assert!(!ran.out.contains(bad));
    }
    for line in ran.out.lines() {
        // Outside of code there is nothing of a jail's.
        let mut outside = String::new();
        let mut rest = line;
        while let Some(start) = rest.find('`') {
            outside += &rest[..start];
            let fence = rest[start..].len() - rest[start..].trim_start_matches('`').len();
            let inner = &rest[start + fence..];
            let runs: Vec<(usize, &str)> = inner.match_indices('`').collect();
            let mut end = None;
            let mut at = 0;
            while at < runs.len() {
                let from = runs[at].0;
                let length = inner[from..].len() - inner[from..].trim_start_matches('`').len();
                if length == fence {
                    end = Some(from + length);
                    break;
                }
                at += length;
            }
            rest = &inner[end.unwrap_or_else(|| panic!("code without end: {line}"))..];
        }
        outside += rest;
        for bad in ["<", "script", "javascript", "[a]", "onload"] {
            assert!(!outside.contains(bad), "{bad}: {line}");
        }
        if line.starts_with("| ") && !line.starts_with("| ---") {
            // As many cells as the table's heading: none was made by a jail.
            assert!(!outside.is_empty());
        }
    }
}

#[test]
fn a_report_tells_the_story() {
    let (folder, alice, _) = both();
    let page = folder.audit(&["report", &alice.session.to_string()]).out;
    for part in [
        "log is complete",
        "fix &lt;b&gt;it&lt;/b&gt;",
        "alice on host 00112233aabbccdd",
        "bubblewrap 0.8.0, Landlock ABI 4",
        "api.example.com:443",
        "host_not_allowed",
        "/usr/bin/pip",
        "POST /repos/acme/secret",
        "--allow example.com:443",
        "denied by carol",
        "odd bytes here",
        "<td>404</td>",
        "<svg class=\"chart\"",
        "session.ended",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = folder
        .audit(&["report", &alice.session.to_string(), "--format", "md"])
        .out;
    for part in [
        "- **log**: complete",
        "`api.example.com:443`",
        "`--allow example.com:443",
        "`denied by carol`",
        "`/usr/bin/pip`",
        "| `404` | 1 |",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn a_report_is_written_for_its_owner_alone_and_says_where_a_log_breaks() {
    let (folder, alice, _) = both();
    let path = alice.save(&folder);
    std::fs::write(
        &path,
        text_of(&path).replace("/repos/acme/secret", "/repos/acme/public"),
    )
    .unwrap();
    let output = folder.logs().join("report.html");
    let ran = folder.audit(&[
        "report",
        &alice.session.to_string(),
        "-o",
        output.to_str().unwrap(),
    ]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("does not hold"), "{}", ran.err);
    assert_eq!(
        output.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let page = text_of(&output);
    assert!(
        page.contains("log is broken") && page.contains("hash does not match"),
        "{page}"
    );
    assert!(!page.contains("/repos/acme/public"), "{page}");
}

#[test]
fn long_tables_have_an_end() {
    let folder = Folder::new();
    let mut book = Book::new("alice", "2026-03-01T10:00:00Z");
    book.started();
    for conn in 0..250 {
        book.decided(
            conn,
            &format!("h{conn}.test"),
            "deny",
            r#""reason":"host_not_allowed","#,
        );
    }
    book.ended();
    book.save(&folder);
    let page = folder.audit(&["report", &book.session.to_string()]).out;
    assert_eq!(page.matches("and 150 more").count(), 2);
    assert!(page.matches("<tr>").count() < 240);
}
