//! The last list outlives the process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, path::Path, time::Duration};

use akri_stub_agent::{Config, Configuration, State, StubAgent};
use support::{admin::Admin, *};
use tempfile::TempDir;

const NINE: [&str; 9] = [
    "a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1", "i:1",
];

/// A handler in this directory, whose lists outlive it.
fn run(directory: &Path, change: impl FnOnce(&mut akri_http_discovery_handler::Config)) -> Handler {
    let mut config = config(directory);
    config.handler.state_directory = Some(directory.join("state"));
    change(&mut config);
    Handler::run(tempfile::tempdir().unwrap(), config)
}

async fn agent(directory: &TempDir, service: &Service) -> StubAgent {
    let mut config = Config::in_directory(directory.path());
    config.configurations = vec![Configuration::new("akri-http", "http", service.details())];
    config.finalizer = Duration::ZERO;
    StubAgent::start(config).await.unwrap()
}

async fn instances(agent: &StubAgent, count: usize) -> State {
    let all = |state: &State| state.instances.len() == count;
    agent.wait_for(all, SOON).await.unwrap()
}

/// Waits until there is a saved list.
async fn saved(directory: &TempDir) {
    let state = directory.path().join("state/http");
    let is_list = |entry: fs::DirEntry| entry.path().extension().is_some_and(|it| it == "list");
    until(|| {
        let entries = fs::read_dir(&state);
        entries.is_ok_and(|mut entries| entries.any(|entry| is_list(entry.unwrap())))
    })
    .await;
}

#[tokio::test]
async fn a_restart_during_an_outage_brings_all_instances_back_at_once() {
    let mut service = Service::start(list(&NINE)).await;
    let directory = tempfile::tempdir().unwrap();
    let mut handler = run(directory.path(), |_| {});
    let agent = agent(&directory, &service).await;
    instances(&agent, 9).await;
    saved(&directory).await;
    service.down();
    handler.stop().await.unwrap();
    instances(&agent, 0).await;
    let _handler = run(directory.path(), |_| {});
    instances(&agent, 9).await;
    log_line(&["WARN", &service.key(), "the last list of 9 devices stands"]).await;
}

#[tokio::test]
async fn an_update_during_an_outage_loses_nothing_also_with_other_times() {
    let mut service = Service::start(list(&NINE)).await;
    let directory = tempfile::tempdir().unwrap();
    let mut old = run(directory.path(), |_| {});
    let agent = agent(&directory, &service).await;
    instances(&agent, 9).await;
    saved(&directory).await;
    service.down();
    for update in 1..=3 {
        let admin = Admin::on(20 + update);
        let new = run(directory.path(), |config| {
            admin.set(config);
            config.handler.grace = Duration::from_secs(update.into());
        });
        admin.ready().await;
        old.stop().await.unwrap();
        old = new;
    }
    let state = agent.state().borrow().clone();
    assert_eq!((state.created, state.deleted), (9, 0));
}

#[tokio::test]
async fn an_update_during_an_outage_waits_where_the_list_was_not_saved() {
    let mut service = Service::start(list(&NINE)).await;
    let directory = tempfile::tempdir().unwrap();
    let mut old = run(directory.path(), |config| {
        config.handler.state_directory = None
    });
    let agent = agent(&directory, &service).await;
    instances(&agent, 9).await;
    service.down();
    let admin = Admin::on(30);
    let new = run(directory.path(), |config| admin.set(config));
    let reason = format!("{}: no list yet, ", service.url());
    log_line(&["WARN", &service.key(), "there is no list yet"]).await;
    admin.not_ready(&reason).await;
    service.up().await;
    admin.ready().await;
    old.stop().await.unwrap();
    drop(new);
    let state = agent.state().borrow().clone();
    assert_eq!((state.created, state.deleted), (9, 0));
}

#[tokio::test]
async fn a_device_that_is_missing_after_a_restart_is_kept_for_the_grace_period() {
    let service = Service::start(list(&["a:1", "b:1"])).await;
    let directory = tempfile::tempdir().unwrap();
    let mut handler = run(directory.path(), |_| {});
    let details = service.details();
    let mut stream = handler.stream(&details).await;
    stream.list().await;
    saved(&directory).await;
    handler.stop().await.unwrap();
    service.now(list(&["a:1", "c:1"]));
    let grace = |config: &mut akri_http_discovery_handler::Config| {
        config.handler.grace = Duration::from_secs(60);
    };
    // Another grace period is another request, but the same list.
    let second = run(directory.path(), grace);
    let mut stream = second.stream(&details).await;
    assert_eq!(stream.list().await, ["a:1", "b:1"]);
    assert_eq!(stream.list().await, ["a:1", "b:1", "c:1"]);
    log_line(&[&service.key(), "1 devices are missing and kept"]).await;
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_costs_two_lines_and_nothing_else() {
    let service = Service::start(list(&["a:1"])).await;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), "no directory").unwrap();
    let handler = run(directory.path(), |_| {});
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["a:1"]);
    log_line(&["WARN", &service.key(), "saving the list: writing into"]).await;
    service.now(list(&["b:1"]));
    assert_eq!(stream.list().await, ["b:1"]);
    // One line for each of reading and writing.
    let lines = logged(&["WARN", &service.key()]);
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[tokio::test]
async fn a_damaged_list_costs_a_line_and_nothing_else() {
    let service = Service::start(list(&["a:1"])).await;
    let directory = tempfile::tempdir().unwrap();
    let mut handler = run(directory.path(), |_| {});
    let mut stream = handler.stream(&service.details()).await;
    stream.list().await;
    saved(&directory).await;
    handler.stop().await.unwrap();
    for entry in fs::read_dir(directory.path().join("state/http")).unwrap() {
        fs::write(entry.unwrap().path(), "garbage").unwrap();
    }
    service.now(list(&["b:1"]));
    let handler = run(directory.path(), |_| {});
    let mut stream = handler.stream(&service.details()).await;
    assert_eq!(stream.list().await, ["b:1"]);
    log_line(&["WARN", &service.key(), "is not used: it has another format"]).await;
}
