//! An Akri discovery handler for HTTP devices. The data's way:
//!
//! 1. [`config`]: the settings, read once.
//! 2. [`endpoint`]: where the handler is served; [`directory`]: the sockets' directory, which may come late and change.
//! 3. [`registration`]: keeps the Agent told about the handler.
//! 4. [`discover`]: the Agent's requests, and the streams that answer them; [`details`]: what a request asks for.
//! 5. [`poll`]: when to ask the discovery service; equal requests share one poller.
//! 6. [`fetch`]: one bounded GET.
//! 7. [`reading`]: is it the last reply again, and if not, which list is it? [`lines`]: line by line;
//!    [`device_endpoint`]: what a line may be.
//! 8. [`devices`]: the list, [`collisions`]: what Akri will not tell apart in it, [`body`]: its way onto the wire.
//! 9. [`outage`]: what fails again and again, in few log lines.
//!
//! "Rule N" is a rule of Akri's Agent, see `docs/akri-agent.md`.

pub mod body;
pub mod collisions;
pub mod config;
pub mod details;
pub mod device_endpoint;
pub mod devices;
pub mod directory;
pub mod discover;
pub mod endpoint;
pub mod fetch;
pub mod lines;
pub mod outage;
pub mod poll;
pub mod reading;
pub mod registration;

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use akri_http_proto::v0::discovery_handler_server::DiscoveryHandlerServer;
use anyhow::Context;
use log::{info, warn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};

use crate::{
    body::DiscoverService,
    config::{Config, PodIp},
    discover::Discovery,
    endpoint::Reach,
    fetch::Fetcher,
    poll::Pollers,
    registration::{Own, Registration, keep_registered},
};

/// How often a peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long it may take to say so: one that vanished without a word is noticed within the sum of the two. Long enough for
/// an Agent that only stalls, since giving it up withdraws its devices (rule 1).
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(40);

/// How many streams one connection may have: an Agent opens one connection for each.
const STREAMS_PER_CONNECTION: u32 = 1_024;

/// The longest request: details and properties of one Configuration, in bytes.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// Connections that may wait to be served.
const WAITING_CONNECTIONS: usize = 16;

/// How long open streams may take to end when we do.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves, registers and polls until `shutdown` is ready. Then streams end, pollers stop and the own socket is removed,
/// within a few seconds whatever the Agent and the discovery service do. Dropping the future does the same, unwaited for.
///
/// The directory and the Agent may come, go and be replaced at any time.
///
/// # Errors
/// When the handler cannot be served: its socket belongs to another live process, the directory cannot be written, or the
/// address cannot be bound.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let mut shutdown = pin!(shutdown);

    let fetcher = Fetcher::new(&config)?;
    let pollers = Pollers::new(
        fetcher,
        config.max_message_bytes,
        config.shared,
        stop.clone(),
    );
    let (interval, timeout) = (config.poll_interval, config.poll_timeout);
    let discovery = Discovery::new(pollers, stop.clone(), interval, timeout);
    let streams = discovery.streams();

    let (reach, own, mut server) = match config.pod_ip {
        PodIp(Some(ip)) => {
            let (connections, incoming) = mpsc::channel(WAITING_CONNECTIONS);
            let address = SocketAddr::new(ip, config.network_port);
            let address = endpoint::bind_tcp(address, connections).await?;
            let server = tokio::spawn(serve(discovery, incoming, stop.clone()));
            (Reach::network(address), None, server)
        }
        PodIp(None) => {
            let directory = &config.discovery_handlers_directory;
            if !directory.is_dir() {
                info!("waiting for the directory {}", directory.display());
                tokio::select! {
                    () = directory::wait_for(directory) => {}
                    () = &mut shutdown => return Ok(()),
                }
            }
            let (connections, incoming) = mpsc::channel(WAITING_CONNECTIONS);
            let own = Own::bind(config.own_socket(), connections).await?;
            let server = tokio::spawn(serve(discovery, incoming, stop.clone()));
            (Reach::uds(&config.own_socket())?, Some(own), server)
        }
    };
    info!("serving at {}", reach.endpoint);
    let registration = Registration {
        agent_socket: config.agent_socket(),
        name: config.discovery_handler_name,
        shared: config.shared,
        reach,
    };
    let outcome = tokio::select! {
        outcome = async {
            registration.reach.prove().await?;
            keep_registered(&registration, own, streams).await;
            anyhow::Ok(())
        } => outcome,
        served = &mut server => return served.context("serving")?.context("serving"),
        () = shutdown => Ok(()),
    };
    stop.cancel();
    if tokio::time::timeout(DRAIN, &mut server).await.is_err() {
        server.abort();
        warn!("a connection did not end within {DRAIN:?} and is cut off");
    }
    outcome
}

/// Answers on each connection that comes in; ends once `stop` is cancelled and each connection has ended.
async fn serve<C>(
    discovery: Discovery,
    incoming: mpsc::Receiver<io::Result<C>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let incoming = ReceiverStream::new(incoming);
    let service = DiscoveryHandlerServer::new(discovery).max_decoding_message_size(MAX_REQUEST);
    let service = DiscoverService(service);
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_ANSWER))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .serve_with_incoming_shutdown(service, incoming, stop.cancelled_owned())
        .await
}
