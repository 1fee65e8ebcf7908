//! The devices of a broker's Pod, from its environment (rule 13).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt,
};

use akri_device_http::Endpoint;

/// Holds the endpoint of a device. With several devices in the Pod, it holds the one that came last, and each device has
/// a variable of its own: this name and `_<HASH>`, the upper-case hash of its Instance.
const VARIABLE: &str = "AKRI_HTTP_DEVICE_ENDPOINT";

/// What `--help` says about it.
pub(crate) const HELP: &str = "The devices are the values of AKRI_HTTP_DEVICE_ENDPOINT and of every \
    AKRI_HTTP_DEVICE_ENDPOINT_<HASH>.\nRUST_LOG sets what is logged (default info).";

/// No variable holds a device that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDevice {
    /// The names of the variables that are set, and what is wrong with the value of each.
    bad: Vec<(String, String)>,
}

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bad.is_empty() {
            return write!(
                f,
                "no device: set {VARIABLE} or {VARIABLE}_<HASH> (6 upper-case hex digits)"
            );
        }
        f.write_str("no valid device endpoint")?;
        for (position, (variable, rule)) in self.bad.iter().enumerate() {
            let separator = if position == 0 { ": " } else { "; " };
            write!(f, "{separator}the value of {variable} {rule}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoDevice {}

/// The devices that `variables` name: the values of `AKRI_HTTP_DEVICE_ENDPOINT` and of every
/// `AKRI_HTTP_DEVICE_ENDPOINT_<HASH>`, sorted, and equal ones once. A value that is not an endpoint is left out with a
/// warning that names its variable.
///
/// Other variables whose names begin like these are ignored: Kubernetes sets a `..._SERVICE_HOST` for a Service of a
/// matching name.
///
/// # Errors
/// None of the variables holds an endpoint.
pub fn from_environment(
    variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Result<Vec<Endpoint>, NoDevice> {
    let mut values = BTreeMap::new();
    for (name, value) in variables {
        let name = name.as_ref().to_string_lossy();
        if names_a_device(&name) {
            values.insert(name.into_owned(), value.as_ref().to_owned());
        } else if name.starts_with(VARIABLE) {
            log::debug!("{name} is ignored: the hash of a device is 6 upper-case hex digits");
        }
    }
    let (mut endpoints, mut bad) = (BTreeSet::new(), Vec::new());
    for (variable, value) in values {
        match endpoint(&value) {
            Ok(endpoint) => drop(endpoints.insert(endpoint)),
            Err(rule) => bad.push((variable, rule)),
        }
    }
    if endpoints.is_empty() {
        return Err(NoDevice { bad });
    }
    for (variable, rule) in bad {
        log::warn!("{variable} is ignored: its value {rule}");
    }
    Ok(endpoints.into_iter().collect())
}

/// Names that are all different: the second of several alike has `#2` at the end, and so on. No endpoint is shown with a `#`.
pub(crate) fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut alike = BTreeMap::new();
    let mut distinct = |name: String| {
        let count = alike.entry(name.clone()).or_insert(0);
        *count += 1;
        match *count {
            1 => name,
            count => format!("{name}#{count}"),
        }
    };
    names.map(&mut distinct).collect()
}

fn endpoint(value: &OsStr) -> Result<Endpoint, String> {
    let text = value.to_str().ok_or("is not UTF-8")?;
    text.parse().map_err(|rule| format!("{rule}"))
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

    const HASHED: &str = "AKRI_HTTP_DEVICE_ENDPOINT_4294EA";

    fn devices(variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        from_environment(variables.iter().copied())
            .map(|devices| devices.iter().map(Endpoint::to_string).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn equal_devices_are_held_once_in_a_stable_order_rule_13() {
        let plain_is_a = [(VARIABLE, "a:1"), (HASHED, "b:1")];
        let both = [
            (HASHED, "b:1"),
            ("AKRI_HTTP_DEVICE_ENDPOINT_0000FF", "a:1"),
            (VARIABLE, "b:1"),
        ];
        for variables in [&plain_is_a[..], &both[..]] {
            assert_eq!(devices(variables).unwrap(), ["a:1", "b:1"]);
        }
    }

    #[test]
    fn other_variables_are_not_devices() {
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
            let refused = devices(&[(name, "a:1")]).unwrap_err();
            assert!(refused.starts_with("no device: set "), "{name}: {refused}");
            let found = devices(&[(name, "tcp://x"), (VARIABLE, "a:1")]);
            assert_eq!(found.unwrap(), ["a:1"]);
        }
    }

    #[test]
    fn a_bad_variable_does_not_keep_the_good_ones_out() {
        let variables = [(VARIABLE, "ftp://user:secret@a"), (HASHED, "a:1")];
        assert_eq!(devices(&variables).unwrap(), ["a:1"]);
    }

    #[test]
    fn an_error_names_every_bad_variable_with_its_rule_and_no_secret() {
        let error = devices(&[(VARIABLE, ""), (HASHED, "ftp://user:secret@a")]).unwrap_err();
        let start = "no valid device endpoint: the value of AKRI_HTTP_DEVICE_ENDPOINT is empty; \
            the value of AKRI_HTTP_DEVICE_ENDPOINT_4294EA ";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with("http or https"), "{error}");
        let error = from_environment([(VARIABLE, OsStr::from_bytes(b"\xff"))]).unwrap_err();
        assert!(error.to_string().contains("is not UTF-8"), "{error}");
    }
}
