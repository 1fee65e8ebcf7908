//! Which lines are endpoints of devices. No I/O.

/// The longest endpoint that is taken for one, in bytes.
pub const MAX_ENDPOINT_BYTES: usize = 2_048;

pub(crate) fn too_long() -> String {
    format!("is longer than {MAX_ENDPOINT_BYTES} bytes")
}

/// The endpoint, safe to log: without user name, password, query string and fragment.
pub fn shown(endpoint: &str) -> String {
    let end = endpoint.find(['?', '#']).unwrap_or(endpoint.len());
    let (endpoint, _) = endpoint.split_at(end);
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => endpoint.to_string(),
    }
}

/// Checks one line of a list: a URL, or `host:port` as in the walkthrough.
///
/// # Errors
/// What is wrong with it, to be read after "line N of the list".
pub fn check(line: &str) -> Result<(), String> {
    if line.len() > MAX_ENDPOINT_BYTES {
        return Err(too_long());
    }
    // Nearly every line is of these alone, and need not be looked at character by character.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'/' | b'-' | b'_');
    if !line.bytes().all(plain) {
        check_characters(line)?;
    }
    let Some((scheme, rest)) = line.split_once("://") else {
        let (host, port) = split_port(line);
        return match (check_host(host), port.map(check_port)) {
            (Ok(()), Some(Ok(()))) => Ok(()),
            _ => Err("is neither a URL nor host:port".into()),
        };
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err("is a URL of another kind than http:// or https://".into());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = (authority.rsplit_once('@')).map_or(authority, |(_, host)| host);
    let (host, port) = split_port(host_and_port);
    check_host(host)?;
    port.map_or(Ok(()), check_port)
}

/// What no URL contains (RFC 3986), and what would break a log line or an environment variable.
fn check_characters(line: &str) -> Result<(), String> {
    let foreign = |c: char| matches!(c, '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}');
    if line.contains(char::is_control) {
        return Err("has a control character".into());
    }
    // What is not seen, or turns the direction of what follows.
    let hidden = |c: char| matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    if line.contains(|c: char| c.is_whitespace() || foreign(c) || hidden(c)) {
        return Err("is neither a URL nor host:port".into());
    }
    Ok(())
}

/// Parts `host:port`, `[v6]:port`, `host` and `[v6]`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn check_port(port: &str) -> Result<(), String> {
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err("has a port that is not a number from 1 to 65535".into()),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let refused = || Err("has no valid host".into());
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return match v6.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => refused(),
        };
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && (label.bytes()).all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return refused();
    }
    // A name whose last label is a number is an IPv4 address, or nothing.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    if numeric && name.parse::<std::net::Ipv4Addr>().is_err() {
        return refused();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_people_write_them_are_taken_as_written() {
        for endpoint in [
            "http://device-1:8080",
            "https://device.example/",
            "HTTP://Device:80/Sensor?unit=C#now",
            "http://user:password@10.0.0.1/",
            "http://[fd00::1]:8080/a/b",
            "http://[::1]",
            "http://a_b.example.:1",
            "http://host/gr%C3%BC%C3%9Fe",
            "http://host/grüße",
            "http://host?x=a:b",
            "http://host/a@b",
            "device:8000",
            "10.1.0.194:8080",
            "[::1]:8080",
            "localhost:65535",
        ] {
            assert_eq!(check(endpoint), Ok(()), "{endpoint}");
            let url = if endpoint.contains("://") {
                endpoint.into()
            } else {
                format!("http://{endpoint}")
            };
            assert!(
                reqwest::Url::parse(&url).is_ok(),
                "no broker can read {endpoint}"
            );
        }
    }

    #[test]
    fn what_is_logged_shows_no_password_and_no_token() {
        for (endpoint, safe) in [
            (
                "http://me:hunter2@device:80/a@b?token=hunter2#hunter2",
                "http://device:80/a@b",
            ),
            ("http://device#me:hunter2@x", "http://device"),
            ("http://a@b@device", "http://device"),
            ("http://device/a", "http://device/a"),
            ("device:8000", "device:8000"),
        ] {
            assert_eq!(shown(endpoint), safe);
        }
    }
}
