use super::*;

/// The example of Prometheus' documentation.
const PROMETHEUS: &str = r#"[
    {
        "targets": ["10.0.10.2:9100", "10.0.10.3:9100", "10.0.10.4:9100", "10.0.10.5:9100"],
        "labels": {
            "__meta_datacenter": "london",
            "__meta_prometheus_job": "node"
        }
    },
    {
        "targets": ["10.0.40.2:9100", "10.0.40.3:9100"],
        "labels": {
            "__meta_datacenter": "london",
            "__meta_prometheus_job": "alertmanager"
        }
    },
    {
        "targets": ["10.0.40.2:9093", "10.0.40.3:9093"],
        "labels": {
            "__meta_datacenter": "newyork",
            "__meta_prometheus_job": "alertmanager"
        }
    }
]"#;

/// As NetBox's plugin for Prometheus answers, a group for each device.
const NETBOX: &str = r#"[
    {"targets": ["boiler-7.lab.example"], "labels": {
        "__meta_netbox_id": "7", "__meta_netbox_name": "boiler-7", "__meta_netbox_status": "active",
        "__meta_netbox_site": "Müllheim", "__meta_netbox_site_slug": "muellheim", "__meta_netbox_tags": "heat,floor 2",
        "__meta_netbox_primary_ip": "10.0.0.7", "__meta_netbox_tenant": ""}},
    {"targets": ["[fd00::8]:8080"], "labels": {
        "__meta_netbox_id": "8", "__meta_netbox_name": "boiler-8", "__meta_netbox_status": "offline"}}
]"#;

#[test]
fn prometheus_own_example_is_read_and_its_meta_labels_are_dropped_unless_they_are_wanted() {
    let found = read_http_sd(PROMETHEUS).unwrap();
    assert_eq!(found.len(), 8);
    assert_eq!(found[0].id, "http://10.0.10.2:9100");
    assert_eq!(found[0].properties.len(), 2);
    let meta = Options {
        path: "/metrics".into(),
        https: true,
        meta_labels: MetaLabels::Keep,
        ..options(Format::HttpSd)
    };
    let found = devices_of(PROMETHEUS.as_bytes(), &meta).unwrap();
    assert_eq!(
        properties(&found[7]),
        [
            ("AKRI_HTTP", "http"),
            (
                "AKRI_HTTP_DEVICE_ENDPOINT",
                "https://10.0.40.3:9100/metrics"
            ),
            ("AKRI_HTTP_LABEL_META_DATACENTER", "london"),
            ("AKRI_HTTP_LABEL_META_PROMETHEUS_JOB", "alertmanager"),
        ]
    );
    let netbox = devices_of(NETBOX.as_bytes(), &meta).unwrap();
    assert_eq!(
        ids(&netbox),
        [
            "https://[fd00::8]:8080/metrics",
            "https://boiler-7.lab.example/metrics"
        ]
    );
    let of_boiler_7 = &netbox[1].properties;
    assert_eq!(of_boiler_7["AKRI_HTTP_LABEL_META_NETBOX_SITE"], "Müllheim");
    assert!(
        !of_boiler_7.contains_key("AKRI_HTTP_LABEL_META_NETBOX_TENANT"),
        "an empty label is none"
    );
}

#[test]
fn the_labels_of_a_group_are_properties_and_its_scheme_and_path_win() {
    let with_path = Options {
        path: "/sensor".into(),
        ..options(Format::HttpSd)
    };
    let body = r#"[
        {"targets": ["a:1", "b"], "labels": {"site": "lab", "rack-no.2": "7", "__scheme__": "https", "__metrics_path__": "m?x=1"}},
        {"labels": {"__scheme__": "", "__param_x": "1"}, "targets": ["c:1"]},
        {"targets": []}
    ]"#;
    let found = devices_of(body.as_bytes(), &with_path).unwrap();
    assert_eq!(
        ids(&found),
        ["http://c:1/sensor", "https://a:1/m?x=1", "https://b/m?x=1"]
    );
    assert_eq!(found[0].properties.len(), 2);
    assert_eq!(
        properties(&found[1])[2..],
        [
            ("AKRI_HTTP_LABEL_RACK_NO_2", "7"),
            ("AKRI_HTTP_LABEL_SITE", "lab")
        ]
    );
}

#[test]
fn no_group_is_an_empty_list() {
    for body in ["[]", " [ ]\n", r#"[{"targets": []}]"#] {
        assert_eq!(read_http_sd(body).unwrap(), []);
    }
    assert_eq!(devices("[]").unwrap(), []);
}

#[test]
fn http_sd_of_another_shape_is_refused_with_its_place_and_without_its_values() {
    let long = format!(
        r#"[{{"targets": [], "labels": {{"{}": "1"}}}}]"#,
        "x".repeat(129)
    );
    let large = format!(
        r#"[{{"targets": [], "labels": {{"x": "{}"}}}}]"#,
        "x".repeat(4_097)
    );
    let labels: Vec<String> = (0..65).map(|n| format!(r#""x{n}": "1""#)).collect();
    let many = format!(r#"[{{"targets": [], "labels": {{{}}}}}]"#, labels.join(","));
    let targets = format!(r#"[{{"targets": [{}"a"]}}]"#, r#""","#.repeat(100_000));
    let deep = "[".repeat(100_000);
    for (body, why) in [
        ("", "EOF while parsing a value at line 1"),
        (
            "null",
            "expected an array with an object for each group, found null at line 1 column 4",
        ),
        (
            r#""hunter2, expected x""#,
            "an object for each group, found a string at line 1",
        ),
        (r#"{"targets": ["a:1"]}"#, "for each group, found an object"),
        (
            "[null]",
            "group 1, expected an object, found null at line 1 column 5",
        ),
        (
            "[[[\"a:1\"], {}]]",
            "group 1, expected an object, found an array",
        ),
        ("[{}]", "group 1, missing field `targets`"),
        (
            r#"[{"targets": null}]"#,
            "group 1, expected an array of targets, found null",
        ),
        (
            r#"[{"targets": ["a:1"]}, {"targets": ["b:1", null]}]"#,
            "group 2, target 2, expected a string, found null",
        ),
        (
            r#"[{"targets": [4217]}]"#,
            "group 1, target 1, expected a string, found a number",
        ),
        (
            r#"[{"targets": [], "labels": null}]"#,
            "group 1, expected an object of strings, found null",
        ),
        (
            r#"[{"targets": [], "labels": {"x": 4217.5}}]"#,
            "group 1, \"x\", expected a string, found a number",
        ),
        (
            r#"[{"targets": [], "labels": {"x": true}}]"#,
            "group 1, \"x\", expected a string, found true or false",
        ),
        (
            r#"[{"targets": [], "labels": {"x": null}}]"#,
            "group 1, \"x\", expected a string, found null",
        ),
        (
            r#"[{"targets": [], "labels": {"x": {"y": 1}}}]"#,
            "group 1, \"x\", expected a string, found an object",
        ),
        (
            r#"[{"targets": [], "labels": {"x": "1", "x": "1"}}]"#,
            "group 1, \"x\" is there twice",
        ),
        (
            r#"[{"targets": [], "labels": {"": "1"}}]"#,
            "group 1, \"\" is no name",
        ),
        (
            r#"[{"targets": [], "labels": {"x": "\u0000"}}]"#,
            "group 1, \"x\" has a value with a NUL",
        ),
        (&long, "xxx...\" is longer than 128 bytes"),
        (&large, "group 1, \"x\" has a value of more than 4096 bytes"),
        (&many, "is one more than 64"),
        (&targets, "more than 100000 targets"),
        (&deep, "group 1, expected an object, found an array"),
        (
            r#"[{"targets": [], "source": "x"}]"#,
            "group 1, unknown field `source`, expected `targets` or `labels`",
        ),
        (
            r#"[{"targets": [], "targets": []}]"#,
            "group 1, duplicate field `targets`",
        ),
        (r#"[] []"#, "trailing characters at line 1 column 4"),
        ("\u{feff}[]", "expected value at line 1 column 1"),
        (
            r#"[{"targets": ["a:1"]}, {"targets": ["b:1", "c:99999"]}]"#,
            "group 2, target 2 has a port that is not a number from 1 to 65535: \"c...\"",
        ),
        (
            r#"[{"targets": ["a:1/x"]}]"#,
            "group 1, target 1 is neither a host nor host:port",
        ),
        (
            r#"[{"targets": ["http://a:1"]}]"#,
            "group 1, target 1 is neither a host nor host:port",
        ),
        (
            r#"[{"targets": ["me:hunter2@a:1"]}]"#,
            "group 1, target 1 is neither a host nor host:port",
        ),
        (
            r#"[{"targets": [""]}]"#,
            "group 1, target 1 has no valid host",
        ),
        (
            r#"[{"targets": ["a b"]}]"#,
            "group 1, target 1 has a blank or another character",
        ),
        (
            r#"[{"targets": ["a:1"], "labels": {"__scheme__": "ftp"}}]"#,
            "group 1, label __scheme__ is neither http nor https",
        ),
        (
            r#"[{"targets": ["a:1"], "labels": {"__scheme__": "http://evil/"}}]"#,
            "group 1, label __scheme__ is neither",
        ),
        (
            r#"[{"targets": ["a:1"], "labels": {"__metrics_path__": "/ /"}}]"#,
            "group 1, target 1 has a blank",
        ),
        (
            r#"[{"targets": ["a:1"], "labels": {"a-b": "1", "A_b": "2"}}]"#,
            "group 1, labels A_b and a-b both become AKRI_HTTP_LABEL_A_B",
        ),
        (
            r#"[{"targets": ["b:1", "a:1"]}, {"targets": ["a:1"], "labels": {"x": "1"}}]"#,
            "group 1, target 2 and group 2, target 1 have the same id, and not the same endpoint and properties",
        ),
    ] {
        let error = read_http_sd(body).unwrap_err().to_string();
        assert!(error.contains(why), "{error}\n    instead of {why}");
        assert!(
            !error.contains("hunter2") && !error.contains("4217"),
            "{error}"
        );
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }
}
