//! Whatever a reply holds, a format takes it as a whole or refuses it as a whole, and the order in it does not matter.
//! `fuzz/` goes further, with a nightly toolchain.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use akri_discovery::{Device, Preview, Settings};
use akri_http_discovery_handler::{
    DiscoveryDetails,
    formats::{Format, OnPropertyChange, Options, read},
};
use fastrand::Rng;

fn list(body: &[u8], options: &Options) -> anyhow::Result<Vec<(Device, String)>> {
    Ok(Preview::of(&read(body, options)?)?.devices)
}

fn options(format: Format, random: &mut Rng) -> Options {
    let change = [OnPropertyChange::Keep, OnPropertyChange::Replace];
    Options {
        format,
        https: random.bool(),
        on_property_change: change[random.usize(..2)],
        ..Options::default()
    }
}

/// Names and values that are fine, in any order.
fn texts(random: &mut Rng) -> Vec<String> {
    let mut names = vec!["site", "rack", "__scheme__", "__meta_x", "tags"];
    random.shuffle(&mut names);
    names.truncate(random.usize(..5));
    let value = |name: &str, random: &mut Rng| match name {
        "__scheme__" => "https".into(),
        _ => format!("{}\\u00fc\\n", random.u8(..3)),
    };
    names
        .into_iter()
        .map(|name| format!(r#""{name}": "{}""#, value(name, random)))
        .collect()
}

/// Good elements of a reply: groups with targets, or devices. Each target is there once, but a group may be empty.
fn elements(format: Format, random: &mut Rng) -> Vec<(Vec<String>, Vec<String>)> {
    let mut next = 0;
    let mut target = || {
        next += 1;
        format!("\"device-{next}:80\"")
    };
    (0..random.usize(..8))
        .map(|_| {
            let many = match format {
                Format::HttpSd => random.usize(..4),
                _ => 1,
            };
            ((0..many).map(|_| target()).collect(), texts(random))
        })
        .collect()
}

fn body(format: Format, elements: &[(Vec<String>, Vec<String>)]) -> String {
    let element = |(targets, texts): &(Vec<String>, Vec<String>)| {
        let (targets, texts) = (targets.join(", "), texts.join(","));
        match format {
            Format::HttpSd => format!(r#"{{"targets": [{targets}], "labels": {{{texts}}}}}"#),
            Format::Devices => format!(r#"{{"properties": {{{texts}}}, "endpoint": {targets}}}"#),
            Format::Lines => targets.trim_matches('"').to_owned(),
        }
    };
    let elements: Vec<String> = elements.iter().map(element).collect();
    match format {
        Format::Lines => elements.join("\n"),
        _ => format!("[{}]", elements.join(",\n")),
    }
}

#[test]
fn a_list_is_the_same_in_whatever_order_its_groups_targets_labels_and_devices_come() {
    let mut random = Rng::with_seed(11);
    for _ in 0..500 {
        for (_, format) in Format::NAMES {
            let options = options(format, &mut random);
            let mut elements = elements(format, &mut random);
            let before = list(body(format, &elements).as_bytes(), &options).unwrap();
            random.shuffle(&mut elements);
            for (targets, texts) in &mut elements {
                random.shuffle(targets);
                random.shuffle(texts);
            }
            // A repetition changes nothing either.
            elements.extend(elements.first().cloned());
            let after = list(body(format, &elements).as_bytes(), &options).unwrap();
            assert!(before == after, "{}", body(format, &elements));
        }
    }
}

#[test]
fn of_json_that_is_cut_anywhere_nothing_is_taken() {
    let mut random = Rng::with_seed(12);
    for _ in 0..100 {
        for format in [Format::HttpSd, Format::Devices] {
            let options = options(format, &mut random);
            let body = body(format, &elements(format, &mut random));
            assert!(read(body.as_bytes(), &options).is_ok());
            for end in 0..body.len() {
                assert!(
                    read(&body.as_bytes()[..end], &options).is_err(),
                    "{end}: {body}"
                );
            }
        }
    }
}

#[test]
fn no_reply_panics_and_an_error_is_one_short_line() {
    const PARTS: &[&str] = &[
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "null",
        "0",
        "-1e999",
        "true",
        "\"targets\"",
        "\"labels\"",
        "\"id\"",
        "\"endpoint\"",
        "\"properties\"",
        "\"a:1\"",
        "\"b:99999\"",
        "\"PATH\"",
        "\"__scheme__\"",
        "\\u0000",
        "\\ud800",
        "\u{202e}",
        "\n",
        " ",
        "http://a",
        "[{\"targets\": [",
        "[{\"endpoint\": ",
        "\u{0}",
        "ü",
    ];
    let mut random = Rng::with_seed(13);
    let mut refused = 0;
    for _ in 0..30_000 {
        let (_, format) = Format::NAMES[random.usize(..3)];
        let options = options(format, &mut random);
        let mut bytes = body(format, &elements(format, &mut random)).into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..=bytes.len());
            let end = (at + random.usize(..6)).min(bytes.len());
            let part = PARTS[random.usize(..PARTS.len())].as_bytes();
            bytes.splice(at..end, part.iter().copied());
        }
        if random.u8(..4) == 0 && !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        if let Err(error) = read(&bytes, &options) {
            let error = error.to_string();
            refused += 1;
            assert!(
                error.len() < 600 && !error.contains(char::is_control),
                "{error}"
            );
        }
    }
    assert!(refused > 10_000, "{refused}");
}

#[test]
fn no_details_panic_and_what_is_read_is_read_the_same_again() {
    const PARTS: &[&str] = &[
        "url: ",
        "http://d",
        "format: ",
        "http-sd",
        "devices",
        "lines",
        "\n",
        "include: ",
        "exclude: ",
        "{id: ",
        "}",
        "[",
        "]",
        "a(",
        "'",
        "\"",
        "^a$",
        "properties: ",
        "{A: b}",
        "path: /",
        "scheme: https",
        "onPropertyChange: ",
        "replace",
        "metaLabels: keep",
        "  ",
        "- ",
        "&a ",
        "*a",
        "~",
        "!!int ",
        "\\x{110000}",
        "(a{99}){99}",
        "?",
        ": ",
        "#",
        "\t",
        "é",
    ];
    let settings = Settings::in_directory(Path::new("/"), "http");
    let mut random = Rng::with_seed(14);
    let mut good = 0;
    for _ in 0..10_000 {
        let mut text = String::from(if random.bool() {
            "url: http://d\nformat: devices\n"
        } else {
            ""
        });
        for _ in 0..random.usize(..8) {
            text += PARTS[random.usize(..PARTS.len())];
        }
        match DiscoveryDetails::parse(&text, &settings) {
            Ok(details) => {
                good += 1;
                assert_eq!(DiscoveryDetails::parse(&text, &settings), Ok(details));
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    assert!(good > 150, "{good}");
}
