//! The devices of a broker's Pod, from its environment (rule 13).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt,
    str::FromStr,
};

use reqwest::Url;

/// The variable that holds a device's endpoint; with several devices in the Pod, the one that came
/// last. Suffixed with `_<HASH>`, the upper-case hash of an Instance, it is there once per device.
pub const VARIABLE: &str = "AKRI_HTTP_DEVICE_ENDPOINT";

/// The longest endpoint, as in the discovery handler's list.
pub const MAX_BYTES: usize = 2048;

/// The endpoint of a device: an `http` or `https` URL, or `host`, `host:port` or `host:port/path`,
/// where `http://` is assumed.
///
/// It is shown, `Debug` included, as it was written, but without `user:password@` and without what
/// follows `?`, since that is often a secret.
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
    /// The rule that the text breaks. The text itself is not in it: it may hold a secret.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        if text.len() > MAX_BYTES {
            return Err(format!(
                "it has {} bytes, more than {MAX_BYTES}",
                text.len()
            ));
        }
        // A URL parser drops some of these silently, and takes a backslash for a slash.
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '\\')
        {
            return Err("it holds a blank, a control character or a backslash".to_owned());
        }
        let (scheme, rest) = split_scheme(text).unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err("only http and https are supported".to_owned());
        }
        if rest.is_empty() || rest.starts_with(['/', '?', '#']) {
            return Err("it has no host".to_owned());
        }
        let url = Url::parse(&format!("{scheme}://{rest}"))
            .map_err(|error| format!("{error} (expected a URL or HOST:PORT, IPv6 in brackets)"))?;
        if url.port() == Some(0) {
            return Err("port 0 is no port".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            url,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.text.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = match split_scheme(shown) {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, shown),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        if let Some(scheme) = scheme {
            write!(f, "{scheme}://")?;
        }
        write!(f, "{host}{path}")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// `https` and `host/path` of `https://host/path`; nothing of `host:80/go?to=http://other`.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    scheme
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        .then_some((scheme, rest))
}

/// Why [`from_environment`] found no devices to work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentError {
    /// No variable holds a device.
    NoDevice,
    /// The value of a variable is no endpoint.
    NoEndpoint {
        /// The variable's name.
        variable: String,
        /// What is wrong with its value.
        rule: String,
    },
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => write!(
                f,
                "no device: neither {VARIABLE} nor {VARIABLE}_<HASH> (6 upper-case hex digits) is set"
            ),
            Self::NoEndpoint { variable, rule } => {
                write!(f, "the value of {variable} is no device endpoint: {rule}")
            }
        }
    }
}

impl std::error::Error for EnvironmentError {}

/// The devices that `variables` hold: the values of [`VARIABLE`] and of every `VARIABLE_<HASH>`,
/// equal ones once, in the order of their text, whichever device the plain variable names.
///
/// Other names that begin like these are not devices, and are ignored: a Service of a fitting name
/// puts a `..._SERVICE_HOST` into every Pod.
///
/// # Errors
/// There is no device, or one is no endpoint: of several, the first by name.
pub fn from_environment(
    variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Result<Vec<Endpoint>, EnvironmentError> {
    let mut values = BTreeMap::new();
    for (name, value) in variables {
        let name = name.as_ref().to_string_lossy();
        if names_a_device(&name) {
            values.insert(name.into_owned(), value.as_ref().to_owned());
        } else if name.starts_with(VARIABLE) {
            log::debug!("{name} is ignored: a device's hash is 6 upper-case hex digits");
        }
    }
    let mut endpoints = BTreeSet::new();
    for (variable, value) in values {
        let endpoint = value
            .to_str()
            .ok_or_else(|| "it is not UTF-8".to_owned())
            .and_then(Endpoint::from_str)
            .map_err(|rule| EnvironmentError::NoEndpoint { variable, rule })?;
        endpoints.insert(endpoint);
    }
    if endpoints.is_empty() {
        return Err(EnvironmentError::NoDevice);
    }
    Ok(endpoints.into_iter().collect())
}

fn names_a_device(name: &str) -> bool {
    let Some(suffix) = name.strip_prefix(VARIABLE) else {
        return false;
    };
    suffix.is_empty()
        || suffix.strip_prefix('_').is_some_and(|hash| {
            hash.len() == 6 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn devices(variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        from_environment(variables.iter().copied())
            .map(|devices| devices.iter().map(Endpoint::to_string).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_a_url_or_a_host() {
        for (text, url) in [
            ("http://device-1:8080", "http://device-1:8080/"),
            ("HTTPS://Device/Sensor", "https://device/Sensor"),
            ("device", "http://device/"),
            ("device:8000", "http://device:8000/"),
            (
                "device:8000/sensor?unit=C",
                "http://device:8000/sensor?unit=C",
            ),
            (
                "device:80/go?to=http://other",
                "http://device/go?to=http://other",
            ),
            ("10.1.0.194:8080", "http://10.1.0.194:8080/"),
            ("[fd00::1]:8080", "http://[fd00::1]:8080/"),
            ("[fd00::1]", "http://[fd00::1]/"),
            ("user:secret@device:80", "http://user:secret@device/"),
            ("  device:1 \n", "http://device:1/"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.url().as_str(), url, "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_its_rule() {
        for (text, rule) in [
            ("", "empty"),
            ("ftp://device", "only http and https"),
            ("unix:///run/device.sock", "only http and https"),
            ("http://", "no host"),
            ("http:///sensor", "no host"),
            ("/sensor", "no host"),
            ("fd00::1", "IPv6 in brackets"),
            ("device:port", "invalid port"),
            ("device:65536", "invalid port"),
            ("device:0", "port 0"),
            ("two devices", "a blank"),
            ("device\n:80", "a control character"),
            ("http:\\\\device", "a backslash"),
            ("<html>", "invalid"),
        ] {
            let refused = text.parse::<Endpoint>().unwrap_err();
            assert!(refused.contains(rule), "{text:?}: {refused}");
        }
        assert!(
            "x".repeat(2049)
                .parse::<Endpoint>()
                .unwrap_err()
                .contains("2049 bytes")
        );
    }

    #[test]
    fn an_endpoint_is_shown_as_written_without_secrets() {
        for (text, shown) in [
            ("device:80", "device:80"),
            ("HTTP://Device", "HTTP://Device"),
            (
                "https://user:p@ss@device/a@b?token=x#y",
                "https://device/a@b",
            ),
            ("user:secret@device:80?x", "device:80"),
            ("device#http://x", "device"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(format!("{endpoint:?}"), format!("Endpoint({shown})"));
        }
    }

    #[test]
    fn equal_devices_are_held_once_in_a_stable_order_rule_13() {
        let plain_is_a = [
            (VARIABLE, "a:1"),
            ("AKRI_HTTP_DEVICE_ENDPOINT_4294EA", "b:1"),
        ];
        let both = [
            ("AKRI_HTTP_DEVICE_ENDPOINT_4294EA", "b:1"),
            ("AKRI_HTTP_DEVICE_ENDPOINT_0000FF", "a:1"),
            (VARIABLE, "b:1"),
        ];
        for variables in [&plain_is_a[..], &both[..]] {
            assert_eq!(devices(variables).unwrap(), ["a:1", "b:1"]);
        }
    }

    #[test]
    fn other_variables_are_no_devices() {
        for name in [
            "AKRI_HTTP_DEVICE_ENDPOINT_SERVICE_HOST",
            "AKRI_HTTP_DEVICE_ENDPOINT_",
            "AKRI_HTTP_DEVICE_ENDPOINT_4294ea",
            "AKRI_HTTP_DEVICE_ENDPOINT_4294E",
            "AKRI_HTTP_DEVICE_ENDPOINT_4294EA0",
            "AKRI_HTTP_DEVICE_ENDPOINT4294EA",
            "AKRI_HTTP",
            "PATH",
        ] {
            assert!(
                devices(&[(name, "a:1")])
                    .unwrap_err()
                    .starts_with("no device"),
                "{name}"
            );
            assert_eq!(
                devices(&[(name, "tcp://x"), (VARIABLE, "a:1")]).unwrap(),
                ["a:1"]
            );
        }
    }

    #[test]
    fn an_error_names_the_variable_and_no_secret() {
        let name = "AKRI_HTTP_DEVICE_ENDPOINT_4294EA";
        let error = devices(&[(VARIABLE, "a:1"), (name, "ftp://user:secret@a")]).unwrap_err();
        assert!(error.contains(name) && !error.contains("secret"), "{error}");
        let error = from_environment([(VARIABLE, OsStr::from_bytes(b"\xff"))]).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
