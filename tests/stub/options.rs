//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// A scripted stand-in for the Responses API on loopback.
#[derive(Debug, clap::Parser)]
#[command(name = "responses-stub")]
pub(crate) struct Options {
    /// Folder for ca.pem, ready.json, requests.jsonl and dns.log.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Host name to serve and to resolve; may be given several times.
    #[arg(long, default_value = "api.stub.test")]
    pub(crate) name: Vec<String>,
    /// JSON list of steps: {"run": "…"}, {"patch": "…"}, {"say": "…"}. Default: the demo's task.
    #[arg(long)]
    pub(crate) script: Option<PathBuf>,
    /// The Authorization header that requests should have; each is noted to have it or not.
    #[arg(long, default_value = "")]
    pub(crate) authorization: String,
    /// Answer 401 to every request that has another Authorization header.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where the API listens, and what the name server answers. Anything but loopback needs a network
    /// namespace whose loopback interface has the address.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    pub(crate) address: Ipv4Addr,
    /// Port of the API; 0: any.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Port of the name server on 127.0.0.1; 0: any.
    #[arg(long, default_value_t = 0)]
    pub(crate) dns_port: u16,
}
