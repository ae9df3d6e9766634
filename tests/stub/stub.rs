//! A stub of the Responses API, for tests and for the demo without a key: TLS on the loopback interface under a CA
//! of its own, SSE and WebSocket, and the name server that knows the way to it.
//!
//! Owns: what the scripted model says ([`agent`]), and a log of everything that reached it. Trusts:
//! its command line. Never: leaves that interface, writes down a credential.
//!
//! Reading order: [`options`] → [`script`] and [`agent`] (what is said) → [`tls`], [`http`],
//! [`websocket`] (how), [`hold`] (when) → [`dns`] → [`log`] (what was seen).
#![forbid(unsafe_code)]

mod agent;
mod dns;
mod hold;
mod http;
mod log;
mod options;
mod script;
mod tls;
mod websocket;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;

use crate::hold::Hold;
use crate::http::Service;
use crate::log::RequestLog;
use crate::options::Options;
use crate::script::Script;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    fs::create_dir_all(&options.dir)?;
    let script = options
        .script
        .as_deref()
        .map_or_else(|| Ok(Script::demo()), Script::read)?;
    let authority = tls::issue(&options.name)?;
    fs::write(options.dir.join("ca.pem"), &authority.ca_pem)?;
    let api = TcpListener::bind((options.address, options.port)).await?;
    let names = dns::Sockets::bind(options.dns_port).await?;
    // Whoever is told that it is ready looks at what it has seen.
    let log = RequestLog::create(&options.dir.join("requests.jsonl"))?;
    let dns_log = options.dir.join("dns.log");
    fs::write(&dns_log, "")?;
    announce(&options, api.local_addr()?.port(), names.port)?;
    let service = Arc::new(Service {
        script,
        authorization: options.authorization.clone(),
        strict: options.strict,
        hold: Hold::by(options.dir.clone()),
        log,
    });
    tokio::try_join!(
        http::serve(api, authority.acceptor, service),
        names.serve(options.name, options.address, &dns_log),
    )?;
    Ok(())
}

/// Says where it listens, on standard output and in `ready.json` (moved into place when complete).
fn announce(options: &Options, port: u16, dns_port: u16) -> Result<(), Box<dyn Error>> {
    let ready = serde_json::json!({
        "name": options.name,
        "port": port,
        "dns_port": dns_port,
        "ca": options.dir.join("ca.pem"),
    });
    let draft = options.dir.join("ready.json.new");
    fs::write(&draft, ready.to_string())?;
    fs::rename(draft, options.dir.join("ready.json"))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ready}")?;
    out.flush()?;
    Ok(())
}
