//! HTTP CONNECT towards a proxy (RFC 9110 section 9.3.6), read strictly and to the byte.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::gate::head_grammar::is_token_byte;
use crate::gate::leg::Leg;
use crate::policy::upstream::authority;
use crate::wire::gate::ProxyAccess;

use super::absolute::login;
use super::{ProxyError, Target};

/// The longest head of an answer.
const MAX_HEAD: usize = 8 << 10;

/// What ends a head.
const END: &[u8] = b"\r\n\r\n";

/// Asks and reads the answer.
pub(super) async fn ask(
    stream: &mut Leg,
    proxy: &ProxyAccess,
    target: &Target,
) -> Result<(), ProxyError> {
    stream.write_all(request(proxy, target).as_bytes()).await?;
    stream.flush().await?;
    let head = read_head(stream).await?;
    match read_status(&head).map_err(ProxyError::Malformed)? {
        200..=299 => Ok(()),
        status => Err(ProxyError::Status { status }),
    }
}

fn request(proxy: &ProxyAccess, target: &Target) -> Zeroizing<String> {
    let to = authority(&target.host, target.port);
    let mut request = Zeroizing::new(String::with_capacity(1024));
    for part in ["CONNECT ", &to, " HTTP/1.1\r\nHost: ", &to, "\r\n"] {
        request.push_str(part);
    }
    if let Some(login) = login(proxy) {
        for part in ["Proxy-Authorization: ", &login, "\r\n"] {
            request.push_str(part);
        }
    }
    request.push_str("\r\n");
    request
}

/// Reads a head and not a byte more: what follows belongs to the tunnel. Bytes are looked at before
/// they are taken; out of TLS, which holds what it has decrypted, they are taken one by one.
async fn read_head(stream: &mut Leg) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::new();
    let mut ahead = [0; 1024];
    while !head.ends_with(END) {
        if head.len() >= MAX_HEAD {
            return Err(ProxyError::Malformed("its head is longer than 8 KiB"));
        }
        let take = match stream {
            Leg::Tcp(stream) => {
                let seen = stream.peek(&mut ahead).await?;
                if seen == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                until_end(&head, ahead.get(..seen).unwrap_or_default())
            }
            Leg::Tls(_) => 1,
        };
        let from = head.len();
        head.resize(from + take, 0);
        stream
            .read_exact(head.get_mut(from..).unwrap_or_default())
            .await?;
        if head.first() != Some(&b'H') {
            return Err(ProxyError::Malformed("it does not begin as HTTP does"));
        }
    }
    Ok(head)
}

/// How many of the bytes ahead belong to the head; its end may have begun in what was read.
fn until_end(read: &[u8], ahead: &[u8]) -> usize {
    let last = read.get(read.len().saturating_sub(END.len() - 1)..);
    let last = last.unwrap_or_default();
    let joined = [last, ahead].concat();
    let end = joined.windows(END.len()).position(|bytes| bytes == END);
    end.map_or(ahead.len(), |at| at + END.len() - last.len())
}

/// The status of a whole head, whose fields need only be fields.
fn read_status(head: &[u8]) -> Result<u16, &'static str> {
    let head = head.strip_suffix(END).unwrap_or(head);
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut next = || {
        let line = lines.next()?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    let line = next().unwrap_or_default();
    let status = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))
        .ok_or("its status line is not HTTP/1.0's or HTTP/1.1's")?;
    let (status, reason) = status.split_at_checked(3).ok_or("it has no status")?;
    if !(reason.is_empty() || reason.starts_with(b" ")) || has_control(reason) {
        return Err("its status line is not HTTP/1.0's or HTTP/1.1's");
    }
    while let Some(line) = next() {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let named = !name.is_empty() && name.iter().copied().all(is_token_byte);
        if !named || name.len() == line.len() || has_control(line) {
            return Err("a line of its head is no field");
        }
    }
    let digits = status.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(status)
        .ok()
        .filter(|_| digits)
        .and_then(|digits| digits.parse().ok())
        .filter(|status| (100..600).contains(status))
        .ok_or("it has no status")
}

fn has_control(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Host, Port, ProxyUrl, ResolveNames};
    use proptest::prelude::*;

    fn asked(url: &str, host: &str) -> String {
        let mut url = ProxyUrl::parse(url).unwrap();
        let proxy = ProxyAccess {
            password: url.password.take(),
            url,
            resolve: ResolveNames::Proxy,
        };
        let target = Target {
            host: Host::parse(host).unwrap(),
            port: Port::HTTPS,
        };
        request(&proxy, &target).to_string()
    }

    #[test]
    fn a_request_names_the_target_and_carries_a_login_only_if_there_is_one() {
        assert_eq!(
            asked("http://p:1", "a.test"),
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"
        );
        assert_eq!(
            asked("http://Aladdin:open%20sesame@p:1", "2001:db8::1"),
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
             Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        );
    }

    #[test]
    fn a_status_is_read_from_a_head_that_is_one_and_from_nothing_else() {
        for (head, status) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Ok(200)),
            ("HTTP/1.0 200\r\nVia: 1.0 p\r\nX:\r\n\r\n", Ok(200)),
            (
                "HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\n\r\n",
                Ok(407),
            ),
            ("HTTP/2 200 OK\r\n\r\n", Err(())),
            ("HTTP/1.1 20\r\n\r\n", Err(())),
            ("HTTP/1.1 2000\r\n\r\n", Err(())),
            ("HTTP/1.1 +20 OK\r\n\r\n", Err(())),
            ("HTTP/1.1 200 a\rb\r\n\r\n", Err(())),
            ("HTTP/1.1 200 OK\r\nno field\r\n\r\n", Err(())),
            ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", Err(())),
            ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", Err(())),
        ] {
            let read = read_status(head.as_bytes());
            assert_eq!(read.map_err(|_| ()), status, "{head:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\n\r\n\r\n\r\nmore";
        for cut in 0..19 {
            let (read, ahead) = whole.split_at(cut);
            assert_eq!(cut + until_end(read, ahead), 19, "{cut}");
        }
        assert_eq!(until_end(b"HTTP", b"/1.1"), 4);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_status(&bytes).is_err() || bytes.starts_with(b"HTTP/1."));
            prop_assert!(until_end(&bytes, &bytes) <= bytes.len());
        }
    }
}
