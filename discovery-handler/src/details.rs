//! `discoveryDetails` of a Configuration: what to poll, how often, how patiently. No I/O.

use std::{
    fmt,
    hash::{Hash, Hasher},
    time::Duration,
};

use akri_device_http::{Endpoint, EndpointError, Url, check_listed, shown};
use akri_discovery::{Settings, Times};
use serde::Deserialize;

use crate::{
    filters::{Filters, Written},
    formats::{Format, MetaLabels, OnPropertyChange, Options},
};

const WANTED: &str = "expected a URL such as http://discovery:9999/discovery, \
    or a YAML mapping of url and other keys (docs/formats.md)";

/// Reads a duration within its limits.
type Parse = fn(&str) -> Result<Duration, String>;

/// What one Configuration asks for. Equal details share one poller.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DiscoveryDetails {
    /// An http or https URL.
    pub url: Url,
    /// How often, how patiently, and how soon a device is given up.
    pub times: Times,
    /// The http proxy to go through, if any.
    pub proxy: Option<Url>,
    /// How a reply is read.
    pub options: Options,
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
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Mapping {
    url: String,
    interval: Option<String>,
    timeout: Option<String>,
    grace: Option<String>,
    proxy: Option<String>,
    format: Option<String>,
    scheme: Option<String>,
    path: Option<String>,
    meta_labels: Option<String>,
    on_property_change: Option<String>,
    include: Option<Written>,
    exclude: Option<Written>,
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
        if is_url(text) {
            return Self::with_url(text, settings);
        }
        // A scalar is a URL in quotes, or a typing error that is best told as one.
        if let Ok(scalar) = serde_saphyr::from_str::<String>(text) {
            return Self::with_url(&scalar, settings);
        }
        let mapping: Mapping = serde_saphyr::from_str(text).map_err(|error| yaml_error(&error))?;
        let mut details = Self::with_url(&mapping.url, settings)?;
        details.set_times(&mapping)?;
        details.proxy = mapping.proxy.as_deref().map(parse_proxy).transpose()?;
        details.options = mapping.options().map_err(DetailsError)?;
        Ok(details)
    }

    fn with_url(url: &str, settings: &Settings) -> Result<Self, DetailsError> {
        Ok(Self {
            url: parse_url(url.trim())?,
            times: settings.times(),
            proxy: None,
            options: Options::default(),
        })
    }

    fn set_times(&mut self, mapping: &Mapping) -> Result<(), DetailsError> {
        let times = &mut self.times;
        let parse_interval: Parse = Settings::parse_interval;
        for (name, value, time, parse) in [
            (
                "interval",
                &mapping.interval,
                &mut times.interval,
                parse_interval,
            ),
            (
                "timeout",
                &mapping.timeout,
                &mut times.timeout,
                Settings::parse_timeout,
            ),
            (
                "grace",
                &mapping.grace,
                &mut times.grace,
                Settings::parse_grace,
            ),
        ] {
            if let Some(value) = value {
                *time = parse(value.trim()).map_err(|why| DetailsError(format!("{name} {why}")))?;
            }
        }
        Ok(())
    }

    /// Feeds what decides which devices there are.
    pub fn identify(&self, mut list: &mut dyn Hasher) {
        list.write(self.url.as_str().as_bytes());
        if self.options != Options::default() {
            self.options.hash(&mut list);
        }
    }
}

impl Mapping {
    fn options(self) -> Result<Options, String> {
        let format = choice("format", self.format, &Format::NAMES)?;
        let for_http_sd = [
            ("scheme", self.scheme.is_some()),
            ("path", self.path.is_some()),
            ("metaLabels", self.meta_labels.is_some()),
        ];
        let misplaced = for_http_sd.iter().find(|(_, is_there)| *is_there);
        if let Some((name, _)) = misplaced.filter(|_| format != Format::HttpSd) {
            return Err(format!("{name} is only for the format http-sd"));
        }
        let changes = [
            ("keep", OnPropertyChange::Keep),
            ("replace", OnPropertyChange::Replace),
        ];
        let on_property_change = choice("onPropertyChange", self.on_property_change, &changes)?;
        if on_property_change == OnPropertyChange::Replace && format == Format::Lines {
            return Err("onPropertyChange is not for the format lines, whose devices have no other properties".into());
        }
        let metas = [("drop", MetaLabels::Drop), ("keep", MetaLabels::Keep)];
        Ok(Options {
            format,
            https: choice("scheme", self.scheme, &[("http", false), ("https", true)])?,
            path: self
                .path
                .map_or(Ok(String::new()), |path| parse_path(&path))?,
            meta_labels: choice("metaLabels", self.meta_labels, &metas)?,
            on_property_change,
            filters: Filters::new(self.include, self.exclude, format)?,
        })
    }
}

/// One of several words; the default where there is none.
fn choice<T: Copy + Default>(
    name: &str,
    value: Option<String>,
    choices: &[(&str, T)],
) -> Result<T, String> {
    let Some(value) = value else {
        return Ok(T::default());
    };
    let chosen = choices.iter().find(|(word, _)| *word == value.trim());
    chosen.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        format!("{name} is none of {}", words.join(", "))
    })
}

/// What can follow `http://host`.
fn parse_path(path: &str) -> Result<String, String> {
    let path = path.trim();
    if !path.starts_with('/') {
        return Err("path does not begin with /".into());
    }
    match check_listed(&format!("http://host{path}")) {
        Ok(()) => Ok(path.into()),
        Err(why) => Err(format!("path {why}")),
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
        let Times {
            interval, timeout, ..
        } = self.times;
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
        true => "not a mapping of url and other keys",
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
    let is_whole = |url: &Url| url.path() == "/" && url.query().or(url.fragment()).is_none();
    url.filter(|url| text.contains("://") && url.scheme() == "http" && is_whole(url))
        .ok_or_else(|| DetailsError("the proxy is not a URL such as http://proxy:3128".to_owned()))
}

#[cfg(test)]
mod tests;
