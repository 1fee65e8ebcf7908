//! `cargo run`: the whole flow on one machine, without a cluster.
//!
//! Mock devices, the discovery handler, a stub Agent, brokers for each Instance and the readings' page run in one process. A
//! device leaves and comes back, the discovery service stops for a while, and another handler takes over. The output is the
//! log of the real parts; the page shows the devices meanwhile.

mod brokers;
mod devices;
mod story;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use akri_daemon::Shutdown;
use akri_http_mock_device::DISCOVERY_PATH;
use akri_http_readings::{Brokers, BrokersFrom};
use akri_stub_agent::{Config, Configuration, StubAgent};
use anyhow::{Context, Result};
use clap::Parser;
use log::info;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    brokers::{ShownBy, keep_brokers},
    devices::{MockServer, any_port},
    story::{Handlers, Stage},
};

/// How often the handler polls and the brokers read.
const INTERVAL: Duration = Duration::from_secs(2);

const DEVICE_PATHS: [&str; 3] = ["/thermometer", "/barometer", "/hygrometer"];

/// Where the page is, unless somebody else is there; then at any port.
const PAGE: u16 = 8090;

/// Shows Akri's HTTP walkthrough on this machine: devices discovered, streamed to a stub Agent, read by brokers
#[derive(Parser)]
#[command(version = akri_daemon::version(), about)]
struct Settings {
    /// End after this many seconds; by default, run until Ctrl-C
    #[arg(long)]
    seconds: Option<u32>,

    /// Run gRPC brokers, each with a client that watches its device, instead of standalone brokers
    #[arg(long)]
    grpc: bool,

    /// Leave out the page with the readings, and the gRPC brokers that it needs
    #[arg(long)]
    no_page: bool,
}

fn main() -> ExitCode {
    akri_daemon::execute_with(
        Settings::try_parse(),
        readable_log(),
        |settings, shutdown| {
            let end = end(settings.seconds, shutdown);
            run(settings, end)
        },
    )
}

/// Ready at Ctrl-C, at SIGTERM, or after that many seconds.
async fn end(seconds: Option<u32>, shutdown: Shutdown) {
    let Some(seconds) = seconds else {
        return shutdown.await;
    };
    tokio::select! {
        () = shutdown => {}
        () = sleep(Duration::from_secs(seconds.into())) => {}
    }
}

/// Starts the parts, plays the story, and stops everything at `end`.
async fn run(settings: Settings, end: impl Future<Output = ()>) -> Result<()> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let note = watch::Sender::default();
    let page = match settings.no_page {
        true => None,
        false => Some(start_page(&note).await?),
    };
    let shown_by = ShownBy {
        clients: settings.grpc,
        page: page.as_ref().map(|(brokers, _)| brokers.clone()),
    };
    let devices = MockServer::start(any_port(), &DEVICE_PATHS, &[]).await?;
    let endpoints = DEVICE_PATHS.map(|path| format!("http://{}{path}", devices.address));
    let discovery = MockServer::start(any_port(), &[], &endpoints).await?;
    let url = format!("http://{}{DISCOVERY_PATH}", discovery.address);
    let (handlers, mut failures) = Handlers::new(directory.path());
    let agent = StubAgent::start(Config {
        node_name: "this-machine".into(),
        configurations: vec![Configuration {
            name: "akri-http".into(),
            discovery_handler: "http".into(),
            discovery_details: format!("{{url: '{url}', interval: 2s, grace: 0s}}"),
            discovery_properties: Default::default(),
        }],
        ..Config::in_directory(directory.path())
    })
    .await?;

    let stage = Stage {
        agent: &agent,
        handlers: &handlers,
        url: &url,
        endpoints: &endpoints,
        note: &note,
    };
    let outcome = tokio::select! {
        outcome = stage.story(discovery) => outcome,
        outcome = keep_brokers(agent.state(), shown_by) => outcome,
        Some(error) = failures.recv() => Err(error),
        () = end => Ok(()),
    };
    let state = agent.state().borrow().clone();
    let (created, deleted, messages) = (state.created, state.deleted, state.messages);
    info!("the end: {created} Instances were created and {deleted} deleted by {messages} messages");
    agent.stop().await;
    handlers.end().await;
    outcome
}

/// Serves the readings' page as long as the handle lives, with the brokers that it is told of.
async fn start_page(
    note: &watch::Sender<String>,
) -> Result<(watch::Sender<Brokers>, AbortOnDropHandle<Result<()>>)> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PAGE));
    let listener = match TcpListener::bind(usual).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(any_port())
            .await
            .context("no port for the page")?,
    };
    let (brokers, known) = watch::channel(Brokers::new());
    let config = akri_http_readings::Config {
        brokers: BrokersFrom::Known(known),
        interval: INTERVAL,
        note: note.subscribe(),
    };
    let page = akri_http_readings::run(config, listener, std::future::pending());
    Ok((brokers, AbortOnDropHandle::new(tokio::spawn(page))))
}

/// A log on stdout: seconds since the start, the part that speaks, and its message.
fn readable_log() -> env_logger::Builder {
    let started = Instant::now();
    let mut log = akri_daemon::log_builder();
    log.target(env_logger::Target::Stdout);
    log.format(move |line, record| {
        let part = match record.target().split("::").next() {
            Some("akri_http") => "demo",
            Some("akri_discovery" | "akri_http_discovery_handler") => "handler",
            Some("akri_stub_agent") => "agent",
            Some("akri_http_broker") => "broker",
            Some("akri_http_mock_device") => "devices",
            Some("akri_http_readings") => "page",
            // Its lines are about outages and signals, and name their subject.
            Some("akri_daemon") => "",
            other => other.unwrap_or_default(),
        };
        let seconds = started.elapsed().as_secs_f64();
        writeln!(line, "{seconds:5.1}s  {part:<8} {}", record.args())
    });
    log
}
