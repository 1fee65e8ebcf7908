//! Brokers: programs that use the HTTP devices which Akri hands to their Pod.
//!
//! The flow of a broker:
//! 1. [`command`]: settings, log, runtime, stop by signal, exit status: the same for every binary;
//! 2. [`endpoints`]: the devices, from the environment that the kubelet gives the Pod;
//! 3. [`read`]: one bounded read of one device, the only place that speaks HTTP to devices;
//! 4. [`standalone`]: reads each device at an interval and logs what it says.
//!
//! The way of a call through the gRPC broker, [`grpc_broker`]:
//! 1. [`callers`]: who may connect and call, and how much one caller may hold;
//! 2. [`calls`]: what ends a call other than its answer: its deadline, a limit, the broker's stop;
//! 3. [`service`]: the call turned into reads, their outcomes into answers;
//! 4. [`devices`]: the device and the path that the call names;
//! 5. [`watch`]: for a watch, when to read; [`sensor`]: reads that callers share, and the newest outcome.
//!
//! [`grpc_client`] is the other end, and [`lines`] what it prints.

pub mod callers;
pub mod calls;
pub mod command;
pub mod devices;
pub mod endpoints;
pub mod grpc_broker;
pub mod grpc_client;
pub mod lines;
pub mod read;
pub mod sensor;
pub mod service;
pub mod standalone;
pub mod watch;

use std::fmt::Write;

/// The most characters of a device's text that one log line takes.
const LOGGED_CHARACTERS: usize = 256;

/// Text from a device as one line for a log: trimmed, with control characters escaped, and cut after
/// 256 characters with its length named.
pub fn one_line(text: &str) -> String {
    let text = text.trim();
    let mut line = String::new();
    for (position, character) in text.chars().enumerate() {
        if position == LOGGED_CHARACTERS {
            // Writing to a String cannot fail.
            let _ = write!(line, "... ({} bytes)", text.len());
            break;
        }
        // The latter break lines or change their direction, without being control characters.
        if character.is_control()
            || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// A device's text as a number, where it is a finite one; blanks around it do not matter.
pub fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_finite_and_alone() {
        for (text, expected) in [
            ("0.5\n", Some(0.5)),
            (" -1e3 ", Some(-1000.0)),
            ("+7", Some(7.0)),
            ("", None),
            ("21.5 C", None),
            ("1,5", None),
            ("nan", None),
            ("inf", None),
            ("-Infinity", None),
            ("1e999", None),
            ("0x10", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_value_is_one_line() {
        for (text, line) in [
            ("", ""),
            (" 0.5\r\n", "0.5"),
            ("21.5 °C", "21.5 °C"),
            ("a\nb\tc", r"a\nb\tc"),
            ("\u{1b}[31mred\0", r"\u{1b}[31mred\u{0}"),
            ("a\u{2028}b\u{202e}c", r"a\u{2028}b\u{202e}c"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn a_long_value_is_cut_with_its_length() {
        let line = one_line(&"ä".repeat(1000));
        assert_eq!(line, format!("{}... (2000 bytes)", "ä".repeat(256)));
        assert_eq!(one_line(&"x".repeat(256)), "x".repeat(256));
    }
}
