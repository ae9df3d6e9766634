//! What a session may do, decided without touching the world.
//!
//! Owns: hosts, addresses, rules, profiles, the one function [`decide`]. Trusts: nothing it parses.
//! Never: reads a file, a clock, the environment or the network (callers hand in text and values).
//!
//! Reading order: [`host`], [`request`] and [`question`] (what is asked) → [`rule`] (one line of policy) →
//! [`ruleset`] (compiled rules) → [`judgement`] ([`decide`]) → [`decision`] (the answer) → [`address`] (what may be
//! dialed; [`reserved_name`] and [`mod@upstream`] where a proxy dials; [`unix_socket`]: the host's own) →
//! [`approval`] (what is answered where it says "ask") → [`profile`] (the TOML form and its valid form) →
//! [`requirements`] (what no profile exceeds) →
//! [`mod@explain`] and [`mod@remedy`] (for people); [`amount`] reads what people write.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod address;
pub mod amount;
pub mod approval;
pub mod credential;
pub mod credential_file;
pub mod decision;
pub mod explain;
pub mod host;
pub mod judgement;
pub mod path;
pub mod profile;
pub mod question;
pub mod remedy;
pub mod request;
pub mod requirements;
pub mod reserved_name;
pub mod rule;
pub mod ruleset;
pub mod unix_socket;
pub mod upstream;

pub use address::{AddressClass, AddressPolicy};
pub use approval::{Answered, QuestionEnd, Scope};
pub use credential::{Bodies, CodexSecret, Credential, CredentialSource, Inject, Template};
pub use decision::{Decision, DenyReason, Handling, Verdict};
pub use explain::{Explanation, explain};
pub use host::{DomainName, Host, HostError};
pub use judgement::decide;
pub use path::PathPattern;
pub use profile::{
    ApprovalsPolicy, AuditPolicy, BodiesPolicy, BodySides, Budget, BudgetAction, BudgetKind,
    BudgetRule, Budgets, CodexPolicy, DnsPolicy, Durability, EnvironmentPolicy, FilesystemMode,
    FilesystemPolicy, IsolationFloor, LimitsFloor, NetworkLimits, NetworkMode, NetworkPolicy,
    OnFailure, Overrides, PolicyTest, Profile, ProfileError, Registry, Resource, ResourceLimits,
    TlsHandling, Unlisted, WebsocketPolicy,
};
pub use question::Question;
pub use remedy::remedy;
pub use request::{EgressRequest, Method, Port, RequestError, Transport, spelled_out};
pub use requirements::{Cut, Requirements};
pub use reserved_name::class_of_name;
pub use rule::{Effect, HostPattern, PatternError, Protocol, Rule, RuleId};
pub use ruleset::Ruleset;
pub use unix_socket::UnixSocket;
pub use upstream::{NoProxy, Password, ProxyScheme, ProxyUrl, ResolveNames, UpstreamPolicy};
