//! The walkthrough's format: an endpoint a line. Blanks around it, blank lines, the order and repetitions do not matter.

use std::collections::BTreeMap;

use akri_device_http::{check_listed, excerpt};
use akri_discovery::Devices;
use anyhow::bail;

use super::device;
use crate::filters::Filters;

/// See [`super::read`].
pub(super) fn read(body: &[u8], filters: &Filters) -> anyhow::Result<Devices> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    let endpoints = lines.filter_map(|(number, line)| {
        let line = trimmed(line);
        (!line.is_empty()).then(|| endpoint(number + 1, line))
    });
    let make = |id: &str| device(id, id, BTreeMap::new());
    if filters.is_empty() {
        return Devices::from_ids(endpoints, make);
    }
    let is_taken = |endpoint: &anyhow::Result<&str>| match endpoint {
        Ok(endpoint) => filters.take(endpoint, endpoint, &BTreeMap::new()),
        Err(_) => true,
    };
    Devices::from_ids(endpoints.filter(is_taken), make)
}

fn trimmed(line: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let start = line.iter().position(|byte| !blank(byte));
    let end = line.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => line.get(start..=end).unwrap_or_default(),
        _ => &[],
    }
}

fn endpoint(number: usize, line: &[u8]) -> anyhow::Result<&str> {
    let why = match std::str::from_utf8(line) {
        Ok(endpoint) => match check_listed(endpoint) {
            Ok(()) => return Ok(endpoint),
            Err(error) => error.to_string(),
        },
        Err(_) => "is not UTF-8 text".into(),
    };
    match excerpt(line) {
        Some(excerpt) => bail!("line {number} of the list {why}: \"{excerpt}\""),
        None => bail!("line {number} of the list {why}"),
    }
}

#[cfg(test)]
mod tests {
    use akri_device_http::MAX_ENDPOINT_BYTES;

    use super::*;

    fn lines(body: &[u8]) -> anyhow::Result<Devices> {
        read(body, &Filters::default())
    }

    fn refused(body: impl AsRef<[u8]>) -> String {
        lines(body.as_ref()).err().unwrap().to_string()
    }

    #[test]
    fn a_line_that_is_no_endpoint_refuses_the_reply_and_says_which_line() {
        let long = format!("http://host/{}", "x".repeat(MAX_ENDPOINT_BYTES));
        for (line, why) in [
            ("<!DOCTYPE html>", "neither a URL nor host:port"),
            (
                "<a href=\"http://device:80\">",
                "neither a URL nor host:port",
            ),
            ("404 page not found", "neither a URL nor host:port"),
            ("device", "neither a URL nor host:port"),
            ("device:0", "neither a URL nor host:port"),
            ("fd00::1:8080", "neither a URL nor host:port"),
            (
                "{\"targets\": [\"device:80\"]}",
                "neither a URL nor host:port",
            ),
            ("\u{feff}http://a", "neither a URL nor host:port"),
            ("http://a http://b", "a blank"),
            ("http://a\rhttp://b", "control character"),
            ("ftp://device/", "a scheme that is not http or https"),
            ("http://1.2.3", "no valid host"),
            ("http://a:99999", "port that is not a number"),
            (long.as_str(), "longer than 2048 bytes"),
            (
                "a long line without end ".repeat(200).as_str(),
                "longer than 2048 bytes",
            ),
        ] {
            let error = refused(format!("http://good:80\n\n{line}\nhttp://good:81\n"));
            assert!(error.starts_with("line 3 of the list "), "{line}: {error}");
            assert!(error.contains(why), "{line}: {error}");
            assert!(error.len() < 200, "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(
            refused(b"http://a\n\xff\xfe\x00\x01"),
            "line 2 of the list is not UTF-8 text: \"\u{fffd}\u{fffd}\\0\\u{1}\""
        );
    }

    #[test]
    fn a_refused_line_shows_no_password() {
        for line in [
            "http://user:hunter2@ho st/",
            "http://ho st/?token=hunter2",
            "http://user:hunter2",
            "user:hunter2",
        ] {
            let error = refused(line);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn blanks_carriage_returns_blank_lines_and_empty_bodies_are_fine() {
        for body in [
            "",
            "\n",
            " \t\r\n\n   ",
            "\r\n  http://b:80 \t\r\n\n http://a:80",
        ] {
            assert!(lines(body.as_bytes()).is_ok(), "{body:?}");
        }
        let longest = format!("  http://host/{}\r\n", "x".repeat(MAX_ENDPOINT_BYTES - 12));
        assert!(lines(longest.as_bytes()).is_ok());
    }
}
