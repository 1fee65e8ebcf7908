use super::*;

#[test]
fn an_endpoint_is_a_url_or_a_host() {
    for (text, url) in [
        ("http://device-1:8080", "http://device-1:8080/"),
        ("HTTPS://Device/Sensor", "https://device/Sensor"),
        ("device", "http://device/"),
        ("device:8000", "http://device:8000/"),
        (
            "device:8000/sensor?unit=C",
            "http://device:8000/sensor?unit=C",
        ),
        (
            "device:80/go?to=http://other",
            "http://device/go?to=http://other",
        ),
        ("10.1.0.194:8080", "http://10.1.0.194:8080/"),
        ("[fd00::1]:8080", "http://[fd00::1]:8080/"),
        ("[fd00::1]", "http://[fd00::1]/"),
        ("user:secret@device:80", "http://user:secret@device/"),
        ("  device:1 \n", "http://device:1/"),
        ("http://grüße.example/", "http://xn--gre-6ka8l.example/"),
    ] {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.url().as_str(), url, "{text}");
    }
}

#[test]
fn a_list_holds_urls_and_hosts_with_a_port_as_people_write_them() {
    for text in [
        "http://device-1:8080",
        "https://device.example/",
        "HTTP://Device:80/Sensor?unit=C#now",
        "http://user:password@10.0.0.1/",
        "http://[fd00::1]:8080/a/b",
        "http://[::1]",
        "http://a_b.example.:1",
        "http://host/gr%C3%BC%C3%9Fe",
        "http://host/grüße",
        "http://host?x=a:b",
        "http://host/a@b",
        "device:8000",
        "10.1.0.194:8080",
        "[::1]:8080",
        "localhost:65535",
    ] {
        assert_eq!(check_listed(text), Ok(()), "{text}");
    }
    for text in ["device", "device/path", "[::1]", "mailto:me"] {
        assert_eq!(check_listed(text), Err(EndpointError::Form), "{text}");
    }
}

#[test]
fn what_is_no_endpoint_is_refused_with_its_rule() {
    use EndpointError::*;
    for (text, rule) in [
        ("", Empty),
        ("ftp://device", Scheme),
        ("unix:///run/device.sock", Scheme),
        ("http://", Host),
        ("http:///sensor", Host),
        ("/sensor", Host),
        ("fd00::1", Host),
        ("device:port", Port),
        ("device:65536", Port),
        ("device:0", Port),
        ("device:+80", Port),
        ("http://device:/", Port),
        ("two devices", ForeignCharacter),
        ("device\n:80", ControlCharacter),
        ("http:\\\\device", ForeignCharacter),
        ("http://a/\u{202e}b", ForeignCharacter),
        ("<html>", ForeignCharacter),
        ("http://a..b", Host),
        ("http://-a", Host),
        ("http://1.2.3", Host),
        ("http://2130706433", Host),
        ("http://0X7F000001", Host),
        ("http://0x7f.1", Host),
        ("http://%31.2.3.4", Host),
        ("http://10.1.0.300:80", Host),
        ("http://010.1.0.3", Host),
        ("http://[::g]:80", Host),
        ("http://[fe80::1%25eth0]/", Host),
        ("http://a.b.c.xn--pokxncvks", Host),
        ("http://１.２.３.４/", Host),
    ] {
        assert_eq!(text.parse::<Endpoint>(), Err(rule), "{text}");
    }
    let long = format!("http://host/{}", "x".repeat(MAX_ENDPOINT_BYTES));
    assert_eq!(long.parse::<Endpoint>(), Err(TooLong));
}

/// Hosts and what stands around them, from parts that URL parsers are known to disagree about.
fn nasty(random: &mut fastrand::Rng) -> String {
    const PARTS: &[&str] = &[
        "a",
        "B",
        "z9",
        "-",
        "_",
        ".",
        "..",
        "xn--",
        "xn--pokxncvks",
        "xn--gre-6ka8l",
        "XN--",
        "0x",
        "0X7F",
        "7f",
        "1",
        "127",
        "0",
        "010",
        "256",
        "4294967295",
        "1.2.3.4",
        "ü",
        "ß",
        "ⓐ",
        "١",
        "\u{200d}",
        "\u{ad}",
        "。",
        "[",
        "]",
        "[::1]",
        "[fe80::1%25eth0]",
        "::",
        ":",
        ":80",
        ":0",
        ":65536",
        "@",
        "u:p@",
        "%",
        "%41",
        "%2e",
        "%zz",
        "/",
        "/a/../b",
        "?",
        "#",
        "\\",
        " ",
        "\t",
        "http://",
        "https://",
        "HTTP://",
        "ftp://",
        "host",
        "localhost",
    ];
    let mut text = String::new();
    if random.u8(..4) > 0 {
        text += "http://";
    }
    for _ in 0..random.usize(1..6) {
        text += PARTS[random.usize(..PARTS.len())];
    }
    if random.u8(..3) == 0 {
        text += &format!(":{}", random.u32(..70_000));
    }
    text
}

#[test]
fn what_a_list_may_hold_a_broker_can_read_and_the_quick_look_agrees() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut listed, mut plain) = (0, 0);
    for _ in 0..200_000 {
        let text = nasty(&mut random);
        if check_listed(&text).is_ok() {
            listed += 1;
            let endpoint = text.parse::<Endpoint>();
            assert!(endpoint.is_ok(), "{text:?}: {endpoint:?}");
            let variable = format!("http://{text}");
            let url = if text.contains("://") {
                &text
            } else {
                &variable
            };
            assert!(Url::parse(url).is_ok(), "{text:?}");
        }
        if is_plain(&text) {
            plain += 1;
            assert!(parse(&text).is_ok(), "{text:?}");
        }
    }
    assert!(listed > 5_000 && plain > 2_500, "{listed} {plain}");
}

#[test]
fn an_endpoint_is_shown_as_written_without_secrets() {
    for (text, safe) in [
        ("device:80", "device:80"),
        ("HTTP://Device", "HTTP://Device"),
        (
            "https://user:p@ss@device/a@b?token=x#y",
            "https://device/a@b",
        ),
        ("user:secret@device:80?x", "device:80"),
        ("device#http://x", "device"),
        ("http://device#me:hunter2@x", "http://device"),
    ] {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.to_string(), safe);
        assert_eq!(format!("{endpoint:?}"), format!("Endpoint({safe})"));
        assert_eq!(shown(text), safe);
    }
}

#[test]
fn an_excerpt_holds_no_secret() {
    for (text, safe) in [
        ("<!DOCTYPE html>", Some("<!DOCTYPE html>")),
        ("404 page not found", Some("404 page not found")),
        ("http://user:hunter2", Some("http://user...")),
        ("user:hunter2", Some("user...")),
        ("http://user:hunter2@ho st/", None),
        ("http://ho st/?token=hunter2", Some("http://ho st/...")),
        ("\u{1b}[31m", Some("\\u{1b}[31m")),
        ("", None),
    ] {
        assert_eq!(excerpt(text.as_bytes()).as_deref(), safe, "{text}");
    }
}
