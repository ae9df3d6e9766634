//! The gate: a session's only way out.
//!
//! Owns: the listening sockets of one session, every socket that leaves for it, and the order
//! *decide, record, resolve, dial, relay*. Trusts: the policy its session process sent, the answers
//! of the audit writer, the kernel; never a byte from the jail, a name server or an origin. Never:
//! executes a program, opens a file, asks DNS or dials before a decision is recorded.
//!
//! One connection walks: [`listen`] (slot, number) → [`http`] behind [`head`], [`socks5`] ([`socks5_udp`] for
//! datagrams) or [`transparent`] → one `EgressRequest` → [`authorize`] (the choke point: decide, record, wait)
//! → a `Permit` → [`dial`], which has [`resolve`] pin the addresses, or [`via`] ask an upstream proxy →
//! [`upstream`] for a request (through [`origin_tls`] for one that came out of TLS; [`upgrade`] relays what
//! became a WebSocket), [`tunnel`] for a tunnel:
//! [`screen`] holds the client's first bytes against [`client_hello`], [`relay`] moves the rest. A tunnel
//! whose TLS the policy has looked into goes to [`mitm`] instead, undialed, and each request in it, plain
//! HTTP included, walks from [`authorize`] on by itself. [`half_close`] tells who has only stopped talking. [`dns`] answers the jail's questions for names, without asking anybody.
//! [`keyring`] puts credentials into what leaves; [`lookout`] and [`watched`] look out for them on the way.
//! [`leg`] is the way out itself. [`budget`] bounds how much that may be, [`counters`] shows how much it is,
//! [`room`] how much of it may be in memory.
//! [`exchanged`] is what is told of a request in the end, [`bodies`] what is kept of it.
//! Whatever is refused is told by [`respond`] and recorded through [`report`]. Meanwhile [`control`] does
//! what the session commands: a [`live`] policy, answers to [`questions`]. [`open`] knows what is permitted
//! at the moment, so that it can be taken back. [`witness`] is asked which process made a connection. [`memory`] is what another gate finds that takes this one's place,
//! [`supply`] where another audit writer comes from.
//!
//! Reading order: [`start`] → [`confine`] → [`listen`] → [`authorize`] → [`dial`] → the rest.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

mod authority;
mod authorize;
mod bodies;
mod body;
mod budget;
mod client_hello;
mod confine;
mod control;
mod counters;
mod dial;
mod dns;
mod dns_over_https;
mod exchanged;
#[cfg(fuzzing)]
pub mod fuzz;
mod half_close;
mod head;
mod head_grammar;
mod hop;
mod http;
mod http_request;
mod keyring;
mod leg;
mod listen;
mod live;
mod lookout;
mod memory;
mod mitm;
mod open;
mod origin_tls;
mod placeholder;
mod question_life;
mod questions;
mod relay;
mod report;
mod resolve;
mod respond;
mod room;
mod screen;
mod sockets;
mod socks5;
mod socks5_datagram;
mod socks5_udp;
mod socks5_wire;
mod splice;
mod start;
mod state;
mod summary;
mod supply;
mod tally;
mod terms;
mod transparent;
mod tunnel;
mod upgrade;
mod upload;
mod upstream;
mod via;
mod watched;
mod websocket;
mod witness;

pub use start::main;
