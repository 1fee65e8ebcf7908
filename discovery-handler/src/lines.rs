//! From a reply's bytes, line by line as they arrive, to the list of devices. No I/O, no timers.

use std::fmt;

use crate::{
    device_endpoint::{MAX_ENDPOINT_BYTES, check, too_long},
    devices::{DeviceList, encoded_device_len},
};

/// The longest line that is looked at, blanks included, in bytes: nothing longer is ever held.
const MAX_LINE_BYTES: usize = 2 * MAX_ENDPOINT_BYTES;

/// Why a reply is not taken for a list. Nothing of such a reply is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListError {
    /// A line that is no endpoint; the first one counts as line 1.
    Line {
        /// Its number, blank lines counted.
        number: usize,
        /// What is wrong with it, and how it begins.
        why: String,
    },
    /// The list would not fit into one message (rule 11).
    TooLarge {
        /// How many devices it has.
        devices: usize,
        /// The size of the message, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { number, why } => write!(f, "line {number} of the list {why}"),
            Self::TooLarge {
                devices,
                bytes,
                limit,
            } => write!(
                f,
                "the list of {devices} devices takes a message of {bytes} bytes, over the limit of {limit}"
            ),
        }
    }
}

impl std::error::Error for ListError {}

/// Reads a list as it arrives, in memory bounded by the largest message, not by the reply.
pub struct ListReader {
    max_message: usize,
    line: usize,
    /// The beginning of a line whose end has not arrived.
    unfinished: Vec<u8>,
    /// Endpoints so far, each with a line feed, and where each one stands.
    text: String,
    spans: Vec<(u32, u32)>,
    /// Message size of all in `text`.
    encoded_len: usize,
    /// Set once the list is too large for certain: from there on lines are only checked and counted.
    beyond: Option<(usize, usize)>,
}

impl ListReader {
    /// Starts a list whose message may have up to `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        Self {
            max_message,
            line: 0,
            unfinished: Vec::new(),
            text: String::new(),
            spans: Vec::new(),
            encoded_len: 0,
            beyond: None,
        }
    }

    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// At the first line that is no endpoint: the rest of the reply need not be fetched.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ListError> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.ends_with(b"\n");
            if ended && self.unfinished.is_empty() {
                self.line(piece)?;
            } else {
                self.unfinished.extend_from_slice(piece);
                if ended {
                    self.finish_line()?;
                } else if self.unfinished.len() > MAX_LINE_BYTES {
                    return Err(self.refused(&[], too_long()));
                }
            }
        }
        Ok(())
    }

    /// Ends the list; a last line without a line feed counts.
    ///
    /// # Errors
    /// When that last line is no endpoint, or when the list does not fit into one message.
    pub fn finish(mut self) -> Result<DeviceList, ListError> {
        self.finish_line()?;
        self.sort();
        let (devices, bytes) = (self.beyond).unwrap_or((self.spans.len(), self.encoded_len));
        if bytes > self.max_message {
            return Err(ListError::TooLarge {
                devices,
                bytes,
                limit: self.max_message,
            });
        }
        Ok(DeviceList {
            text: self.text,
            len: devices,
            encoded_len: bytes,
        })
    }

    fn finish_line(&mut self) -> Result<(), ListError> {
        if self.unfinished.is_empty() {
            return Ok(());
        }
        let mut line = std::mem::take(&mut self.unfinished);
        self.line(&line)?;
        line.clear();
        self.unfinished = line;
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), ListError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(self.refused(&[], too_long()));
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let start = line.iter().position(|byte| !blank(byte));
        let end = line.iter().rposition(|byte| !blank(byte));
        let endpoint = match (start, end) {
            (Some(start), Some(end)) => line.get(start..=end).unwrap_or_default(),
            _ => {
                self.line += 1;
                return Ok(());
            }
        };
        let endpoint = match std::str::from_utf8(endpoint) {
            Ok(text) => match check(text) {
                Ok(()) => text,
                Err(why) => return Err(self.refused(endpoint, why)),
            },
            Err(_) => return Err(self.refused(endpoint, "is not UTF-8 text".into())),
        };
        self.line += 1;
        self.add(endpoint);
        Ok(())
    }

    fn refused(&self, line: &[u8], why: String) -> ListError {
        ListError::Line {
            number: self.line + 1,
            why: match excerpt(line) {
                Some(excerpt) => format!("{why}: \"{excerpt}\""),
                None => why,
            },
        }
    }

    fn add(&mut self, endpoint: &str) {
        let encoded_len = encoded_device_len(endpoint);
        if let Some((devices, bytes)) = &mut self.beyond {
            *devices += 1;
            *bytes += encoded_len;
            return;
        }
        self.spans
            .push((self.text.len() as u32, endpoint.len() as u32));
        self.text.push_str(endpoint);
        self.text.push('\n');
        self.encoded_len += encoded_len;
        // Duplicates may be what makes it large: drop them, and see.
        if self.encoded_len > 2 * self.max_message {
            self.sort();
            if self.encoded_len > self.max_message {
                self.beyond = Some((self.spans.len(), self.encoded_len));
                (self.text, self.spans) = Default::default();
            }
        }
    }

    /// Brings the endpoints into their order, each once.
    fn sort(&mut self) {
        let text = &self.text;
        let range = |(start, len): (u32, u32)| start as usize..(start + len) as usize;
        // As bytes, which have the order of text and are compared faster.
        let bytes = |span: &(u32, u32)| text.as_bytes().get(range(*span)).unwrap_or_default();
        let in_order = |one: &(u32, u32), next: &(u32, u32)| bytes(one) < bytes(next);
        if self.spans.is_sorted_by(in_order) {
            return;
        }
        self.spans
            .sort_unstable_by(|one, other| bytes(one).cmp(bytes(other)));
        self.spans.dedup_by(|one, other| bytes(one) == bytes(other));
        let mut sorted = String::with_capacity(text.len());
        let mut encoded_len = 0;
        for span in &mut self.spans {
            let endpoint = text.get(range(*span)).unwrap_or_default();
            *span = (sorted.len() as u32, span.1);
            encoded_len += encoded_device_len(endpoint);
            sorted.push_str(endpoint);
            sorted.push('\n');
        }
        self.text = sorted;
        self.encoded_len = encoded_len;
    }
}

/// How a refused line begins, safe to log; nothing where it may hold a password.
fn excerpt(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    if text.is_empty() || text.contains(['@', '?']) {
        return None;
    }
    let start: String = text.chars().take(40).collect();
    let dots = if start.len() < text.len() { "..." } else { "" };
    Some(format!("{}{dots}", start.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 4 * 1024 * 1024;

    fn read(body: impl AsRef<[u8]>) -> Result<DeviceList, ListError> {
        let mut reader = ListReader::new(LIMIT);
        reader.push(body.as_ref())?;
        reader.finish()
    }

    fn endpoints(body: &str) -> Vec<String> {
        let list = read(body).unwrap();
        list.iter().map(String::from).collect()
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
            ("</html>", "neither a URL nor host:port"),
            ("404 page not found", "neither a URL nor host:port"),
            ("device", "neither a URL nor host:port"),
            ("device:", "neither a URL nor host:port"),
            ("device:0", "neither a URL nor host:port"),
            ("device:65536", "neither a URL nor host:port"),
            ("device:+80", "neither a URL nor host:port"),
            ("mailto:me", "neither a URL nor host:port"),
            (":8080", "neither a URL nor host:port"),
            ("-a:80", "neither a URL nor host:port"),
            ("fd00::1:8080", "neither a URL nor host:port"),
            (
                "{\"targets\": [\"device:80\"]}",
                "neither a URL nor host:port",
            ),
            ("http://a http://b", "neither a URL nor host:port"),
            ("http://a\u{a0}b", "neither a URL nor host:port"),
            ("\u{feff}http://a", "neither a URL nor host:port"),
            ("http://a/\u{202e}b", "neither a URL nor host:port"),
            ("http://a\u{0}b", "control character"),
            ("http://a\rhttp://b", "control character"),
            ("\u{1b}[31mhttp://a", "control character"),
            ("ftp://device/", "another kind than http"),
            ("http://", "no valid host"),
            ("http:///path", "no valid host"),
            ("http://a..b", "no valid host"),
            ("http://1.2.3", "no valid host"),
            ("http://10.1.0.300:80", "no valid host"),
            ("http://[::g]:80", "no valid host"),
            ("http://a:b", "port that is not a number"),
            ("http://a:99999", "port that is not a number"),
            (long.as_str(), "longer than 2048 bytes"),
        ] {
            let error = read(format!("http://good:80\n\n{line}\nhttp://good:81\n")).unwrap_err();
            assert!(matches!(error, ListError::Line { number: 3, .. }), "{line}");
            assert!(error.to_string().contains(why), "{line}: {error}");
            assert!(error.to_string().len() < 200);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let error = read(b"http://a\n\xff\xfe\x00\x01").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2 of the list is not UTF-8 text: \"\u{fffd}\u{fffd}\\0\\u{1}\""
        );
    }

    #[test]
    fn a_refused_line_does_not_show_a_password() {
        let error = read("http://user:hunter2@ho st/\n")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let error = read("http://ho st/?token=hunter2\n")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn blanks_carriage_returns_blank_lines_and_duplicates_are_dropped() {
        assert_eq!(
            endpoints("\r\n  http://b:80 \t\r\n\n   \nhttp://a:80\r\nhttp://b:80"),
            ["http://a:80", "http://b:80"]
        );
        assert!(read("").unwrap().is_empty());
        assert!(read("\n").unwrap().is_empty());
    }

    #[test]
    fn a_line_of_2048_bytes_is_taken_and_blanks_around_it_do_not_count() {
        let endpoint = format!("http://host/{}", "x".repeat(MAX_ENDPOINT_BYTES - 12));
        assert_eq!(endpoint.len(), MAX_ENDPOINT_BYTES);
        assert_eq!(endpoints(&format!("  {endpoint}\r\n")), [endpoint]);
        assert!(read("a".repeat(1 << 20)).is_err());
        assert!(read(" ".repeat(1 << 20)).is_err());
    }

    #[test]
    fn the_order_of_the_reply_and_where_it_was_cut_do_not_matter() {
        let body = b"http://c:80\nhttp://a:80\r\nhttp://b:80\nhttp://a:80\n\n b:1 ";
        let whole = read(body).unwrap();
        for cut in 0..body.len() {
            let mut reader = ListReader::new(LIMIT);
            let (before, after) = body.split_at(cut);
            reader.push(before).unwrap();
            reader.push(after).unwrap();
            assert_eq!(reader.finish().unwrap(), whole);
        }
        assert_eq!(
            whole,
            read("http://b:80\nb:1\nhttp://a:80\nhttp://c:80").unwrap()
        );
    }

    #[test]
    fn a_list_over_the_limit_is_refused_with_its_size_and_number_of_devices() {
        let mut body = String::new();
        for device in 0..60_000 {
            body += &format!("http://10.1.{}.{}:8080\n", device / 250, device % 250);
        }
        let encoded: usize = body.lines().map(encoded_device_len).sum();
        let expected = ListError::TooLarge {
            devices: 60_000,
            bytes: encoded,
            limit: LIMIT,
        };
        assert_eq!(read(&body), Err(expected));
        // Each line twice: known to be duplicates as long as the list could still fit.
        assert!(matches!(
            read(body.clone() + &body),
            Err(ListError::TooLarge {
                devices: 60_000..,
                ..
            })
        ));
    }

    #[test]
    fn a_list_that_is_only_large_by_its_duplicates_is_taken() {
        let body = "http://10.1.0.194:8080\nhttp://10.1.0.195:8080\n".repeat(50_000);
        assert_eq!(read(body).unwrap().len(), 2);
    }

    #[test]
    fn a_message_of_exactly_the_limit_fits() {
        let list = read("http://a:80\nhttp://b:80").unwrap();
        let at = |limit| {
            let mut reader = ListReader::new(limit);
            reader.push(b"http://a:80\nhttp://b:80").unwrap();
            reader.finish()
        };
        assert!(at(list.encoded_len()).is_ok());
        assert!(at(list.encoded_len() - 1).is_err());
    }
}
