use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<DiscoveryDetails, DetailsError> {
    DiscoveryDetails::parse(text, &Settings::in_directory(Path::new("/"), "http"))
}

#[test]
fn just_a_url_is_polled_at_the_defaults() {
    for text in [
        "http://discovery:9999/discovery",
        "  http://discovery:9999/discovery\n",
        "\"http://discovery:9999/discovery\"",
        "url: http://discovery:9999/discovery",
        "{\"url\": \"http://discovery:9999/discovery\"}",
        "---\nurl: http://discovery:9999/discovery\ninterval:\n",
    ] {
        let details = parse(text).unwrap();
        assert_eq!(details.url.as_str(), "http://discovery:9999/discovery");
        let seconds = [
            details.times.interval,
            details.times.timeout,
            details.times.grace,
        ]
        .map(|it| it.as_secs());
        assert_eq!(seconds, [10, 5, 60]);
    }
    assert!(parse("https://[fd00::1]/a?b=c: d#e".replace(' ', "").as_str()).is_ok());
}

#[test]
fn a_mapping_sets_times_with_units() {
    let details = parse("url: https://d/\ninterval: 1m\ntimeout: 500ms\ngrace: 0s").unwrap();
    assert_eq!(details.times.grace, Duration::ZERO);
    assert_eq!(details.times.interval, Duration::from_secs(60));
    assert_eq!(details.times.timeout, Duration::from_millis(500));
    for (interval, timeout) in [("100ms", "100ms"), ("24h", "10m"), ("1h 30m", "1s")] {
        assert!(
            parse(&format!(
                "url: http://d\ninterval: {interval}\ntimeout: {timeout}"
            ))
            .is_ok()
        );
    }
}

#[test]
fn anything_else_is_refused_with_what_is_wrong_and_what_would_be_right() {
    let long = format!("http://d/{}", "x".repeat(2048));
    for (text, why) in [
        ("", "it is empty; expected a URL such as"),
        ("  \n", "it is empty; expected a URL such as"),
        ("discovery", "not a URL; expected"),
        ("discovery:9999/discovery", "not a URL; expected"),
        (
            "ftp://discovery/",
            "the URL has a scheme that is not http or https",
        ),
        ("file:///etc/passwd", "a scheme that is not http or https"),
        ("http://", "the URL has no valid host"),
        ("http://d:99999/", "the URL has a port that is not"),
        ("http://a http://b", "a blank"),
        (long.as_str(), "the URL is longer than 2048 bytes"),
        (
            "- http://d",
            "expected mapping start at line 1, column 1; expected",
        ),
        ("interval: 10s", "missing field `url`"),
        (
            "url: http://d\nintervall: 10s",
            "unknown field `intervall` at line 2, column 1; expected a URL",
        ),
        ("url: http://d\nurl: http://e", "duplicate mapping key: url"),
        ("url: [http://d]", "expected string scalar"),
        ("url: 'http://d", "unclosed quote"),
        ("url: ''", "not a URL"),
        (
            "url: http://d\ninterval: 10",
            "interval must be a duration from 100ms to 24h, such as 10s",
        ),
        (
            "url: http://d\ninterval: 99ms",
            "interval must be a duration from 100ms",
        ),
        ("url: http://d\ninterval: 25h", "interval must be"),
        ("url: http://d\ninterval: -1s", "interval must be"),
        (
            "url: http://d\ninterval: 99999999999999999999h",
            "must be a duration",
        ),
        (
            "url: http://d\ntimeout: 11m",
            "timeout must be a duration from 100ms to 10m",
        ),
        ("url: http://d\ntimeout: 0s", "timeout must be"),
        (
            "url: http://d\ngrace: soon",
            "grace must be a duration from 0s to 24h",
        ),
        (
            "url: ~",
            "cannot deserialize null into string at line 1, column 6; expected",
        ),
        (
            "url: http://d\n---\nurl: http://e",
            "multiple YAML documents detected at line",
        ),
        ("http:d", "not a URL; expected"),
        ("http:///d", "the URL has no valid host"),
        ("http://d:0/", "the URL has a port that is not"),
        ("a: &a [1]\nb: [*a, *a]", "unknown field `a`"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_proxy_is_an_http_url_and_is_not_shown() {
    let details = parse("url: https://d/\nproxy: http://me:hunter2@proxy:3128").unwrap();
    assert_eq!(details.proxy.as_ref().unwrap().port(), Some(3128));
    assert!(!format!("{details:?} {details}").contains("hunter2"));
    assert_ne!(details, parse("https://d/").unwrap());
    assert!(parse("url: http://d\nproxy: http://proxy:3128/").is_ok());
    for proxy in [
        "https://proxy:3128",
        "proxy:3128",
        "socks5://me:hunter2@p:1",
        "''",
        "http://",
        "http://proxy:3128/hunter2",
        "http://proxy:3128?hunter2",
        "http://proxy:3128/#hunter2",
    ] {
        let error = parse(&format!("url: http://d\nproxy: {proxy}")).unwrap_err();
        let why = "discoveryDetails: the proxy is not a URL such as http://proxy:3128";
        assert_eq!(error.to_string(), why, "{proxy}");
    }
}

#[test]
fn what_is_logged_shows_no_password_and_no_token() {
    let secret = "http://me:hunter2@d:9999/discovery?token=hunter2#hunter2";
    let details = parse(secret).unwrap();
    assert_eq!(details.to_string(), "http://d:9999/discovery");
    assert!(!format!("{details:?}").contains("hunter2"));
    assert!(details.url.as_str().contains("hunter2"));
    for text in [
        "http://me:hunter2@",
        "ftp://me:hunter2@d",
        "http://me:hunter2@a b",
        "http://me:hunter2@d/x interval: 5s",
        "url: http://d\nhttp://me:hunter2@x: 5",
        "url: http://d\ninterval: http://me:hunter2@x",
        "url: http://d\ngrace: hunter2",
    ] {
        assert!(!parse(text).unwrap_err().to_string().contains("hunter2"));
    }
}

#[test]
fn a_mapping_says_how_a_reply_is_read() {
    let details = parse(
        "url: http://d\nformat: http-sd\nscheme: https\npath: /a?b=c\nmetaLabels: keep\nonPropertyChange: replace\n\
         include: {endpoint: '^https://10\\.'}\nexclude:\n- {id: spare}\n- {properties: {SITE: lab}}",
    );
    let options = details.unwrap().options;
    assert!(options.https && !options.filters.is_empty());
    assert_eq!(options.format, Format::HttpSd);
    assert_eq!(options.path, "/a?b=c");
    assert_eq!(options.meta_labels, MetaLabels::Keep);
    assert_eq!(options.on_property_change, OnPropertyChange::Replace);
    for text in [
        "http://d",
        "url: http://d\nformat: lines\nonPropertyChange: keep\ninclude:\nscheme: ~",
    ] {
        assert_eq!(parse(text).unwrap().options, Options::default());
    }
    for (one, other) in [
        ("format: http-sd", "format: devices"),
        ("include: {id: a}", "include: {id: b}"),
        ("include: {id: a}", "exclude: {id: a}"),
    ] {
        let details = [one, other].map(|text| parse(&format!("url: http://d\n{text}")).unwrap());
        assert_ne!(details[0], details[1], "they do not share a poller");
    }
}

#[test]
fn a_mapping_that_cannot_say_so_is_refused() {
    for (text, why) in [
        ("format: xml", "format is none of lines, http-sd, devices"),
        ("format: HTTP-SD", "format is none of"),
        (
            "format: http-sd\nscheme: ftp",
            "scheme is none of http, https",
        ),
        (
            "format: http-sd\npath: metrics",
            "path does not begin with /",
        ),
        ("format: http-sd\npath: '/a b'", "path has a blank"),
        ("path: /a", "path is only for the format http-sd"),
        ("scheme: https", "scheme is only for the format http-sd"),
        ("format: devices\nscheme: https", "scheme is only for"),
        (
            "format: devices\nmetaLabels: keep",
            "metaLabels is only for",
        ),
        (
            "onPropertyChange: replace",
            "onPropertyChange is not for the format lines",
        ),
        (
            "format: devices\nonPropertyChange: drop",
            "onPropertyChange is none of keep, replace",
        ),
        (
            "onpropertychange: keep",
            "unknown field `onpropertychange` at line 2",
        ),
        (
            "include: {id: '('}",
            "include, entry 1, id is not a regular expression: unclosed group",
        ),
        ("include: {name: x}", "unknown field `name` at line 2"),
        ("include: hunter2", "a filter is not a mapping"),
        (
            "include: {properties: {A: a}}",
            "devices of the format lines have none",
        ),
    ] {
        let error = parse(&format!("url: http://d\n{text}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_example_in_the_documents_is_read() {
    let document = include_str!("../../../docs/formats.md");
    let (_, example) = document.split_once("discoveryDetails: |\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let options = parse(&example.replace("\n  ", "\n")).unwrap().options;
    assert_eq!(options.path, "/sensor");
    assert!(!options.filters.is_empty());
}
