//! Single values of a profile: each text has one meaning or is refused with the accepted forms.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use ipnet::IpNet;

use super::error::ProfileError;
use super::read::Source;
use crate::policy::host::shown;

/// A number in its range.
pub(super) fn within<T: PartialOrd + Display + Copy>(
    source: Source<'_>,
    key: &str,
    found: T,
    range: RangeInclusive<T>,
) -> Result<T, ProfileError> {
    if range.contains(&found) {
        return Ok(found);
    }
    let (first, last) = range.into_inner();
    Err(source.wrong(
        key,
        format!("{found} is not a number from {first} to {last}"),
    ))
}

/// One line of text for people.
pub(super) fn line(source: Source<'_>, key: &str, text: String) -> Result<String, ProfileError> {
    if text.chars().any(char::is_control) {
        return Err(source.wrong(key, "has a line break or control character; write one line"));
    }
    Ok(text)
}

/// A path of `[filesystem]`, by the list it stands in.
pub(super) fn path(key: &str, path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let shown = shown(&path.to_string_lossy());
    if bytes.is_empty() || bytes.iter().any(u8::is_ascii_control) {
        return Err(format!(
            "{shown} is no path; accepted are \"/abs/path\", \"~/below/home\" and \"below/workspace\""
        ));
    }
    if bytes.starts_with(b"~") && !(bytes == b"~" || bytes.starts_with(b"~/")) {
        return Err(format!(
            "{shown}: only \"~/\", the caller's own home, is known"
        ));
    }
    let mut components = path.components();
    match key {
        "filesystem.writable" if path == Path::new("/") => Err(
            "\"/\" would make everything writable; say that with mode = \"danger-full-access\""
                .to_owned(),
        ),
        "filesystem.protected"
            if bytes.starts_with(b"~")
                || !components.all(|c| matches!(c, Component::Normal(_))) =>
        {
            Err(format!(
                "{shown} is not relative to a writable root; write it as \".git/hooks\", without \"..\""
            ))
        }
        _ => Ok(()),
    }
}

/// A file of certificates on the host. Never relative to the workspace, which a session can write.
pub(super) fn authorities(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = !text.bytes().any(|b| b.is_ascii_control());
    let rooted = path.is_absolute() || text.starts_with("~/");
    if plain && rooted && path.file_name().is_some() {
        return Ok(path);
    }
    Err(format!(
        "{} is no file of certificates; accepted are \"/abs/ca.pem\" and \"~/below/home/ca.pem\"",
        shown(text)
    ))
}

/// A range of addresses, or one address.
pub(super) fn address_range(
    source: Source<'_>,
    key: &str,
    text: &str,
) -> Result<IpNet, ProfileError> {
    let forms =
        "accepted are \"10.20.0.0/16\", \"fd12:3456::/32\" and single addresses as \"10.20.0.7\"";
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let unreadable = |_| source.wrong(key, format!("{} is no address range; {forms}", shown(text)));
    let net: IpNet = text.parse().map_err(unreadable)?;
    if net.prefix_len() == 0 {
        let problem = format!("{text} is every address; name the networks that are meant; {forms}");
        return Err(source.wrong(key, problem));
    }
    if net != net.trunc() {
        let problem = format!(
            "{text} has bits set after its prefix; write {}",
            net.trunc()
        );
        return Err(source.wrong(key, problem));
    }
    let mapped: IpNet = IpNet::new_assert(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0, 0]), 96);
    if mapped.contains(&net) {
        let problem = format!("{text} is an IPv4 range in IPv6 form; write the IPv4 range");
        return Err(source.wrong(key, problem));
    }
    Ok(net)
}

/// A name server: an address, with port 53 unless another is given.
pub(super) fn name_server(
    source: Source<'_>,
    key: &str,
    text: &str,
) -> Result<SocketAddr, ProfileError> {
    let address = text
        .parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, 53));
    address
        .or_else(|_| text.parse::<SocketAddr>())
        .ok()
        .filter(|address| address.port() != 0)
        .ok_or_else(|| {
            let problem = format!(
                "{} is no name server; accepted are \"192.0.2.53\", \"192.0.2.53:5353\" and \"[2001:db8::53]:53\"",
                shown(text)
            );
            source.wrong(key, problem)
        })
}

/// The name of an environment variable.
pub(in crate::policy) fn variable(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    if bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!(
        "{} is no variable name: ASCII letters, digits and '_', no wildcard; a value belongs in environment.set",
        shown(name)
    ))
}

/// The value of an environment variable.
pub(super) fn variable_text(text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("a value cannot contain NUL".to_owned());
    }
    Ok(())
}
