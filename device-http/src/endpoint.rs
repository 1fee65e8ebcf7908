//! What may be an endpoint of a device. No I/O.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use reqwest::Url;

/// The longest endpoint, in bytes.
pub const MAX_ENDPOINT_BYTES: usize = 2_048;

/// The endpoint of a device: an `http` or `https` URL, or `host`, `host:port` or `host:port/path`, where `http://` is
/// assumed. A list of devices holds only the first and the third of these forms, see [`check_listed`].
///
/// It is shown, `Debug` included, as it was written, but without `user:password@` and without what follows `?` or `#`,
/// since that is often a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    text: String,
    url: Url,
}

impl Endpoint {
    /// Where the device is read, secrets included.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        Ok(Self {
            url: parse(text)?,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.text))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Why a text is no endpoint, to be read after what names the text. The text is not in it: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointError {
    /// Nothing is there.
    Empty,
    /// It has more than [`MAX_ENDPOINT_BYTES`].
    TooLong,
    /// A character that would break a log line or an environment variable.
    ControlCharacter,
    /// A character that no URL has, or one that nobody sees.
    ForeignCharacter,
    /// A URL, but not of HTTP.
    Scheme,
    /// In a list: neither a URL nor `host:port`.
    Form,
    /// No host, or one that is neither a name nor an address.
    Host,
    /// The port is not a number from 1 to 65535.
    Port,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::TooLong => "is longer than 2048 bytes",
            Self::ControlCharacter => "has a control character",
            Self::ForeignCharacter => "has a blank or another character that no URL has",
            Self::Scheme => "has a scheme that is not http or https",
            Self::Form => "is neither a URL nor host:port",
            Self::Host => "has no valid host",
            Self::Port => "has a port that is not a number from 1 to 65535",
        })
    }
}

impl std::error::Error for EndpointError {}

/// Checks one entry of a list of devices: a URL, or `host:port` as in the walkthrough. Whatever it takes is an [`Endpoint`].
///
/// # Errors
/// See [`EndpointError`].
pub fn check_listed(text: &str) -> Result<(), EndpointError> {
    if is_plain(text) {
        return Ok(());
    }
    let is_url = split_scheme(text).is_some();
    let host_and_port = !text.contains(['/', '?', '#', '@']) && split_port(text).1.is_some();
    match parse(text) {
        Ok(_) if is_url || host_and_port => Ok(()),
        Err(error @ (EndpointError::ControlCharacter | EndpointError::TooLong)) => Err(error),
        Err(error) if is_url => Err(error),
        // A word of an error page is not an endpoint with a fault; it is no endpoint.
        _ => Err(EndpointError::Form),
    }
}

/// Most entries are like this and need no closer look: `http://`, a name or an IPv4 address, a port, a path of letters.
fn is_plain(text: &str) -> bool {
    let Some(rest) = (text.strip_prefix("http://")).or_else(|| text.strip_prefix("https://"))
    else {
        return false;
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'-' | b'_');
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    text.len() <= MAX_ENDPOINT_BYTES
        && path.bytes().all(plain)
        && port.is_none_or(|port| check_port(port).is_ok())
        && is_plain_host(host)
}

fn is_plain_host(host: &str) -> bool {
    if host.starts_with(|c: char| c.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    last.starts_with(|c: char| c.is_ascii_alphabetic())
        && are_labels(host)
        // What these hold has to be decoded.
        && !host.split('.').any(|label| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--")))
}

/// The whole grammar.
fn parse(text: &str) -> Result<Url, EndpointError> {
    if text.is_empty() {
        return Err(EndpointError::Empty);
    }
    if text.len() > MAX_ENDPOINT_BYTES {
        return Err(EndpointError::TooLong);
    }
    check_characters(text)?;
    let (scheme, rest) = split_scheme(text).unwrap_or(("http", text));
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(EndpointError::Scheme);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = (authority.rsplit_once('@')).map_or(authority, |(_, host)| host);
    let (host, port) = split_port(host_and_port);
    port.map_or(Ok(()), check_port)?;
    let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| EndpointError::Host)?;
    check_host(host, url.host_str().unwrap_or_default())?;
    Ok(url)
}

/// What no URL contains (RFC 3986), what a URL parser would drop silently, and what would break a log line.
fn check_characters(text: &str) -> Result<(), EndpointError> {
    if text.contains(char::is_control) {
        return Err(EndpointError::ControlCharacter);
    }
    let foreign = |c: char| matches!(c, '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}');
    // What is not seen, or turns the direction of what follows.
    let hidden = |c: char| matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    match text.contains(|c: char| c.is_whitespace() || foreign(c) || hidden(c)) {
        true => Err(EndpointError::ForeignCharacter),
        false => Ok(()),
    }
}

/// `https` and `host/path` of `https://host/path`; nothing of `host:80/go?to=http://other`.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.bytes().all(allowed).then_some((scheme, rest))
}

/// Parts `host:port`, `[v6]:port`, `host` and `[v6]`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn check_port(port: &str) -> Result<(), EndpointError> {
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(EndpointError::Port),
    }
}

/// `written` is the host as it stands in the text, `parsed` as the URL parser understood it. Where it took a name or a
/// number for another host than the one that is written, as `0x7f.1` for 127.0.0.1, others may not, and it is refused.
fn check_host(written: &str, parsed: &str) -> Result<(), EndpointError> {
    if let Some(v6) = written.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6
            .parse::<Ipv6Addr>()
            .map(drop)
            .map_err(|_| EndpointError::Host);
    }
    let as_written = match written.is_ascii() {
        true => written.eq_ignore_ascii_case(parsed),
        // The parser's is the name that is looked up.
        false => parsed.parse::<Ipv4Addr>().is_err(),
    };
    match as_written && are_labels(parsed) {
        true => Ok(()),
        false => Err(EndpointError::Host),
    }
}

/// Whether a name can be looked up (RFC 1035, with the underscores that people use).
fn are_labels(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && (label.bytes()).all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// An endpoint, safe to log: without user name, password, query and fragment.
pub fn shown(endpoint: &str) -> String {
    let shown = endpoint.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = match shown.find("://") {
        Some(at) if split_scheme(shown).is_some() => shown.split_at(at + 3),
        _ => ("", shown),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = (authority.rsplit_once('@')).map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{path}")
}

/// How a text begins that is no endpoint, safe to log; nothing where it may begin with a secret. What follows a colon or
/// a question mark may be a password or a token, and whether there is an `@` may be just what is wrong with it.
pub fn excerpt(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text
        .get(start..)
        .and_then(|rest| rest.find([':', '?', '#', '@']))
        .map_or(text.len(), |at| start + at);
    if text.contains('@') || end == 0 {
        return None;
    }
    let begin: String = text.get(..end)?.chars().take(40).collect();
    let dots = if begin.len() < text.len() { "..." } else { "" };
    Some(format!("{}{dots}", begin.escape_debug()))
}

#[cfg(test)]
mod tests;
