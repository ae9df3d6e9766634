//! SOCKS5 towards a proxy (RFC 1928; a login by RFC 1929), read to the byte.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::gate::leg::Leg;
use crate::policy::{Host, Password};
use crate::wire::gate::ProxyAccess;

use super::{ProxyError, Target};

/// Methods (RFC 1928 section 3).
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;

/// Greets, logs in where the proxy wants it, asks, and reads the answer.
pub(super) async fn ask(
    stream: &mut Leg,
    proxy: &ProxyAccess,
    target: &Target,
) -> Result<(), ProxyError> {
    let greeting: &[u8] = if proxy.url.user.is_some() {
        &[5, 2, NO_LOGIN, LOGIN]
    } else {
        &[5, 1, NO_LOGIN]
    };
    stream.write_all(greeting).await?;
    match (read(stream).await?, &proxy.url.user) {
        ([5, NO_LOGIN], _) => {}
        ([5, LOGIN], Some(user)) => log_in(stream, user, proxy.password.as_ref()).await?,
        ([5, 0xff], Some(_)) => {
            return Err(ProxyError::Login("it takes no login by user and password"));
        }
        ([5, 0xff], None) => {
            return Err(ProxyError::Login(
                "it wants a login: network.upstream_proxy.url and password_file",
            ));
        }
        _ => return Err(ProxyError::Malformed("it is not SOCKS5")),
    }
    stream.write_all(&request(target)).await?;
    read_reply(stream).await
}

/// RFC 1929. The lengths fit: a login is checked when it is read.
async fn log_in(
    stream: &mut Leg,
    user: &str,
    password: Option<&Password>,
) -> Result<(), ProxyError> {
    let password = password.map_or("", Password::expose);
    let mut message = Zeroizing::new(vec![1]);
    for part in [user, password] {
        message.push(u8::try_from(part.len()).map_err(io::Error::other)?);
        message.extend(part.as_bytes());
    }
    stream.write_all(&message).await?;
    match read(stream).await? {
        [_, 0] => Ok(()),
        _ => Err(ProxyError::Login("it does not take this user and password")),
    }
}

/// CONNECT (RFC 1928 section 4).
fn request(target: &Target) -> Vec<u8> {
    let mut message = vec![5, 1, 0];
    match &target.host {
        Host::Addr(IpAddr::V4(address)) => {
            message.push(1);
            message.extend(address.octets());
        }
        Host::Addr(IpAddr::V6(address)) => {
            message.push(4);
            message.extend(address.octets());
        }
        Host::Name(name) => {
            message.push(3);
            // A name has at most 253 bytes.
            message.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX));
            message.extend(name.as_str().as_bytes());
        }
    }
    message.extend(target.port.number().to_be_bytes());
    message
}

/// Section 6. The bound address, which nobody needs, is read because the tunnel begins behind it.
async fn read_reply(stream: &mut Leg) -> Result<(), ProxyError> {
    let [version, reply, _, kind] = read(stream).await?;
    if version != 5 {
        return Err(ProxyError::Malformed("it is not SOCKS5"));
    }
    if reply != 0 {
        return Err(ProxyError::Reply { reply });
    }
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => {
            let [length] = read(stream).await?;
            usize::from(length)
        }
        _ => return Err(ProxyError::Malformed("an unknown address type")),
    };
    let mut bound = vec![0; length + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}

async fn read<const N: usize>(stream: &mut Leg) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// What a reply means (RFC 1928 section 6).
pub(super) fn meaning(reply: u8) -> &'static str {
    match reply {
        2 => "it refuses the destination",
        3 => "it has no route to the destination's network",
        4 => "it cannot reach the destination",
        5 => "the destination refuses",
        6 => "too many hops",
        7 => "it does not do CONNECT",
        8 => "it does not know this type of address",
        _ => "it failed",
    }
}
