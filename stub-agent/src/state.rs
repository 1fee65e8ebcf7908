//! What can be seen of the stub Agent from outside.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use akri_proto::v0::register_discovery_handler_request::EndpointType;
use tokio::time::Instant;
use tonic::Code;

use crate::instances::Instance;

/// The most entries that each queue keeps; the oldest ones are dropped.
const REMEMBERED: usize = 1_000;

/// What a test or a demo can look at and wait for. Counters only grow, except `open_streams` and `lists`.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Registrations in the order of their arrival, with repeated ones; the last 1,000.
    pub registrations: VecDeque<Registered>,
    /// Discover calls on reachable endpoints, with refused ones.
    pub discovers: u64,
    /// Discover streams that are open now.
    pub open_streams: usize,
    /// Those of them that have brought a list. At 2, of two handlers either one can go without a loss (rule 4).
    pub lists: usize,
    /// Messages received, on all streams together.
    pub messages: u64,
    /// Server-side applies that the real Agent would make: each message costs one for each device on any open stream of
    /// its Configuration, also if nothing changed (rule 9).
    pub applies: u64,
    /// Discover calls that failed and streams that ended with an error, oldest first; the last 1,000.
    pub discover_errors: VecDeque<DiscoverError>,
    /// How long each failed request waits until its next try, oldest first; the last 1,000 (rule 7).
    pub delays: VecDeque<Duration>,
    /// The Instances that exist now, by name.
    pub instances: BTreeMap<String, Instance>,
    /// Instances created so far.
    pub created: u64,
    /// Instances deleted so far. At 0 no broker was ever stopped.
    pub deleted: u64,
    /// Deleted Instances whose object the finalizer still keeps, until when (rule 19).
    pub(crate) marked: BTreeMap<String, Instant>,
    /// How long it keeps one.
    pub(crate) finalizer: Duration,
}

/// A registration as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The discovery handler's name.
    pub name: String,
    /// A socket's path or a URL, as `endpoint_type` says.
    pub endpoint: String,
    /// How to read `endpoint`.
    pub endpoint_type: EndpointType,
    /// Whether other nodes can see the same devices.
    pub shared: bool,
}

/// Why a Discover call or its stream failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverError {
    /// The Configuration that the call was for.
    pub configuration: String,
    /// The endpoint that was called.
    pub endpoint: String,
    /// The gRPC code; `Unavailable` if the endpoint was not reachable.
    pub code: Code,
    /// The handler's or the transport's message; at most 1,000 characters.
    pub message: String,
}

impl State {
    /// What a test that waits in vain wants to know, without secrets.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} discovers, {} open streams, {} lists, {} messages, {} applies, {} Instances created, {} deleted; \
             the last registration: {:?}; the last error: {:?}; Instances: {:?}",
            self.discovers,
            self.open_streams,
            self.lists,
            self.messages,
            self.applies,
            self.created,
            self.deleted,
            self.registrations.back(),
            self.discover_errors.back(),
            self.instances.values().take(20).collect::<Vec<_>>(),
        )
    }

    pub(crate) fn remember_registration(&mut self, registered: Registered) {
        push(&mut self.registrations, registered);
    }

    pub(crate) fn remember_error(&mut self, mut error: DiscoverError) {
        error.message = error.message.chars().take(1_000).collect();
        push(&mut self.discover_errors, error);
    }

    pub(crate) fn remember_delay(&mut self, delay: Duration) {
        push(&mut self.delays, delay);
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= REMEMBERED {
        queue.pop_front();
    }
    queue.push_back(item);
}
