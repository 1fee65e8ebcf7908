//! Which properties a device may have: they are its broker's environment, twice (rule 13). The same on every node (rule 10).

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use blake2::{Blake2b, Digest, digest::consts::U3};

use super::MetaLabels;

/// Says what kind of device it is; the walkthrough's brokers look for it.
pub(super) const PROTOCOL: (&str, &str) = ("AKRI_HTTP", "http");

/// Where a broker finds its device.
pub const ENDPOINT: &str = "AKRI_HTTP_DEVICE_ENDPOINT";

/// What the property of a label begins with.
const LABEL: &str = "AKRI_HTTP_LABEL_";

/// The most labels or properties of a device.
pub(super) const MAX_PROPERTIES: usize = 64;

/// The longest name of one, in bytes.
pub(super) const MAX_NAME: usize = 128;

/// The longest value of one, in bytes.
pub(super) const MAX_VALUE: usize = 4_096;

/// What no reply may set in a broker's environment, and what no name may begin with: what decides which code it runs, which files
/// it reads and whom it trusts. The second line has the settings of this project's brokers.
const RESERVED: [&str; 18] = [
    "PATH",
    "HOME",
    "HOSTNAME",
    "USER",
    "SHELL",
    "PWD",
    "ENV",
    "BASH_ENV",
    "IFS",
    "ADMIN_ADDRESS",
    "BEARER_TOKEN_FILE",
    "CA_FILE",
    "CLIENT_CERT_FILE",
    "CLIENT_KEY_FILE",
    "GRPC_ENDPOINT",
    "MAX_READS",
    "MIN_INTERVAL",
    "POLL_INTERVAL",
];
const RESERVED_PREFIXES: [&str; 13] = [
    "AKRI_HTTP",
    "KUBERNETES_",
    "LD_",
    "GLIBC_",
    "GODEBUG",
    "JAVA_",
    "_JAVA_",
    "JDK_",
    "NODE_",
    "PERL5",
    "PYTHON",
    "RUST_",
    "SSL_CERT_",
];
/// `http_proxy` and its like.
const RESERVED_SUFFIXES: [&str; 2] = ["_PROXY", "_proxy"];

/// How many bytes [`suffix`] has.
pub(super) const SUFFIX_BYTES: usize = 7;

/// Properties that are made of labels. Prometheus drops labels that begin with `__`, and takes an empty one for none.
pub(super) fn of_labels(
    labels: &BTreeMap<String, String>,
    meta: MetaLabels,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut made_of: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for (label, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        let name = match label.strip_prefix("__") {
            None => label,
            Some(name) if meta == MetaLabels::Keep && name.starts_with("meta_") => name,
            Some(_) => continue,
        };
        let property = format!("{LABEL}{}", as_identifier(name));
        if let Some((other, _)) = made_of.insert(property.clone(), (label, value)) {
            let [one, other] = [other, label].map(name_shown);
            bail!(
                "labels {one} and {other} both become {}",
                name_shown(&property)
            );
        }
    }
    let properties = made_of
        .into_iter()
        .map(|(name, (_, value))| (name, value.into()));
    Ok(properties.collect())
}

/// In upper case; each character other than an ASCII letter, a digit or `_` becomes `_`.
fn as_identifier(label: &str) -> String {
    let identifier = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => c.to_ascii_uppercase(),
        _ => '_',
    };
    label.chars().map(identifier).collect()
}

/// Checks properties that are taken as they are.
///
/// # Errors
/// The first name that is no C identifier (rule 13), or that is reserved.
pub(super) fn check(properties: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for name in properties.keys() {
        let shown = name_shown(name);
        ensure!(
            is_property_name(name),
            "property {shown} is not letters, digits and _, beginning with no digit"
        );
        let is_reserved = RESERVED.contains(&name.as_str())
            || RESERVED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
            || RESERVED_SUFFIXES
                .iter()
                .any(|suffix| name.ends_with(suffix));
        ensure!(!is_reserved, "property {shown} is reserved");
    }
    Ok(())
}

/// Whether it is a C identifier (rule 13).
pub fn is_property_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What an id gets behind it so that it changes with the properties: `~` and six hexadecimal digits, BLAKE2b with three bytes
/// of output over `NAME=value` and a NUL for each property in the order of their names. It must stay the same in all versions:
/// another one replaces every broker.
pub(super) fn suffix(properties: &BTreeMap<String, String>) -> String {
    let mut hash = Blake2b::<U3>::new();
    for (name, value) in properties {
        for part in [name.as_str(), "=", value, "\0"] {
            hash.update(part);
        }
    }
    let [a, b, c]: [u8; 3] = hash.finalize().into();
    format!("~{a:02x}{b:02x}{c:02x}")
}

/// A name as the log shows it.
pub(super) fn name_shown(name: &str) -> String {
    let begin: String = name.chars().take(40).collect();
    let dots = if begin.len() < name.len() { "..." } else { "" };
    format!("{}{dots}", begin.escape_debug())
}
