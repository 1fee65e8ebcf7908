//! `cargo run`: the whole flow on one machine, without a cluster.
//!
//! Mock devices, the discovery handler, a stub Agent and a broker for each Instance, in one process. Then a device goes and
//! comes back, and the discovery service is away for a while. What is printed are the log lines of the real parts.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::pending,
    io::Write,
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use akri_http_broker::{
    endpoints::{Endpoint, from_environment},
    grpc_broker, grpc_client, standalone,
};
use akri_http_discovery_handler::config;
use akri_http_mock_device::{DISCOVERY_PATH, Devices};
use akri_http_stub_agent::{Config, Configuration, Instance, State, StubAgent};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use log::{LevelFilter, info};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// How often the handler polls and the brokers read.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long anything that the demo waits for may take; it is a bug if it takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

const DEVICE_PATHS: [&str; 3] = ["/thermometer", "/barometer", "/hygrometer"];

/// Shows Akri's HTTP walkthrough on this machine: devices discovered, streamed to a stub Agent, read by brokers
#[derive(Parser)]
#[command(version, about)]
struct Settings {
    /// End after this many seconds; without it, at Ctrl-C
    #[arg(long)]
    seconds: Option<u32>,

    /// Run gRPC brokers, each with a client that watches its device, instead of standalone ones
    #[arg(long)]
    grpc: bool,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    log_readably();
    match start(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(settings: Settings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let end = end(settings.seconds)?;
        run(settings.grpc, end).await
    });
    runtime.shutdown_background();
    outcome
}

/// Ready at Ctrl-C, at SIGTERM, or after that many seconds.
fn end(seconds: Option<u32>) -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let time = async {
            match seconds {
                Some(seconds) => sleep(Duration::from_secs(seconds.into())).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = time => {}
        }
    })
}

/// Starts the parts, plays the story, and stops everything at `end`.
async fn run(grpc: bool, end: impl Future<Output = ()>) -> Result<()> {
    let directory = tempfile::tempdir().context("making a temporary directory")?;
    let (devices, address) = MockServer::start(any_port(), &DEVICE_PATHS, &[]).await?;
    let endpoints = DEVICE_PATHS.map(|path| format!("http://{address}{path}"));
    let (discovery, service) = MockServer::start(any_port(), &[], &endpoints).await?;

    let (stop, stopped) = oneshot::channel::<()>();
    let config = config::Config::in_directory(directory.path());
    let mut handler = tokio::spawn(akri_http_discovery_handler::run(config, async {
        // Also when the sender is dropped.
        let _ = stopped.await;
    }));
    let url = format!("http://{service}{DISCOVERY_PATH}");
    let agent = StubAgent::start(Config {
        directory: directory.path().to_path_buf(),
        node_name: "this-machine".into(),
        configurations: vec![Configuration {
            name: "akri-http".into(),
            discovery_handler: "http".into(),
            discovery_details: format!("{{url: '{url}', interval: 2s}}"),
            discovery_properties: Default::default(),
        }],
        broker: None,
    })
    .await?;

    let outcome = tokio::select! {
        outcome = story(&agent, discovery, &url, &endpoints) => outcome,
        outcome = keep_brokers(agent.state(), grpc) => outcome,
        outcome = &mut handler => outcome.context("the discovery handler")?,
        () = end => Ok(()),
    };
    let State {
        created,
        deleted,
        messages,
        ..
    } = agent.state().borrow().clone();
    info!("the end: {created} Instances were created and {deleted} deleted by {messages} messages");
    agent.stop().await;
    drop(stop);
    if !handler.is_finished() {
        handler.await.context("the discovery handler")??;
    }
    drop(devices);
    outcome
}

/// Takes a device away, brings it back, stops the discovery service and starts it again; then everything just goes on.
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
    let (_, rest) = endpoints.split_first().context("there are devices")?;
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
    let (_discovery, _) = MockServer::start(address, &[], endpoints).await?;
    // The handler tries again after two seconds at most, and ten percent.
    sleep(INTERVAL * 3 / 2).await;
    let after = agent.state().borrow().clone();
    ensure!(
        (after.deleted, after.messages) == (before.deleted, before.messages),
        "the outage of the discovery service was felt by the Agent"
    );
    info!("the outage cost no Instance and no message to the Agent; Ctrl-C ends the demo");
    pending().await
}

/// A mock server that can be stopped and started again at the same address.
struct MockServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: AbortOnDropHandle<Result<()>>,
}

impl MockServer {
    async fn start(
        address: SocketAddr,
        paths: &[&str],
        discovered: &[String],
    ) -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("binding {address}"))?;
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
        Ok((
            Self {
                address,
                stop,
                serving,
            },
            address,
        ))
    }

    async fn stop(self) -> SocketAddr {
        drop(self.stop);
        // It ends either way, and then the port is free.
        let _ = self.serving.await;
        self.address
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Gives the discovery service another list.
async fn put(url: &str, endpoints: &[String]) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?;
    let reply = client.put(url).body(endpoints.join("\n")).send().await?;
    reply.error_for_status()?;
    Ok(())
}

/// The Controller's and the kubelet's part: a broker for each Instance, as long as there is the Instance.
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
    let devices = from_environment(environment)?;
    let broker = async move {
        match grpc {
            true => grpc_broker_and_client(devices).await,
            false => {
                let interval = INTERVAL;
                standalone::run(standalone::Config { devices, interval }, pending()).await
            }
        }
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(broker)))
}

/// The client prints what it gets by itself.
async fn grpc_broker_and_client(devices: Vec<Endpoint>) -> Result<()> {
    let listener = TcpListener::bind(any_port()).await?;
    let client = grpc_client::Settings {
        grpc_endpoint: format!("http://{}", listener.local_addr()?).parse()?,
        device: String::new(),
        name: "/".into(),
        interval: INTERVAL,
        min_change: None,
        watch: true,
        once: false,
        list: false,
    };
    let broker = grpc_broker::Config {
        devices,
        min_interval: INTERVAL,
        max_reads: 1,
        shared_reads: true,
    };
    tokio::select! {
        ended = grpc_broker::run(broker, listener, pending()) => ended,
        ended = grpc_client::run(client, pending()) => ended,
    }
}

/// Seconds since the start, which part speaks, and what it says.
fn log_readably() {
    let started = Instant::now();
    env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        .filter_module("notify", LevelFilter::Off)
        .parse_default_env()
        .format(move |line, record| {
            let part = match record.target().split("::").next() {
                Some("akri_http") => "demo",
                Some("akri_http_discovery_handler") => "handler",
                Some("akri_http_stub_agent") => "agent",
                Some("akri_http_broker") => "broker",
                Some("akri_http_mock_device") => "devices",
                other => other.unwrap_or_default(),
            };
            let seconds = started.elapsed().as_secs_f64();
            writeln!(line, "{seconds:5.1}s  {part:<8} {}", record.args())
        })
        .target(env_logger::Target::Stdout)
        .init();
}
