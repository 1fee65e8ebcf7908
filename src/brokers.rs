//! The demo's brokers: some for each Instance, as long as it exists.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::pending,
    net::SocketAddr,
};

use akri_daemon::AdminSettings;
use akri_http_broker::{CredentialFiles, client, grpc, pod_devices, standalone};
use akri_http_readings::Brokers;
use akri_stub_agent::{Instance, State};
use anyhow::{Context, Result};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{INTERVAL, devices::any_port};

/// Who shows the readings.
#[derive(Clone, Debug)]
pub(crate) struct ShownBy {
    /// Clients of gRPC brokers, and not standalone brokers.
    pub(crate) clients: bool,
    /// A page, which is told of the gRPC brokers.
    pub(crate) page: Option<watch::Sender<Brokers>>,
}

/// The brokers of an Instance.
struct Running {
    /// Where one serves readings, if that is wanted.
    address: Option<SocketAddr>,
    _task: AbortOnDropHandle<Result<()>>,
}

/// Runs the brokers of each Instance while it exists, as the Controller and the kubelet do.
pub(crate) async fn keep_brokers(
    mut state: watch::Receiver<State>,
    shown_by: ShownBy,
) -> Result<()> {
    let mut brokers: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let instances = state.borrow_and_update().instances.clone();
        let gone = brokers.extract_if(.., |name, _| !instances.contains_key(name));
        let gone: Vec<_> = gone.collect();
        for (name, instance) in instances {
            if let Entry::Vacant(place) = brokers.entry(name) {
                place.insert(start(instance, &shown_by).await?);
            }
        }
        if let Some(page) = &shown_by.page {
            let serving = brokers
                .iter()
                .filter_map(|(name, broker)| Some((broker.address?, name.clone())));
            page.send_replace(serving.collect());
        }
        // They end after the page knows.
        drop(gone);
        state.changed().await.context("the stub Agent ended")?;
    }
}

async fn start(instance: Instance, shown_by: &ShownBy) -> Result<Running> {
    let devices = pod_devices::from_environment(instance.environment())?;
    let clients = shown_by.clients;
    let listener = match clients || shown_by.page.is_some() {
        true => Some(TcpListener::bind(any_port()).await?),
        false => None,
    };
    let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let standalone = standalone::Config {
        devices: devices.clone(),
        interval: INTERVAL,
        admin: AdminSettings::default(),
        credentials: CredentialFiles::default(),
    };
    let grpc = grpc::Config {
        devices,
        min_interval: INTERVAL,
        max_reads: 1,
        admin: AdminSettings::default(),
        credentials: CredentialFiles::default(),
    };
    let serve = async move {
        match listener {
            Some(listener) => grpc::run(grpc, listener, pending()).await,
            None => pending().await,
        }
    };
    let show = async move {
        match address.filter(|_| clients) {
            Some(address) => client::run(watching(address)?, pending()).await,
            None => standalone::run(standalone, pending()).await,
        }
    };
    let brokers = async {
        tokio::select! {
            ended = serve => ended,
            ended = show => ended,
        }
    };
    Ok(Running {
        address,
        _task: AbortOnDropHandle::new(tokio::spawn(brokers)),
    })
}

/// A client that watches the broker's device, and prints the readings.
fn watching(broker: SocketAddr) -> Result<client::Settings> {
    Ok(client::Settings {
        grpc_endpoint: format!("http://{broker}").parse()?,
        device: String::new(),
        name: "/".into(),
        interval: INTERVAL,
        min_change: None,
        watch: true,
        once: false,
        list: false,
    })
}
