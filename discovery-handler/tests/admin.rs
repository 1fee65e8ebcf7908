//! The handler as probes and Prometheus see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::future::pending;

use akri_stub_agent::{Config, Configuration, StubAgent};
use support::{admin::Admin, *};
use tokio::net::TcpListener;

async fn agent(handler: &Handler, details: &str) -> StubAgent {
    let mut config = Config::in_directory(handler.directory.path());
    config.configurations = vec![Configuration::new("akri-http", "http", details)];
    StubAgent::start(config).await.unwrap()
}

#[tokio::test]
async fn a_handler_is_ready_when_it_is_registered_and_every_stream_has_its_list() {
    let service = Service::start(raw("503 Service Unavailable", "")).await;
    let admin = Admin::on(1);
    let handler = Handler::start_with(|config| admin.set(config)).await;
    admin
        .not_ready("the Agent has not taken a registration")
        .await;
    let agent = agent(&handler, &service.details()).await;
    let reason = format!("{}: no list yet, ", service.url());
    admin.not_ready(&reason).await;
    service.now(list(&["a:1"]));
    admin.ready().await;
    service.now(Reply::Silence);
    assert_eq!(admin.get("/readyz").await, (200, "ok\n".into()));
    assert_eq!(admin.get("/livez").await, (200, "ok\n".into()));
    drop(agent);
    admin
        .not_ready("the Agent has not taken a registration")
        .await;
}

#[tokio::test]
async fn the_metrics_say_what_the_handler_does_and_no_secret() {
    let mut service = Service::start(list(&["a:1", "b:1"])).await;
    let admin = Admin::on(2);
    let handler = Handler::start_with(|config| admin.set(config)).await;
    let shown = service.url();
    let url = shown.replace("http://", "http://me:hunter2@") + "?token=hunter2";
    let agent = agent(&handler, &format!("{{url: '{url}', interval: 100ms}}")).await;
    admin.ready().await;
    service.polled(2).await;
    service.down();
    log_line(&["WARN", &service.key(), "the last list of 2 devices stands"]).await;
    let (status, metrics) = admin.get("/metrics").await;
    assert_eq!(status, 200);
    let value = |name: &str| {
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let request = format!("{{request=\"{shown}\"");
    for (name, expected) in [
        ("akri_discovery_registered ", 1.0),
        ("akri_discovery_streams ", 1.0),
        ("akri_discovery_messages_sent_total ", 1.0),
        (
            "akri_discovery_registrations_total{outcome=\"taken\"} ",
            1.0,
        ),
        (&format!("akri_discovery_devices{request}}} "), 2.0),
        (&format!("akri_discovery_missing_devices{request}}} "), 0.0),
        (
            &format!("akri_discovery_polls_total{request},outcome=\"changed\"}} "),
            1.0,
        ),
        ("akri_build_info{", 1.0),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    for name in [
        &format!("akri_discovery_polls_total{request},outcome=\"unchanged\"}} "),
        &format!("akri_discovery_polls_total{request},outcome=\"failed\"}} "),
        "akri_discovery_poll_duration_seconds_count ",
        &format!("akri_discovery_list_age_seconds{request}}} "),
        "akri_discovery_sent_bytes_total ",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
    assert!(!metrics.contains("hunter2"), "{metrics}");
    drop(agent);
    // Nothing is left of a request that nobody makes any more.
    until(|| !logged(&[&service.key(), "polling ended"]).is_empty()).await;
    assert!(!admin.get("/metrics").await.1.contains(&shown));
}

#[tokio::test]
async fn an_admin_address_that_is_taken_is_named() {
    let listener = TcpListener::bind("127.0.8.3:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.handler.admin.admin_address = Some(address);
    let error = akri_http_discovery_handler::run(config, pending()).await;
    let error = error.unwrap_err().to_string();
    assert_eq!(error, format!("cannot listen on ADMIN_ADDRESS={address}"));
}
