//! The table of secrets' formats. Order matters: the narrower stands before the wider, so that what is replaced
//! is named by what it was.
//!
//! Triggers are plain words, all looked for at once (the crate `aho-corasick`, whose tables are made in a tenth of the
//! time that expressions take); only where one stands is the pattern looked for. Patterns are of the crate `regex`
//! without Unicode. The time of both is linear in the text. The first group of a pattern is the secret; without
//! one, all that matches is.

/// One format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// What stands in a secret's place: `[redacted:NAME]`. No word that is a trigger itself.
    pub(super) name: &'static str,
    /// What every secret of this format has in or before it.
    pub(super) trigger: Trigger,
    /// The secret and its surroundings.
    pub(super) pattern: &'static str,
    /// What else it must be.
    pub(super) check: Check,
    /// Who says that it looks like that.
    pub(super) source: &'static str,
}

/// Words of which one is there wherever a format is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trigger {
    /// As they are written.
    Exact(&'static [&'static str]),
    /// In capital or small letters.
    AnyCase(&'static [&'static str]),
}

/// What a match must be beside its pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing.
    Any,
    /// It has letters and digits: no name made of words.
    Mixed,
    /// It is no word of a sentence, as in `Basic authentication failed`.
    NoWord,
    /// It is a value: not a constant of JSON, not a variable's name, not punctuation.
    Value,
    /// It has a password, or is long enough to be a token.
    Userinfo,
}

/// Words that name a secret, at the end of a key.
macro_rules! keys {
    () => {
        r"(?:pass(?:word|wd|phrase|code)|secret(?:[_-]?(?:access)?[_-]?key)?|token|(?:api|access|private|account|auth|shared|signing|encryption|license|service|master)[_-]?(?:access[_-]?)?key|x-(?:amz|goog)-signature|bearer)[0-9]?"
    };
}

/// What each of these has in it.
const KEYS: &[&str] = &[
    "passw",
    "passp",
    "passc",
    "secret",
    "token",
    "-signature",
    "bearer",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "privatekey",
    "private_key",
    "private-key",
    "accountkey",
    "account_key",
    "account-key",
    "authkey",
    "auth_key",
    "auth-key",
    "sharedkey",
    "shared_key",
    "shared-key",
    "signingkey",
    "signing_key",
    "signing-key",
    "encryptionkey",
    "encryption_key",
    "encryption-key",
    "licensekey",
    "license_key",
    "license-key",
    "servicekey",
    "service_key",
    "service-key",
    "masterkey",
    "master_key",
    "master-key",
];

/// What is assigned: within escaped quotes, double or single quotes, or up to the next separator. Ends with
/// the text where that was cut.
macro_rules! value {
    () => {
        r#"(?:\\+"([^"\\]+)|"((?:[^"\\]|\\.)+)|'([^']+)|([^\s"'&,;<>\\]+))"#
    };
}

/// `$name`: from here on each is one format.
const fn format(
    name: &'static str,
    trigger: Trigger,
    pattern: &'static str,
    check: Check,
    source: &'static str,
) -> Format {
    Format {
        name,
        trigger,
        pattern,
        check,
        source,
    }
}

/// Every format, all of them on.
pub(super) const FORMATS: &[Format] = &[
    // === whole blocks ===
    format(
        "pem",
        Trigger::Exact(&["-----BEGIN "]),
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z)",
        Check::Any,
        "RFC 7468 sections 10 and 11, OpenSSH PROTOCOL.key, RFC 9580 section 6.2.1",
    ),
    format(
        "age",
        Trigger::AnyCase(&["AGE-SECRET-KEY-1"]),
        r"(?i)AGE-SECRET-KEY-1[a-z0-9]{20,}",
        Check::Any,
        "age, file format v1",
    ),
    // === with a prefix of their own ===
    format(
        "anthropic",
        Trigger::AnyCase(&["sk-ant-"]),
        r"(?i)\bsk-ant-[a-z0-9_-]{16,}",
        Check::Any,
        "Anthropic, API keys",
    ),
    format(
        "openai",
        Trigger::AnyCase(&["sk-", "sess-"]),
        r"(?i)\b(?:sk-(?:proj-|svcacct-|admin-|None-|or-v1-)?|sess-)[a-z0-9_-]{20,}",
        Check::Mixed,
        "OpenAI, API keys and session keys; OpenRouter's",
    ),
    format(
        "chatgpt",
        Trigger::Exact(&["rt_", "rt.", "v1.M"]),
        r"\b(?:rt_[A-Za-z0-9_.-]{20,}|rt\.[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]{20,}|v1\.M[A-Za-z0-9_-]{30,})",
        Check::Mixed,
        "ChatGPT's sign-in, refresh tokens",
    ),
    format(
        "github",
        Trigger::AnyCase(&["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"]),
        r"(?i)(?:gh[pousr]_[a-z0-9]{20,}|github_pat_[a-z0-9_]{20,})",
        Check::Any,
        "GitHub, token formats",
    ),
    format(
        "gitlab",
        Trigger::AnyCase(&[
            "glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glsoat-", "glagent-",
            "gloas-", "glimt-",
        ]),
        r"(?i)\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|oas|imt)-[a-z0-9_.-]{16,}",
        Check::Any,
        "GitLab, token prefixes",
    ),
    format(
        "aws-id",
        Trigger::Exact(&["AKIA", "ASIA", "ABIA", "ACCA"]),
        r"\bA(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}\b",
        Check::Mixed,
        "AWS IAM, unique identifiers",
    ),
    format(
        "aws",
        Trigger::AnyCase(&["aws"]),
        r#"(?i)aws[a-z0-9_.-]{0,30}["'\\]{0,4}\s{0,4}(?:=>|[:=])\s{0,4}["'\\]{0,4}([a-z0-9/+]{40})(?:[^a-z0-9/+=]|\z)"#,
        Check::Mixed,
        "AWS IAM, secret access keys beside a name with `aws`",
    ),
    format(
        "google",
        Trigger::Exact(&["AIza", "ya29.", "GOCSPX-", "1//0"]),
        r"(?:\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{16,}|\bGOCSPX-[A-Za-z0-9_-]{20,}|\b1//0[A-Za-z0-9_-]{30,})",
        Check::Any,
        "Google Cloud, API keys and OAuth 2.0 tokens",
    ),
    format(
        "slack",
        Trigger::AnyCase(&["xox", "xapp-"]),
        r"(?i)\b(?:xox[a-z](?:\.xox[a-z])?-|xapp-)[a-z0-9-]{10,}",
        Check::Any,
        "Slack, token types",
    ),
    format(
        "slack-hook",
        Trigger::Exact(&["hooks.slack.com", "/services/T"]),
        r"(?:hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9/_-]{10,})|/services/(T[A-Z0-9]{5,}/B[A-Z0-9]{5,}/[A-Za-z0-9]{12,}))",
        Check::Any,
        "Slack, incoming webhooks",
    ),
    format(
        "discord-hook",
        Trigger::Exact(&["/api/webhooks/"]),
        r"/api/webhooks/[0-9]{10,}/([A-Za-z0-9_-]{30,})",
        Check::Any,
        "Discord, webhooks",
    ),
    format(
        "telegram",
        Trigger::Exact(&[":AA"]),
        r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}",
        Check::Any,
        "Telegram, bot API",
    ),
    format(
        "stripe",
        Trigger::AnyCase(&["sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"]),
        r"(?i)(?:\b[sr]k_(?:live|test)_[a-z0-9]{10,}|\bwhsec_[a-z0-9]{16,})",
        Check::Any,
        "Stripe, API keys",
    ),
    format(
        "npm",
        Trigger::AnyCase(&["npm_"]),
        r"(?i)\bnpm_[a-z0-9]{36}",
        Check::Any,
        "npm, access tokens",
    ),
    format(
        "pypi",
        Trigger::AnyCase(&["pypi-Ag"]),
        r"(?i)\bpypi-Ag[a-z0-9_-]{20,}",
        Check::Any,
        "PyPI, API tokens (macaroons)",
    ),
    format(
        "crates",
        Trigger::Exact(&["cio"]),
        r"\bcio[A-Za-z0-9]{32}\b",
        Check::Mixed,
        "crates, API tokens",
    ),
    format(
        "docker",
        Trigger::AnyCase(&["dckr_"]),
        r"(?i)\bdckr_(?:pat|oat)_[a-z0-9_-]{20,}",
        Check::Any,
        "Docker Hub, personal and organisation tokens",
    ),
    format(
        "huggingface",
        Trigger::Exact(&["hf_", "api_org_"]),
        r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}",
        Check::Any,
        "Hugging Face, user and organisation tokens",
    ),
    format(
        "sendgrid",
        Trigger::Exact(&["SG."]),
        r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
        Check::Any,
        "SendGrid, API keys",
    ),
    format(
        "twilio",
        Trigger::Exact(&[
            "SK0", "SK1", "SK2", "SK3", "SK4", "SK5", "SK6", "SK7", "SK8", "SK9", "SKa", "SKb",
            "SKc", "SKd", "SKe", "SKf",
        ]),
        r"\bSK[0-9a-f]{32}\b",
        Check::Any,
        "Twilio, API keys",
    ),
    format(
        "vault",
        Trigger::Exact(&["hvs.", "hvb.", "hvr."]),
        r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",
        Check::Any,
        "HashiCorp Vault, token prefixes",
    ),
    format(
        "digitalocean",
        Trigger::Exact(&["doo_v1_", "dop_v1_", "dor_v1_"]),
        r"\bdo[opr]_v1_[a-f0-9]{40,}",
        Check::Any,
        "DigitalOcean, token formats",
    ),
    format(
        "vendor",
        Trigger::AnyCase(&[
            "gsk_",
            "xai-",
            "pplx-",
            "r8_",
            "lin_api_",
            "PMAK-",
            "dapi",
            "shpat_",
            "shpca_",
            "shppa_",
            "shpss_",
            "sq0atp-",
            "sq0csp-",
            "ATATT3",
            "glsa_",
            "glc_",
            "sntrys_",
            "sntryu_",
            "key-",
            ".atlasv1.",
        ]),
        r"(?i)\b(?:gsk_[a-z0-9]{30,}|xai-[a-z0-9]{40,}|pplx-[a-z0-9]{30,}|r8_[a-z0-9]{30,}|lin_api_[a-z0-9]{30,}|PMAK-[a-f0-9]{20,}-[a-f0-9]{20,}|dapi[a-f0-9]{32}\b|shp(?:at|ca|pa|ss)_[a-f0-9]{32}|sq0(?:atp|csp)-[a-z0-9_-]{22,}|ATATT3[a-z0-9_=-]{20,}|gl(?:sa|c)_[a-z0-9+/=_]{30,}|sntry[su]_[a-z0-9+/=_]{30,}|key-[0-9a-f]{32}\b|[a-z0-9]{14}\.atlasv1\.[a-z0-9_=-]{40,})",
        Check::Mixed,
        "Groq, xAI, Perplexity, Replicate, Linear, Postman, Databricks, Shopify, Square, Atlassian, Grafana, Sentry, Mailgun, Terraform",
    ),
    format(
        "azure",
        Trigger::AnyCase(&["AccountKey", "SharedAccess", "sig="]),
        r"(?i)(?:(?:AccountKey|SharedAccessKey)=([a-z0-9+/]{20,}={0,2})|[?&;]sig=([a-z0-9%+/=_-]{16,}))",
        Check::Any,
        "Azure Storage, connection strings and shared access signatures",
    ),
    format(
        "jwt",
        Trigger::Exact(&["eyJ"]),
        r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,3})",
        Check::Any,
        "RFC 7519, RFC 7516 (a header of JSON in base64url)",
    ),
    // === by where they stand ===
    format(
        "userinfo",
        Trigger::Exact(&["://"]),
        r#"://([^/?#\s@"'<>\\]+)@"#,
        Check::Userinfo,
        "RFC 3986 section 3.2.1",
    ),
    format(
        "login",
        Trigger::AnyCase(&["-u"]),
        r#"(?i)(?:^|\s)(?:-u|--user|--proxy-user)(?:\s+|=)["']?([^\s"':/]+:[^\s"']+)"#,
        Check::Any,
        "curl(1), -u and --proxy-user",
    ),
    format(
        "authorization",
        Trigger::AnyCase(&["authorization"]),
        r#"(?i)authorization\\*["']?\]?\s{0,4}[:=]\s{0,4}(?:\\*["'])?(?:[a-z][a-z0-9-]{1,20}[ \t]+)?([^\s"'\\,;]+(?:,[ \t]*[a-z]+="?[^\s"',]+)*)"#,
        Check::Value,
        "RFC 9110 section 11.6.2",
    ),
    format(
        "scheme",
        Trigger::AnyCase(&["bearer", "basic"]),
        r"(?i)\b(?:bearer|basic)(?:[ \t]+|%20|\+)([a-z0-9._~+/=-]{6,})",
        Check::NoWord,
        "RFC 6750 section 2.1, RFC 7617 section 2",
    ),
    format(
        "cookie",
        Trigger::AnyCase(&["cookie"]),
        r#"(?i)\b(?:set-)?cookie2?\\*["']?\s{0,4}:\s{0,4}(?:\\*["'])?([^\r\n"'\\]+)"#,
        Check::Value,
        "RFC 6265 section 4",
    ),
    format(
        "form-part",
        Trigger::AnyCase(&[r#"name=""#, r"name=\"]),
        concat!(
            r#"(?i)name=\\*"[a-z0-9_.\[\]-]{0,60}"#,
            keys!(),
            r#"\]?\\*"[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]+)"#
        ),
        Check::Value,
        "RFC 7578",
    ),
    format(
        "flag",
        Trigger::AnyCase(&["pass", "secret", "token", "key", "-signature", "bearer"]),
        concat!(r"(?i)(?:^|\s)--?[a-z0-9-]{0,40}", keys!(), r"\s+", value!()),
        Check::Value,
        "the habits of command lines",
    ),
    format(
        "pwd",
        Trigger::AnyCase(&["pwd"]),
        r#"(?i)[;&?"',{]pwd\\*["']?\s{0,4}[:=]\s{0,4}\\*["']?([^\s"'&,;<>\\]+)"#,
        Check::Value,
        "connection strings (ODBC)",
    ),
    format(
        "assigned",
        Trigger::AnyCase(KEYS),
        concat!(
            "(?i)",
            keys!(),
            r#"\]?(?:["'\\]{0,4})\]?\s{0,4}(?:=>|:=|[:=]|%3D)\s{0,4}"#,
            value!()
        ),
        Check::Value,
        "JSON, forms, shells, headers, configuration files",
    ),
];
