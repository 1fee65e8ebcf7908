//! Settings as people write them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use tokio::net::TcpListener;

/// Reads a duration with a unit, such as `500ms`, `10s`, `1m` or `24h`.
///
/// # Errors
/// The rule, without the value: it may be a secret in the wrong place.
pub fn parse_duration(text: &str, allowed: &RangeInclusive<Duration>) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if allowed.contains(&duration) => Ok(duration),
        _ => {
            let (min, max) = (in_words(*allowed.start()), in_words(*allowed.end()));
            Err(format!(
                "must be a duration from {min} to {max}, such as 10s or 1m"
            ))
        }
    }
}

/// Hours, where humantime would say days.
fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 3600 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// Reads `ADDRESS:PORT`; as in Go, `:PORT` is that port of every address, by IPv6 as by IPv4.
///
/// # Errors
/// The rule.
pub fn parse_listen_address(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix(':') {
        Some(port) => &format!("[::]:{port}"),
        None => text,
    };
    text.parse()
        .map_err(|_| "expected ADDRESS:PORT, such as 0.0.0.0:8080 or [::]:8080".to_owned())
}

/// Listens on `address`. Every address is every IPv4 address where there is no IPv6.
///
/// # Errors
/// The system's.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // EAFNOSUPPORT has no name in `ErrorKind`.
        Err(error)
            if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED)
                && error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_is_within_its_limits() {
        let allowed = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
        for (text, duration) in [
            ("100ms", Duration::from_millis(100)),
            ("10s", Duration::from_secs(10)),
            ("1m 30s", Duration::from_secs(90)),
            ("24h", Duration::from_secs(86_400)),
        ] {
            assert_eq!(parse_duration(text, &allowed), Ok(duration));
        }
        for text in [
            "",
            "10",
            "0s",
            "99ms",
            "24h 1ms",
            "-1s",
            "hunter2",
            "99999999999999999999s",
        ] {
            let refused = parse_duration(text, &allowed).unwrap_err();
            let rule = "must be a duration from 100ms to 24h, such as 10s or 1m";
            assert_eq!(refused, rule, "{text}");
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port_and_may_leave_out_the_host() {
        for (text, address) in [
            ("0.0.0.0:50051", "0.0.0.0:50051"),
            (":8084", "[::]:8084"),
            ("[::]:1", "[::]:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(parse_listen_address(text).unwrap().to_string(), address);
        }
        for text in [
            "",
            "50051",
            "localhost:1",
            "0.0.0.0",
            ":",
            ":65536",
            "http://0.0.0.0:1",
        ] {
            assert!(parse_listen_address(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn every_address_is_reached_by_ipv4_too() {
        let listener = listen(parse_listen_address(":0").unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connected, accepted) =
            tokio::join!(TcpStream::connect(("127.0.0.1", port)), listener.accept());
        assert_eq!(
            connected.unwrap().local_addr().unwrap().port(),
            accepted.unwrap().1.port()
        );
    }
}
