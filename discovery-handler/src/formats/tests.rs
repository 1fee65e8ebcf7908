use super::*;

mod http_sd;

fn options(format: Format) -> Options {
    Options {
        format,
        ..Options::default()
    }
}

fn read_http_sd(body: &str) -> anyhow::Result<Vec<Device>> {
    devices_of(body.as_bytes(), &options(Format::HttpSd))
}

fn devices(body: &str) -> anyhow::Result<Vec<Device>> {
    devices_of(body.as_bytes(), &options(Format::Devices))
}

/// As they go to the Agent.
fn devices_of(body: &[u8], options: &Options) -> anyhow::Result<Vec<Device>> {
    let preview = akri_discovery::Preview::of(&read(body, options)?)?;
    Ok(preview
        .devices
        .into_iter()
        .map(|(device, _)| device)
        .collect())
}

fn ids(devices: &[Device]) -> Vec<&str> {
    devices.iter().map(|device| device.id.as_str()).collect()
}

fn properties(device: &Device) -> Vec<(&str, &str)> {
    let properties = device.properties.iter();
    properties
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[test]
fn a_device_is_what_the_walkthrough_makes_of_its_endpoint() {
    let [device] = &devices_of(b"http://device-1:8080", &Options::default()).unwrap()[..] else {
        panic!("one device");
    };
    assert_eq!(device.id, "http://device-1:8080");
    assert_eq!(
        properties(device),
        [
            ("AKRI_HTTP", "http"),
            ("AKRI_HTTP_DEVICE_ENDPOINT", "http://device-1:8080")
        ]
    );
    assert!(device.mounts.is_empty() && device.device_specs.is_empty());
}

#[test]
fn a_device_has_the_id_the_endpoint_and_the_properties_that_are_listed() {
    let found = devices(
        r#"[{"id": "boiler-7", "endpoint": "http://10.0.0.7/sensor", "properties": {"SITE": "lab", "_2": "", "path": "x"}},
            {"endpoint": "10.0.0.8:80"}]"#,
    );
    let found = found.unwrap();
    assert_eq!(ids(&found), ["10.0.0.8:80", "boiler-7"]);
    assert_eq!(found[0].properties.len(), 2);
    assert_eq!(
        properties(&found[1]),
        [
            ("AKRI_HTTP", "http"),
            ("AKRI_HTTP_DEVICE_ENDPOINT", "http://10.0.0.7/sensor"),
            ("SITE", "lab"),
            ("_2", ""),
            ("path", "x"),
        ]
    );
}

#[test]
fn a_device_that_cannot_be_one_refuses_the_reply_with_its_place() {
    let long = format!(r#"{{"id": "{}", "endpoint": "b:1"}}"#, "x".repeat(2_049));
    for (device, why) in [
        ("null", "device 2, expected an object, found null"),
        (r#""b:1""#, "device 2, expected an object, found a string"),
        ("{}", "device 2, missing field `endpoint`"),
        (r#"{"id": "b"}"#, "device 2, missing field `endpoint`"),
        (
            r#"{"endpoint": null}"#,
            "device 2, expected a string, found null",
        ),
        (
            r#"{"endpoint": "b:1", "id": null}"#,
            "device 2, expected a string, found null",
        ),
        (
            r#"{"endpoint": "b:1", "id": 7}"#,
            "device 2, expected a string, found a number",
        ),
        (
            r#"{"endpoint": "b:1", "id": ""}"#,
            "device 2, the id is empty",
        ),
        (
            r#"{"endpoint": "b:1", "id": "x\ny"}"#,
            "device 2, the id has a character that cannot be shown",
        ),
        (
            r#"{"endpoint": "b:1", "id": "x\u202ey"}"#,
            "device 2, the id has a character that cannot be shown",
        ),
        (&long, "device 2, the id is longer than 2048 bytes"),
        (
            r#"{"endpoint": "b"}"#,
            "device 2, the endpoint is neither a URL nor host:port: \"b\"",
        ),
        (
            r#"{"endpoint": "http://me:hunter2@b c"}"#,
            "device 2, the endpoint has a blank",
        ),
        (
            r#"{"endpoint": "b:1", "name": "x"}"#,
            "device 2, unknown field `name`, expected one of `id`, `endpoint`, `properties`",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"SITE": 1}}"#,
            "device 2, \"SITE\", expected a string, found a number",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"A-B": "1"}}"#,
            "device 2, property A-B is not letters, digits and _",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"1A": "1"}}"#,
            "device 2, property 1A is not letters, digits and _, beginning with no digit",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"AKRI_HTTP": "1"}}"#,
            "device 2, property AKRI_HTTP is reserved",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"AKRI_HTTP_DEVICE_ENDPOINT": "1"}}"#,
            "device 2, property AKRI_HTTP_DEVICE_ENDPOINT is reserved",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"PATH": "1"}}"#,
            "device 2, property PATH is reserved",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"LD_PRELOAD": "1"}}"#,
            "device 2, property LD_PRELOAD is reserved",
        ),
        (
            r#"{"endpoint": "b:1", "properties": {"KUBERNETES_SERVICE_HOST": "1"}}"#,
            "is reserved",
        ),
        (
            r#"{"endpoint": "b:1", "id": "a:1"}"#,
            "device 1 and device 2 have the same id, and not the same endpoint and properties",
        ),
        (
            r#"{"endpoint": "a:1", "properties": {"A": "1"}}"#,
            "device 1 and device 2 have the same id",
        ),
    ] {
        for on_property_change in [OnPropertyChange::Keep, OnPropertyChange::Replace] {
            let body = format!(r#"[{{"endpoint": "a:1"}}, {device}]"#);
            let options = Options {
                on_property_change,
                ..options(Format::Devices)
            };
            let error = devices_of(body.as_bytes(), &options)
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{error}\n    instead of {why}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

#[test]
fn what_is_there_twice_counts_once() {
    let body = r#"[{"targets": ["a:1", "b:1"]}, {"targets": ["b:1", "a:1", "a:1"]}]"#;
    assert_eq!(
        ids(&read_http_sd(body).unwrap()),
        ["http://a:1", "http://b:1"]
    );
    let body = r#"[{"id": "x", "endpoint": "a:1"}, {"endpoint": "a:1", "id": "x"}]"#;
    assert_eq!(ids(&devices(body).unwrap()), ["x"]);
}

#[test]
fn rule_14_with_replace_another_property_is_another_id_and_the_same_ones_are_the_same() {
    let replace = Options {
        on_property_change: OnPropertyChange::Replace,
        ..options(Format::Devices)
    };
    let id = |listed: &str| {
        let body = format!("[{listed}]");
        devices_of(body.as_bytes(), &replace).unwrap().remove(0).id
    };
    // printf 'AKRI_HTTP=http\0AKRI_HTTP_DEVICE_ENDPOINT=a:1\0SITE=lab\0' | b2sum -l 24
    let boiler = r#"{"id": "boiler", "endpoint": "a:1", "properties": {"SITE": "lab"}}"#;
    assert_eq!(id(boiler), "boiler~0e0951");
    assert_eq!(akri_device_http::shown(&id(boiler)), id(boiler));
    for (from, to) in [("lab", "lob"), ("SITE", "SIDE"), ("a:1", "a:2")] {
        let other = id(&boiler.replace(from, to));
        assert!(
            other.starts_with("boiler~") && other != id(boiler),
            "{other}"
        );
    }
}

#[test]
fn only_json_is_read_as_json() {
    for good in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/geo+json",
        " application/json ",
    ] {
        assert!(Format::HttpSd.check_content_type(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "text/html",
        "text/plain; x=application/json",
        "application/jsonp",
        "json",
        "a\nb",
    ] {
        assert!(Format::Lines.check_content_type(bad).is_ok());
        for format in [Format::HttpSd, Format::Devices] {
            let error = format.check_content_type(bad).unwrap_err().to_string();
            assert!(error.ends_with("expected application/json") && !error.contains('\n'));
        }
    }
    assert_eq!(Format::HttpSd.accept(), "application/json");
}

#[test]
fn ten_thousand_devices_are_ten_thousand_wherever_their_labels_stand() {
    let group = |n: usize| {
        format!(
            r#"{{"targets": ["10.0.{}.{}:9100"], "labels": {{"n": "{n}"}}}}"#,
            n / 250,
            n % 250
        )
    };
    let groups: Vec<String> = (0..10_000).map(group).collect();
    let body = format!("[{}]", groups.join(","));
    assert_eq!(read_http_sd(&body).unwrap().len(), 10_000);
    let more: Vec<String> = (0..100_001).map(|n| format!("\"d{n}\"")).collect();
    let half = more.len() / 2;
    let [one, other] = [&more[..half], &more[half..]].map(|targets| targets.join(","));
    let body = format!(r#"[{{"targets": [{one}]}}, {{"targets": [{other}]}}]"#);
    let error = read_http_sd(&body).unwrap_err().to_string();
    assert!(
        error.contains("the devices take more than 4194304 bytes"),
        "{error}"
    );
}
