//! Step 2: the requests of one Configuration, from Discover to its Instances.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use akri_daemon::innermost;
use akri_proto::v0::discovery_handler_client::DiscoveryHandlerClient;
use akri_proto::v0::register_discovery_handler_request::EndpointType;
use akri_proto::v0::{ByteData, Device, DiscoverRequest, DiscoverResponse};
use anyhow::{Result, anyhow, ensure};
use futures_util::Stream;
use futures_util::future::try_join_all;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_stream::{StreamExt, StreamMap};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::Agent;
use crate::instances::{DeviceList, merge};
use crate::registration::Endpoint;
use crate::settings::Configuration;
use crate::state::{DiscoverError, State};

/// The delay after the first failure. It doubles with each further one in a row, without a limit (rule 7).
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How long the API server takes for a reconcile. Without it, a handler whose streams end at once would keep a core busy.
const RECONCILE: Duration = Duration::from_millis(10);

/// Discovers for one Configuration. Dropping the future ends its streams and leaves its Instances.
pub(crate) async fn discover(agent: Arc<Agent>, configuration: Configuration) {
    let request = Request {
        agent,
        configuration: Arc::new(configuration),
    };
    let mut delay = FIRST_RETRY;
    loop {
        let patience = request.handler_registered().await;
        match request.open_all(patience).await {
            Ok(streams) => {
                delay = FIRST_RETRY;
                // A new request starts with an empty list (rule 3).
                request.reconcile(&BTreeMap::new(), 0);
                request.watch(streams).await;
                log::warn!(
                    "Configuration {}: its last stream ended",
                    request.configuration.name
                );
                // Rule 1. The real Agent does this a little later, when its next request has succeeded.
                request.reconcile(&BTreeMap::new(), 0);
                sleep(RECONCILE).await;
            }
            Err(error) => {
                let (name, seconds) = (&request.configuration.name, delay.as_secs());
                log::warn!(
                    "Configuration {name}: {error}; the next try is in {seconds} s, also if a handler registers"
                );
                (request.agent.state).send_modify(|s| s.remember_delay(delay));
                sleep(delay).await;
                delay = delay.saturating_mul(2);
            }
        }
    }
}

#[derive(Clone)]
struct Request {
    agent: Arc<Agent>,
    configuration: Arc<Configuration>,
}

/// The open streams, in the order of their opening.
type Streams = StreamMap<u64, Pin<Box<dyn Stream<Item = Event> + Send>>>;

enum Event {
    List(DeviceList),
    End,
}

impl Request {
    /// Waits until an endpoint of the handler is registered. The real Agent treats an absent handler as a failure and delays
    /// its next try (rule 7). In a terminal that would look like a fault.
    ///
    /// Returns how long a connection may be tried: a handler may register before it listens, as Akri's own do, and the real
    /// Agent's next try would come late enough to find it.
    async fn handler_registered(&self) -> Duration {
        let mut registrations = self.agent.registry.subscribe();
        let handler = &self.configuration.discovery_handler;
        let mut patience = Duration::ZERO;
        while self.agent.registry.endpoints(handler).is_empty() {
            patience = FIRST_RETRY;
            // An error means that some announcements were missed. Looking again finds them.
            let _ = registrations.recv().await;
        }
        patience
    }

    /// Calls every endpoint of the handler. If one fails, the whole request fails and the other streams are dropped.
    async fn open_all(&self, patience: Duration) -> Result<Streams> {
        let handler = &self.configuration.discovery_handler;
        let endpoints = self.agent.registry.endpoints(handler);
        ensure!(
            !endpoints.is_empty(),
            "no discovery handler named {handler} is registered"
        );
        let open = try_join_all(endpoints.into_iter().map(|e| self.open(e, patience))).await?;
        Ok((0..)
            .zip(open.into_iter().map(OpenStream::events))
            .collect())
    }

    /// Applies the lists of the streams, and opens a stream for each registration (rule 5), until the last stream ends.
    ///
    /// As in the real Agent, a registration during `open_all` is missed, and one whose Discover fails is not tried again while
    /// another stream is open.
    async fn watch(&self, mut streams: Streams) {
        let mut registrations = self.agent.registry.subscribe();
        let mut next_stream = streams.len() as u64;
        let mut lists = BTreeMap::new();
        loop {
            let mut messages = 0;
            tokio::select! {
                Some((stream, event)) = streams.next() => match event {
                    Event::List(list) => {
                        messages = 1;
                        lists.insert(stream, list);
                    }
                    Event::End => {
                        streams.remove(&stream);
                        lists.remove(&stream);
                        if streams.is_empty() {
                            return;
                        }
                    }
                },
                registered = registrations.recv() => match registered {
                    Ok(endpoint) if endpoint.registered.name == self.configuration.discovery_handler => {
                        match self.open(endpoint, Duration::ZERO).await {
                            Ok(stream) => {
                                streams.insert(next_stream, stream.events());
                                next_stream += 1;
                            }
                            Err(error) => log::warn!("Configuration {}: {error}", self.configuration.name),
                        }
                    }
                    _ => continue,
                },
            }
            self.reconcile(&lists, messages);
        }
    }

    /// Calls Discover once. There is no timeout, as in the real Agent: an endpoint that does not answer blocks its
    /// Configuration.
    async fn open(&self, endpoint: Arc<Endpoint>, patience: Duration) -> Result<OpenStream> {
        let configuration = &self.configuration;
        let address = &endpoint.registered.endpoint;
        if endpoint.closed.is_cancelled() {
            return Err(anyhow!("{address} is closed"));
        }
        let mut client = match connect(&endpoint, patience).await {
            Ok(channel) => DiscoveryHandlerClient::new(channel),
            Err(error) => {
                // It is gone, for all Configurations, until it registers again.
                endpoint.closed.cancel();
                let cause = innermost(&error).to_string();
                let failed = anyhow!("cannot connect to {address}: {cause}");
                self.remember(&endpoint, Code::Unavailable, cause);
                return Err(failed);
            }
        };
        self.agent.state.send_modify(|s| s.discovers += 1);
        match client.discover(configuration.request()).await {
            Ok(response) => {
                log::info!(
                    "Configuration {}: discovering with {address}",
                    configuration.name
                );
                Ok(OpenStream {
                    messages: response.into_inner(),
                    request: self.clone(),
                    _open: Counted::new(&self.agent.state, |state| &mut state.open_streams),
                    listed: None,
                    endpoint,
                })
            }
            Err(status) => {
                let code = status.code();
                self.remember(&endpoint, code, status.message().to_owned());
                // The real Agent does not show the reason either (rule 8).
                Err(match code {
                    Code::InvalidArgument => {
                        anyhow!("{address} refuses the discovery details as invalid")
                    }
                    _ => anyhow!("Discover failed at {address}: {code}"),
                })
            }
        }
    }

    fn remember(&self, endpoint: &Endpoint, code: Code, message: String) {
        let error = DiscoverError {
            configuration: self.configuration.name.clone(),
            endpoint: endpoint.registered.endpoint.clone(),
            code,
            message,
        };
        self.agent.state.send_modify(|s| s.remember_error(error));
    }

    fn reconcile(&self, lists: &BTreeMap<u64, DeviceList>, messages: u64) {
        let found = merge(
            &self.configuration.name,
            &self.agent.node_name,
            lists.values(),
        );
        let applies: usize = lists.values().map(|list| list.devices.len()).sum();
        self.agent
            .reconcile(&self.configuration.name, found, |state| {
                state.messages += messages;
                state.applies += applies as u64;
            });
    }
}

impl Configuration {
    fn request(&self) -> DiscoverRequest {
        let property = |(key, value): (&String, &Vec<u8>)| {
            let vec = Some(value.clone());
            (key.clone(), ByteData { vec })
        };
        DiscoverRequest {
            discovery_details: self.discovery_details.clone(),
            discovery_properties: self.discovery_properties.iter().map(property).collect(),
        }
    }
}

/// A Discover stream that the handler opened.
struct OpenStream {
    messages: Streaming<DiscoverResponse>,
    request: Request,
    endpoint: Arc<Endpoint>,
    _open: Counted,
    /// From the first list on.
    listed: Option<Counted>,
}

impl OpenStream {
    fn events(self) -> Pin<Box<dyn Stream<Item = Event> + Send>> {
        Box::pin(unfold(Some(self), |stream| async {
            let mut stream = stream?;
            Some(match stream.next().await {
                Some(devices) => {
                    let shared = stream.endpoint.registered.shared;
                    (Event::List(DeviceList { shared, devices }), Some(stream))
                }
                None => (Event::End, None),
            })
        }))
    }

    /// The next list, or `None` if the stream ended or failed.
    async fn next(&mut self) -> Option<Vec<Device>> {
        let name = &self.request.configuration.name;
        let address = &self.endpoint.registered.endpoint;
        let message = tokio::select! {
            message = self.messages.message() => message,
            () = self.endpoint.closed.cancelled() => Ok(None),
        };
        match message {
            Ok(Some(message)) => {
                let state = &self.request.agent.state;
                (self.listed).get_or_insert_with(|| Counted::new(state, |state| &mut state.lists));
                return Some(message.devices);
            }
            Ok(None) => log::warn!("Configuration {name}: the stream of {address} ended"),
            Err(status) => {
                log::warn!(
                    "Configuration {name}: the stream of {address} failed: {}",
                    status.code()
                );
                self.request
                    .remember(&self.endpoint, status.code(), status.message().to_owned());
            }
        }
        None
    }
}

/// Counts in the state while it lives.
struct Counted {
    state: watch::Sender<State>,
    counter: fn(&mut State) -> &mut usize,
}

impl Counted {
    fn new(state: &watch::Sender<State>, counter: fn(&mut State) -> &mut usize) -> Self {
        state.send_modify(|state| *counter(state) += 1);
        Self {
            state: state.clone(),
            counter,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.state.send_modify(|state| *(self.counter)(state) -= 1);
    }
}

async fn connect(
    endpoint: &Endpoint,
    patience: Duration,
) -> Result<Channel, tonic::transport::Error> {
    let address = &endpoint.registered.endpoint;
    let url = match endpoint.registered.endpoint_type {
        EndpointType::Uds => format!("unix:{address}"),
        EndpointType::Network => address.clone(),
    };
    let transport = tonic::transport::Endpoint::from_shared(url)?;
    let began = Instant::now();
    loop {
        match transport.connect().await {
            Err(_) if began.elapsed() < patience => sleep(RECONCILE).await,
            connected => return connected,
        }
    }
}
