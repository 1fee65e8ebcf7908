//! What JSON sources bring reaches the Agent, and what is wrong with one costs no device.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use support::*;

fn json(body: &str) -> Reply {
    let head = format!(
        "200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}",
        body.len()
    );
    raw(&head, body)
}

/// The devices of the next message, by their ids.
async fn next(stream: &mut DeviceStream) -> BTreeMap<String, BTreeMap<String, String>> {
    let message = soon(stream.0.message()).await.unwrap().unwrap();
    let devices = message.devices.into_iter();
    devices
        .map(|device| (device.id, device.properties.into_iter().collect()))
        .collect()
}

fn ids(devices: &BTreeMap<String, BTreeMap<String, String>>) -> Vec<&str> {
    devices.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_prometheus_http_sd_server_works_and_a_bad_group_costs_no_device() {
    let good = r#"[{"targets": ["a:1", "b:1"], "labels": {"site": "lab"}}, {"targets": ["c:1"]}]"#;
    let service = Service::start(json(good)).await;
    let handler = Handler::start().await;
    let details = format!("{}\nformat: http-sd\npath: /metrics", service.details());
    let mut stream = handler.stream(&details).await;
    let devices = next(&mut stream).await;
    assert_eq!(
        ids(&devices),
        [
            "http://a:1/metrics",
            "http://b:1/metrics",
            "http://c:1/metrics"
        ]
    );
    let of_b = &devices["http://b:1/metrics"];
    assert_eq!(of_b["AKRI_HTTP_LABEL_SITE"], "lab");
    assert_eq!(of_b["AKRI_HTTP_DEVICE_ENDPOINT"], "http://b:1/metrics");

    for (bad, why) in [
        (
            good.replace("\"c:1\"", "null"),
            "group 2, target 1, expected a string, found null",
        ),
        (
            good.replace("c:1", "c:1/x"),
            "group 2, target 1 is neither a host nor host:port",
        ),
        (good[..60].to_owned(), "EOF while parsing"),
    ] {
        service.now(json(&bad));
        log_line(&["WARN", &service.key(), why]).await;
    }
    service.now(json("[]"));
    assert!(
        next(&mut stream).await.is_empty(),
        "a good list of no device"
    );
}

#[tokio::test]
async fn rule_14_with_keep_a_changed_property_is_told_and_the_instance_stays() {
    let listed = |site: &str| {
        json(&format!(
            r#"[{{"id": "boiler", "endpoint": "a:1", "properties": {{"SITE": "{site}"}}}}, {{"endpoint": "b:1"}}]"#
        ))
    };
    let service = Service::start(listed("lab")).await;
    let handler = Handler::start().await;
    let details = format!("{}\nformat: devices", service.details());
    let mut stream = handler.stream(&details).await;
    assert_eq!(next(&mut stream).await["boiler"]["SITE"], "lab");
    service.now(listed("hunter2"));
    let devices = next(&mut stream).await;
    assert_eq!(ids(&devices), ["b:1", "boiler"]);
    assert_eq!(devices["boiler"]["SITE"], "hunter2");
    let line = "2 devices, changed: boiler; brokers that run keep the old properties";
    log_line(&["INFO", &service.key(), line]).await;
    assert!(logged(&["hunter2"]).is_empty(), "no property is logged");
}

#[tokio::test]
async fn with_replace_a_changed_property_is_another_device() {
    let listed = |site: &str| {
        json(&format!(
            r#"[{{"targets": ["a:1"], "labels": {{"site": "{site}"}}}}, {{"targets": ["b:1"]}}]"#
        ))
    };
    let service = Service::start(listed("lab")).await;
    let handler = Handler::start().await;
    let details = format!(
        "{}\nformat: http-sd\nonPropertyChange: replace",
        service.details()
    );
    let mut stream = handler.stream(&details).await;
    let before = next(&mut stream).await;
    service.now(listed("hall"));
    let after = next(&mut stream).await;
    let (before, after) = (ids(&before), ids(&after));
    assert_ne!(before[0], after[0]);
    assert!(before[0].starts_with("http://a:1~") && after[0].starts_with("http://a:1~"));
    assert_eq!(before[1], after[1], "it has not changed");
    let gone = format!("new: {}, gone: {}", after[0], before[0]);
    log_line(&["INFO", &service.key(), &gone]).await;
}

#[tokio::test]
async fn a_missing_device_is_kept_with_its_properties() {
    let both = r#"[{"endpoint": "a:1", "properties": {"SITE": "lab"}}, {"endpoint": "b:1"}]"#;
    let service = Service::start(json(both)).await;
    let handler = Handler::start().await;
    let details = format!("{}\nformat: devices\ngrace: 1h", service.details());
    let mut stream = handler.stream(&details).await;
    let before = next(&mut stream).await;
    service.now(json(r#"[{"endpoint": "b:1"}, {"endpoint": "c:1"}]"#));
    let after = next(&mut stream).await;
    assert_eq!(ids(&after), ["a:1", "b:1", "c:1"]);
    assert_eq!(after["a:1"], before["a:1"]);
}

#[tokio::test]
async fn filters_choose_among_lines_and_among_devices() {
    let service = Service::start(list(&[
        "http://10.0.0.1",
        "http://10.0.0.2",
        "http://192.168.0.1",
    ]))
    .await;
    let handler = Handler::start().await;
    let filters = "include: {endpoint: '^http://10\\.'}\nexclude: {id: '2$'}";
    let mut stream = handler
        .stream(&format!("{}\n{filters}", service.details()))
        .await;
    assert_eq!(stream.list().await, ["http://10.0.0.1"]);

    let groups = r#"[{"targets": ["a:1"], "labels": {"site": "lab"}}, {"targets": ["b:1"], "labels": {"site": "hall"}}]"#;
    let service = Service::start(json(groups)).await;
    let filters = "format: http-sd\ninclude: {properties: {AKRI_HTTP_LABEL_SITE: '^lab$'}}";
    let mut stream = handler
        .stream(&format!("{}\n{filters}", service.details()))
        .await;
    assert_eq!(stream.list().await, ["http://a:1"]);

    let bad = format!("{}\ninclude: {{id: '('}}", service.details());
    let refused = handler.discover(&bad).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    log_line(&["include, entry 1, id is not a regular expression: unclosed group"]).await;
}

#[tokio::test]
async fn an_id_of_any_script_is_sent_and_logged_as_it_is() {
    let id = "Ku\u{308}hlraum#2 เครื่อง";
    let body = format!(r#"[{{"id": "{id}", "endpoint": "a:1"}}]"#);
    let service = Service::start(json("[]")).await;
    let handler = Handler::start().await;
    let details = format!("{}\nformat: devices", service.details());
    let mut stream = handler.stream(&details).await;
    assert!(next(&mut stream).await.is_empty());
    service.now(json(&body));
    assert_eq!(ids(&next(&mut stream).await), [id]);
    log_line(&[&service.key(), id]).await;
}
