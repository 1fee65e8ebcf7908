//! Somebody else's words in a log line.

use std::{error::Error, fmt::Write, io};

/// The most characters of somebody else's text that one log line takes.
const LOGGED_CHARACTERS: usize = 256;

/// Text from outside as one line for a log: trimmed, with control characters escaped, and cut after 256 characters with its
/// length named.
pub fn one_line(text: &str) -> String {
    let text = text.trim();
    let mut line = String::new();
    for (position, character) in text.chars().enumerate() {
        if position == LOGGED_CHARACTERS {
            // Writing to a String cannot fail.
            let _ = write!(line, "... ({} bytes)", text.len());
            break;
        }
        if is_harmless(character) {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
    line
}

/// Whether it stands in a log line as it is: it is no control character, ends no line, and does not change the line's direction.
pub fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An error and its causes, from the outermost to the innermost.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        // An `io::Error` passes over the error that it wraps when it is asked for its source.
        match error.downcast_ref().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}

/// The innermost cause of an error says what happened ("Connection refused"); those around it name layers, and may hold a
/// URL with its password.
pub fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_text_is_one_line() {
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
    fn a_long_text_is_cut_with_its_length() {
        let line = one_line(&"ä".repeat(1000));
        assert_eq!(line, format!("{}... (2000 bytes)", "ä".repeat(256)));
        assert_eq!(one_line(&"x".repeat(256)), "x".repeat(256));
    }

    #[test]
    fn the_innermost_cause_is_found_also_inside_an_io_error() {
        let inner = io::Error::other("what happened");
        let outer = io::Error::other(io::Error::other(inner));
        assert_eq!(innermost(&outer).to_string(), "what happened");
    }
}
