//! `discoveryDetails` of a Configuration: what to poll, how often, how patiently. No I/O.

use std::{fmt, hash::Hasher, time::Duration};

use akri_device_http::{Endpoint, EndpointError, Url, shown};
use akri_discovery::{Request, Settings};
use serde::Deserialize;

const WANTED: &str = "expected a URL such as http://discovery:9999/discovery, \
    or a YAML mapping of url, interval, timeout and grace";

/// Reads a duration within its limits.
type Parse = fn(&str) -> Result<Duration, String>;

/// What one Configuration asks for. Equal details share one poller.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DiscoveryDetails {
    /// An http or https URL.
    pub url: Url,
    /// From one poll to the next, 100 ms to 24 h.
    pub interval: Duration,
    /// For one poll as a whole, 100 ms to 10 min.
    pub timeout: Duration,
    /// How long a device is kept that is missing from every reply, 0 s to 24 h.
    pub grace: Duration,
    /// The http proxy to go through, if any.
    pub proxy: Option<Url>,
}

/// Why details can never work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetailsError(String);

impl fmt::Display for DetailsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "discoveryDetails: {}", self.0)
    }
}

impl std::error::Error for DetailsError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    url: String,
    interval: Option<String>,
    timeout: Option<String>,
    grace: Option<String>,
    proxy: Option<String>,
}

impl DiscoveryDetails {
    /// Reads either just a URL, as in the walkthrough, or a YAML mapping. What it leaves out is as in `settings`.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be right, without user names, passwords and queries.
    pub fn parse(text: &str, settings: &Settings) -> Result<Self, DetailsError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(DetailsError(format!("it is empty; {WANTED}")));
        }
        let with_url = |url: &str| {
            Ok(Self {
                url: parse_url(url.trim())?,
                interval: settings.poll_interval,
                timeout: settings.poll_timeout,
                grace: settings.grace,
                proxy: None,
            })
        };
        if is_url(text) {
            return with_url(text);
        }
        // A scalar is a URL in quotes, or a typing error that is best told as one.
        if let Ok(scalar) = serde_saphyr::from_str::<String>(text) {
            return with_url(&scalar);
        }
        let mapping: Mapping = serde_saphyr::from_str(text).map_err(|error| yaml_error(&error))?;
        let mut details = with_url(&mapping.url)?;
        details.proxy = mapping.proxy.as_deref().map(parse_proxy).transpose()?;
        for (name, value, duration, parse) in [
            (
                "interval",
                mapping.interval,
                &mut details.interval,
                Settings::parse_interval as Parse,
            ),
            (
                "timeout",
                mapping.timeout,
                &mut details.timeout,
                Settings::parse_timeout,
            ),
            (
                "grace",
                mapping.grace,
                &mut details.grace,
                Settings::parse_grace,
            ),
        ] {
            if let Some(value) = value {
                *duration =
                    parse(value.trim()).map_err(|why| DetailsError(format!("{name} {why}")))?;
            }
        }
        Ok(details)
    }
}

impl Request for DiscoveryDetails {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn identify(&self, list: &mut dyn Hasher) {
        list.write(self.url.as_str().as_bytes());
    }

    fn grace(&self) -> Duration {
        self.grace
    }
}

impl fmt::Display for DiscoveryDetails {
    /// The URL, safe to log: without user name, password, query and fragment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.url.as_str()))
    }
}

impl fmt::Debug for DiscoveryDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (interval, timeout) = (self.interval, self.timeout);
        write!(
            f,
            "DiscoveryDetails({self}, every {interval:?}, within {timeout:?})"
        )
    }
}

/// What the YAML library says, without its advice to programmers, and without a URL that stands in the wrong place.
fn yaml_error(error: &serde_saphyr::Error) -> DetailsError {
    let words = error.without_snippet().to_string();
    let words = words.split([';', ',']).next().unwrap_or_default();
    let words = match words.contains(['@', '?', '/']) {
        true => "not a mapping of url, interval, timeout and grace",
        false => words.split(" at line ").next().unwrap_or_default(),
    };
    let place =
        (error.location()).map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    DetailsError(format!("{words}{}; {WANTED}", place.unwrap_or_default()))
}

/// One word that begins like a URL; YAML would read most of them the same, but not all.
fn is_url(text: &str) -> bool {
    text.contains("://")
        && !text.contains(char::is_whitespace)
        && !text.starts_with(['\'', '"', '{'])
}

fn parse_url(text: &str) -> Result<Url, DetailsError> {
    if !text.contains("://") {
        return Err(DetailsError(format!("not a URL; {WANTED}")));
    }
    let endpoint: Endpoint = text
        .parse()
        .map_err(|error: EndpointError| DetailsError(format!("the URL {error}; {WANTED}")))?;
    Ok(endpoint.url().clone())
}

/// Only http: an https proxy could ask for the client certificate, which is for the discovery service alone.
fn parse_proxy(text: &str) -> Result<Url, DetailsError> {
    let endpoint = text.trim().parse::<Endpoint>().ok();
    let url = endpoint.map(|endpoint| endpoint.url().clone());
    url.filter(|url| text.contains("://") && url.scheme() == "http")
        .ok_or_else(|| DetailsError("the proxy is not a URL such as http://proxy:3128".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<DiscoveryDetails, DetailsError> {
        DiscoveryDetails::parse(text, &Settings::in_directory(Path::new("/"), "http"))
    }

    #[test]
    fn just_a_url_is_polled_at_the_defaults() {
        for text in [
            "http://discovery:9999/discovery",
            "  http://discovery:9999/discovery\n",
            "\"http://discovery:9999/discovery\"",
            "url: http://discovery:9999/discovery",
            "{\"url\": \"http://discovery:9999/discovery\"}",
            "---\nurl: http://discovery:9999/discovery\ninterval:\n",
        ] {
            let details = parse(text).unwrap();
            assert_eq!(details.url.as_str(), "http://discovery:9999/discovery");
            let seconds = [details.interval, details.timeout, details.grace].map(|it| it.as_secs());
            assert_eq!(seconds, [10, 5, 60]);
        }
        assert!(parse("https://[fd00::1]/a?b=c: d#e".replace(' ', "").as_str()).is_ok());
    }

    #[test]
    fn a_mapping_sets_times_with_units() {
        let details = parse("url: https://d/\ninterval: 1m\ntimeout: 500ms\ngrace: 0s").unwrap();
        assert_eq!(details.grace, Duration::ZERO);
        assert_eq!(details.interval, Duration::from_secs(60));
        assert_eq!(details.timeout, Duration::from_millis(500));
        for (interval, timeout) in [("100ms", "100ms"), ("24h", "10m"), ("1h 30m", "1s")] {
            assert!(
                parse(&format!(
                    "url: http://d\ninterval: {interval}\ntimeout: {timeout}"
                ))
                .is_ok()
            );
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong_and_what_would_be_right() {
        let long = format!("http://d/{}", "x".repeat(2048));
        for (text, why) in [
            ("", "it is empty; expected a URL such as"),
            ("  \n", "it is empty; expected a URL such as"),
            ("discovery", "not a URL; expected"),
            ("discovery:9999/discovery", "not a URL; expected"),
            (
                "ftp://discovery/",
                "the URL has a scheme that is not http or https",
            ),
            ("file:///etc/passwd", "a scheme that is not http or https"),
            ("http://", "the URL has no valid host"),
            ("http://d:99999/", "the URL has a port that is not"),
            ("http://a http://b", "a blank"),
            (long.as_str(), "the URL is longer than 2048 bytes"),
            (
                "- http://d",
                "expected mapping start at line 1, column 1; expected",
            ),
            ("interval: 10s", "missing field `url`"),
            (
                "url: http://d\nintervall: 10s",
                "unknown field `intervall` at line 2, column 1; expected a URL",
            ),
            ("url: http://d\nurl: http://e", "duplicate mapping key: url"),
            ("url: [http://d]", "expected string scalar"),
            ("url: 'http://d", "unclosed quote"),
            ("url: ''", "not a URL"),
            (
                "url: http://d\ninterval: 10",
                "interval \"10\" is not a duration from 100ms to 24h, such as 10s",
            ),
            (
                "url: http://d\ninterval: 99ms",
                "interval \"99ms\" is not a duration from 100ms",
            ),
            ("url: http://d\ninterval: 25h", "interval \"25h\" is not"),
            ("url: http://d\ninterval: -1s", "interval \"-1s\" is not"),
            (
                "url: http://d\ninterval: 99999999999999999999h",
                "is not a duration",
            ),
            (
                "url: http://d\ntimeout: 11m",
                "timeout \"11m\" is not a duration from 100ms to 10m",
            ),
            ("url: http://d\ntimeout: 0s", "timeout \"0s\" is not"),
            (
                "url: http://d\ngrace: soon",
                "grace \"soon\" is not a duration from 0s to 24h",
            ),
            (
                "url: ~",
                "cannot deserialize null into string at line 1, column 6; expected",
            ),
            (
                "url: http://d\n---\nurl: http://e",
                "multiple YAML documents detected at line",
            ),
            ("http:d", "not a URL; expected"),
            ("http:///d", "the URL has no valid host"),
            ("http://d:0/", "the URL has a port that is not"),
            ("a: &a [1]\nb: [*a, *a]", "unknown field `a`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_proxy_is_an_http_url_and_is_not_shown() {
        let details = parse("url: https://d/\nproxy: http://me:hunter2@proxy:3128").unwrap();
        assert_eq!(details.proxy.as_ref().unwrap().port(), Some(3128));
        assert!(!format!("{details:?} {details}").contains("hunter2"));
        assert_ne!(details, parse("https://d/").unwrap());
        for proxy in [
            "https://proxy:3128",
            "proxy:3128",
            "socks5://me:hunter2@p:1",
            "''",
            "http://",
        ] {
            let error = parse(&format!("url: http://d\nproxy: {proxy}")).unwrap_err();
            let why = "discoveryDetails: the proxy is not a URL such as http://proxy:3128";
            assert_eq!(error.to_string(), why, "{proxy}");
        }
    }

    #[test]
    fn what_is_logged_shows_no_password_and_no_token() {
        let secret = "http://me:hunter2@d:9999/discovery?token=hunter2#hunter2";
        let details = parse(secret).unwrap();
        assert_eq!(details.to_string(), "http://d:9999/discovery");
        assert!(!format!("{details:?}").contains("hunter2"));
        assert!(details.url.as_str().contains("hunter2"));
        for text in [
            "http://me:hunter2@",
            "ftp://me:hunter2@d",
            "http://me:hunter2@a b",
            "http://me:hunter2@d/x interval: 5s",
            "url: http://d\nhttp://me:hunter2@x: 5",
            "url: http://d\ninterval: http://me:hunter2@x",
        ] {
            assert!(!parse(text).unwrap_err().to_string().contains("hunter2"));
        }
    }
}
