//! `cargo run`: the whole flow on one machine, without a cluster.
//!
//! Mock devices, the discovery handler, a stub Agent and a broker for each Instance run in one process. A device leaves and
//! comes back, then the discovery service stops for a while. The output is the log of the real parts.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::pending,
    io::Write,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use akri_daemon::{AdminSettings, Shutdown};
use akri_http_broker::{CredentialFiles, client, grpc, pod_devices, standalone};
use akri_http_mock_device::{DISCOVERY_PATH, Devices};
use akri_http_stub_agent::{Config, Configuration, Instance, State, StubAgent};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use log::info;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

/// How often the handler polls and the brokers read.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long the demo waits for an event. A longer wait is a bug.
const PATIENCE: Duration = Duration::from_secs(30);

const DEVICE_PATHS: [&str; 3] = ["/thermometer", "/barometer", "/hygrometer"];

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
}

fn main() -> ExitCode {
    akri_daemon::execute_with_log(readable_log(), |settings: Settings, shutdown| {
        run(settings.grpc, end(settings.seconds, shutdown))
    })
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
async fn run(grpc: bool, end: impl Future<Output = ()>) -> Result<()> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let devices = MockServer::start(any_port(), &DEVICE_PATHS, &[]).await?;
    let endpoints = DEVICE_PATHS.map(|path| format!("http://{}{path}", devices.address));
    let discovery = MockServer::start(any_port(), &[], &endpoints).await?;

    let (stop, stopped) = oneshot::channel::<()>();
    let config = akri_http_discovery_handler::Config::in_directory(directory.path());
    let mut handler = tokio::spawn(akri_http_discovery_handler::run(config, async {
        // An error means that the sender was dropped, which stops it too.
        let _ = stopped.await;
    }));
    let url = format!("http://{}{DISCOVERY_PATH}", discovery.address);
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

    let outcome = tokio::select! {
        outcome = story(&agent, discovery, &url, &endpoints) => outcome,
        outcome = keep_brokers(agent.state(), grpc) => outcome,
        outcome = &mut handler => outcome.context("the discovery handler")?,
        () = end => Ok(()),
    };
    let state = agent.state().borrow().clone();
    let (created, deleted, messages) = (state.created, state.deleted, state.messages);
    info!("the end: {created} Instances were created and {deleted} deleted by {messages} messages");
    agent.stop().await;
    drop(stop);
    if !handler.is_finished() {
        handler.await.context("the discovery handler")??;
    }
    outcome
}

/// Removes a device, brings it back, stops the discovery service and starts it again. Then it waits for ever.
async fn story(
    agent: &StubAgent,
    discovery: MockServer,
    url: &str,
    endpoints: &[String],
) -> Result<()> {
    let all = endpoints.len();
    agent
        .wait_for(|state| state.instances.len() == all, PATIENCE)
        .await?;
    sleep(INTERVAL).await;

    info!("now one device goes: only its Instance and its broker go with it");
    let (_, rest) = endpoints.split_first().context("no devices")?;
    put(url, rest).await?;
    agent
        .wait_for(|state| state.instances.len() < all, PATIENCE)
        .await?;
    sleep(INTERVAL).await;
    info!("now it comes back");
    put(url, endpoints).await?;
    let before = agent
        .wait_for(|state| state.instances.len() == all, PATIENCE)
        .await?;
    sleep(INTERVAL / 2).await;

    info!("now the discovery service is stopped: nothing is lost, the brokers go on");
    let address = discovery.stop().await;
    sleep(INTERVAL * 2).await;
    info!("now the discovery service is back");
    let _discovery = MockServer::start(address, &[], endpoints).await?;
    // The handler tries again within two seconds and ten percent.
    sleep(INTERVAL * 3 / 2).await;
    let after = agent.state().borrow().clone();
    ensure!(
        (after.deleted, after.created) == (before.deleted, before.created),
        "the outage of the discovery service cost an Instance"
    );
    info!("the outage cost no Instance; Ctrl-C ends the demo");
    pending().await
}

/// A mock server that can be stopped and started again at the same address.
struct MockServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: AbortOnDropHandle<Result<()>>,
}

impl MockServer {
    async fn start(address: SocketAddr, paths: &[&str], discovered: &[String]) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let devices = Devices {
            paths: paths.iter().map(ToString::to_string).collect(),
            discovered: discovered.to_vec(),
            writable: true,
        };
        let serving = akri_http_mock_device::serve(listener, devices, async {
            let _ = stopped.await;
        });
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Ok(Self {
            address,
            stop,
            serving,
        })
    }

    async fn stop(self) -> SocketAddr {
        drop(self.stop);
        // The port is free afterwards, also after an error.
        let _ = self.serving.await;
        self.address
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Replaces the discovery service's list.
async fn put(url: &str, endpoints: &[String]) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?;
    let reply = client.put(url).body(endpoints.join("\n")).send().await?;
    reply.error_for_status()?;
    Ok(())
}

/// Runs a broker for each Instance while it exists, as the Controller and the kubelet do.
async fn keep_brokers(mut state: watch::Receiver<State>, grpc: bool) -> Result<()> {
    let mut brokers: BTreeMap<String, AbortOnDropHandle<Result<()>>> = BTreeMap::new();
    loop {
        let instances = state.borrow_and_update().instances.clone();
        brokers.retain(|name, _| instances.contains_key(name));
        for (name, instance) in instances {
            if let Entry::Vacant(place) = brokers.entry(name) {
                place.insert(start_broker(instance, grpc)?);
            }
        }
        state.changed().await.context("the stub Agent ended")?;
    }
}

fn start_broker(instance: Instance, grpc: bool) -> Result<AbortOnDropHandle<Result<()>>> {
    let suffix = instance.hash.to_uppercase();
    let environment = (instance.properties.into_iter())
        .flat_map(|(name, value)| [(format!("{name}_{suffix}"), value.clone()), (name, value)]);
    let devices = pod_devices::from_environment(environment)?;
    let broker = async move {
        if grpc {
            return grpc_broker_and_client(grpc::Config {
                devices,
                min_interval: INTERVAL,
                max_reads: 1,
                admin: AdminSettings::default(),
                credentials: CredentialFiles::default(),
            })
            .await;
        }
        let config = standalone::Config {
            devices,
            interval: INTERVAL,
            admin: AdminSettings::default(),
            credentials: CredentialFiles::default(),
        };
        standalone::run(config, pending()).await
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(broker)))
}

/// Runs a gRPC broker, and a client that watches its device and prints the readings.
async fn grpc_broker_and_client(broker: grpc::Config) -> Result<()> {
    let listener = TcpListener::bind(any_port()).await?;
    let client = client::Settings {
        grpc_endpoint: format!("http://{}", listener.local_addr()?).parse()?,
        device: String::new(),
        name: "/".into(),
        interval: INTERVAL,
        min_change: None,
        watch: true,
        once: false,
        list: false,
    };
    tokio::select! {
        ended = grpc::run(broker, listener, pending()) => ended,
        ended = client::run(client, pending()) => ended,
    }
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
            Some("akri_http_stub_agent") => "agent",
            Some("akri_http_broker") => "broker",
            Some("akri_http_mock_device") => "devices",
            // Its lines are about outages and signals, and name their subject.
            Some("akri_daemon") => "",
            other => other.unwrap_or_default(),
        };
        let seconds = started.elapsed().as_secs_f64();
        writeln!(line, "{seconds:5.1}s  {part:<8} {}", record.args())
    });
    log
}
