//! Names for programs that know no proxy: a name server for the jail that looks nothing up.
//!
//! Owns: the sockets on the jail's 127.0.0.1:53 and the addresses that stand for names within the session.
//! Trusts: nothing that is asked. Never: asks another name server, so no question of the jail's gets out and
//! none can carry anything out; answers before the record is acknowledged; gives an address to two names.
//!
//! A name that the policy may allow gets an address of [`names`], whether it exists or not; a connection to
//! that address is a request for the name, and only when that is permitted is the name looked up
//! ([`super::resolve`]). Anything else is REFUSED.
//!
//! Reading order: [`names`] → [`message`] (bytes ↔ one question) → [`answer`] here → [`udp`], [`tcp`] within
//! [`pace`].

pub(super) mod message;
mod names;
mod pace;
mod tcp;
mod udp;

pub(super) use names::Names;
pub(super) use pace::Pace;
pub(super) use tcp::serve as serve_tcp;
pub(super) use udp::serve as serve_udp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::audit::{AuditEvent, DnsAnswer};
use crate::policy::Host;

use super::state::Gate;
use super::witness::Inquiry;
use message::{Asked, Family, Question, Reply};

/// Questions that are answered at once, over UDP, and connections over TCP. Must exceed what a program that
/// looks up many names side by side sends in one go.
const AT_ONCE: usize = 256;

/// Records what was asked and what the answer is, and when that is acknowledged gives the answer to send.
async fn answer(gate: &Gate, bytes: &[u8], inquiry: &Inquiry) -> Option<Vec<u8>> {
    let asked = message::read(bytes);
    let (name, kind, answer, reply) = match &asked {
        Asked::Address(question, family) => {
            let (answer, reply) = address(gate, question, *family);
            (question.name(), question.kind(), answer, Some(reply))
        }
        Asked::Other(question) => {
            let reply = Reply::Refused;
            (
                question.name(),
                question.kind(),
                DnsAnswer::Refused,
                Some(reply),
            )
        }
        Asked::Malformed(_) => {
            let answer = DnsAnswer::Malformed;
            (String::new(), String::new(), answer, Some(Reply::Malformed))
        }
        Asked::Nothing => (String::new(), String::new(), DnsAnswer::Nothing, None),
    };
    let (process, process_unknown) = inquiry.answer().await.fields(&gate.keyring);
    let record = AuditEvent::DnsAsked {
        name,
        kind,
        answer,
        process,
        process_unknown,
    };
    gate.reporter.record(record).await.ok()?;
    message::write(&asked, reply?)
}

/// What a question for an address of a name is answered.
fn address(gate: &Gate, question: &Question, family: Family) -> (DnsAnswer, Reply) {
    let refused = (DnsAnswer::Refused, Reply::Refused);
    let Ok(host) = Host::parse(&question.name()) else {
        return refused;
    };
    let Host::Name(name) = &host else {
        return refused;
    };
    let v6 = match family {
        Family::V4 => false,
        Family::V6 if gate.names.has_ipv6() => true,
        Family::V6 => {
            let known = name.as_str() == "localhost" || gate.rules().may_allow(&host);
            return if known {
                (DnsAnswer::NoAddress, Reply::NoAddress)
            } else {
                refused
            };
        }
    };
    // RFC 6761 section 6.3: never anybody's but the asking machine's.
    if name.as_str() == "localhost" {
        let own = if v6 {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        };
        return (DnsAnswer::Address, Reply::Address(own));
    }
    if !gate.rules().may_allow(&host) {
        return refused;
    }
    match gate.names.address_of(name, v6) {
        Some(address) => (DnsAnswer::Address, Reply::Address(address)),
        None => (DnsAnswer::Full, Reply::Full),
    }
}
