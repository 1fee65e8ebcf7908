//! `discoveryProperties` of a Configuration: credentials for its discovery service. No I/O.

use std::fmt;

use akri_daemon::one_line;
use akri_device_http::{
    Credentials, IdentityError, Why,
    header::{AUTHORIZATION, HeaderName},
    text,
};
use akri_discovery::Properties;

/// What the names of credentials begin with.
const PREFIX: &str = "HTTP_";

const BEARER: &str = "HTTP_BEARER_TOKEN";
const USERNAME: &str = "HTTP_USERNAME";
const PASSWORD: &str = "HTTP_PASSWORD";
const HEADERS: &str = "HTTP_HEADERS";
const CA: &str = "HTTP_CA_CERT";
const CERT: &str = "HTTP_CLIENT_CERT";
const KEY: &str = "HTTP_CLIENT_KEY";

/// In the order in which they are told.
const KNOWN: [&str; 7] = [BEARER, USERNAME, PASSWORD, HEADERS, CA, CERT, KEY];

/// The most headers, and the most bytes of them together.
const MAX_HEADERS: usize = 32;
const MAX_HEADERS_BYTES: usize = 16 * 1024;

/// Headers that the client sets itself, that speak of the connection, or that change what the reply means.
const OURS: [&str; 23] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-prometheus-refresh-interval-seconds",
];

/// The most names of ignored properties in one log line.
const MAX_NAMES: usize = 8;

/// Why `discoveryProperties` can never work. No value is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyError(String);

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "discoveryProperties: {}", self.0)
    }
}

impl std::error::Error for PropertyError {}

/// The credentials in `properties`. `named` says that the URL has a user name.
///
/// # Errors
/// A property begins with `HTTP_` and is unknown, is wrong by itself, or does not go with another one.
pub fn from_properties(properties: &Properties, named: bool) -> Result<Credentials, PropertyError> {
    let mut unknown: Vec<_> = (properties.keys())
        .filter(|name| name.starts_with(PREFIX) && !KNOWN.contains(&name.as_str()))
        .collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        let (name, known) = (one_line(name), KNOWN.join(", "));
        return Err(PropertyError(format!(
            "{name} is unknown; expected {known}"
        )));
    }
    let mut credentials = Credentials::default();
    authorize(&mut credentials, properties)?;
    let get = |name: &str| properties.get(name).map(Vec::as_slice);
    if let Some(lines) = get(HEADERS) {
        headers(&mut credentials, lines)
            .map_err(|why| PropertyError(format!("{HEADERS} {why}")))?;
    }
    if named && credentials.has_authorization() {
        let set = [BEARER, USERNAME]
            .into_iter()
            .find(|name| get(name).is_some());
        return Err(wrong(set.unwrap_or(HEADERS))(
            "does not go with a user name in the URL",
        ));
    }
    if let Some(pem) = get(CA) {
        credentials.set_authorities(pem).map_err(wrong(CA))?;
    }
    match (get(CERT), get(KEY)) {
        (Some(cert), Some(key)) => {
            let set = credentials.set_identity(cert, key);
            set.map_err(|error| match error {
                IdentityError::Certificate(why) => wrong(CERT)(why),
                IdentityError::Key(why) => wrong(KEY)(why),
            })?;
        }
        (Some(_), None) => return Err(without(CERT, KEY)),
        (None, Some(_)) => return Err(without(KEY, CERT)),
        (None, None) => {}
    }
    Ok(credentials)
}

/// Names of properties that nobody reads, for a log line; `None` where there are none.
pub fn ignored(properties: &Properties) -> Option<String> {
    let mut names: Vec<_> = (properties.keys())
        .filter(|name| !name.starts_with(PREFIX))
        .map(|name| one_line(name))
        .collect();
    names.sort();
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    match more {
        _ if names.is_empty() => None,
        0 => Some(names.join(", ")),
        more => Some(format!("{} and {more} more", names.join(", "))),
    }
}

/// Sets the Authorization header.
fn authorize(credentials: &mut Credentials, properties: &Properties) -> Result<(), PropertyError> {
    let get = |name| properties.get(name).map(Vec::as_slice);
    let (bearer, user, password) = (get(BEARER), get(USERNAME), get(PASSWORD));
    match (bearer, user, password) {
        (None, None, None) => Ok(()),
        (Some(token), None, None) => credentials.set_bearer(token).map_err(wrong(BEARER)),
        (None, Some(user), Some(password)) => {
            let user = text(user).map_err(wrong(USERNAME))?;
            // Where the user name is a key, there is often none.
            let password = match password {
                b"" | b"\n" | b"\r\n" => "",
                password => text(password).map_err(wrong(PASSWORD))?,
            };
            credentials
                .set_basic(user, password)
                .map_err(wrong(USERNAME))
        }
        (Some(_), Some(_), _) => Err(wrong(BEARER)("does not go with HTTP_USERNAME")),
        (_, Some(_), None) => Err(without(USERNAME, PASSWORD)),
        (_, None, Some(_)) => Err(without(PASSWORD, USERNAME)),
    }
}

/// Lines `Name: value`; blank ones do not matter.
fn headers(credentials: &mut Credentials, lines: &[u8]) -> Result<(), String> {
    if lines.len() > MAX_HEADERS_BYTES {
        return Err(format!("is longer than {MAX_HEADERS_BYTES} bytes"));
    }
    let lines = std::str::from_utf8(lines).map_err(|_| "is not UTF-8 text")?;
    let lines = lines.lines().enumerate();
    let mut some = 0;
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        header(credentials, line).map_err(|why| format!("line {} {why}", number + 1))?;
        some += 1;
        if some > MAX_HEADERS {
            return Err(format!("has more than {MAX_HEADERS} headers"));
        }
    }
    match some {
        0 => Err("is empty".into()),
        _ => Ok(()),
    }
}

fn header(credentials: &mut Credentials, line: &str) -> Result<(), String> {
    let (name, value) = (line.split_once(':')).ok_or("is not of the form \"Name: value\"")?;
    // A name with a blank before it or after it is not valid, and so neither is a line that continues the one before.
    let name: HeaderName = name.parse().map_err(|_| "has no valid name of a header")?;
    if OURS.contains(&name.as_str()) {
        return Err(format!("sets {name}, which is not for properties"));
    }
    let is_authorization = name == AUTHORIZATION;
    credentials
        .add_header(name, value.trim())
        .map_err(|why| match is_authorization {
            true => format!("{why}: Authorization, which has been set already"),
            false => why.to_owned(),
        })
}

fn wrong(name: &'static str) -> impl Fn(Why) -> PropertyError {
    move |why| PropertyError(format!("{name} {why}"))
}

fn without(name: &str, other: &str) -> PropertyError {
    PropertyError(format!("{name} needs {other} beside it"))
}

#[cfg(test)]
mod tests;
