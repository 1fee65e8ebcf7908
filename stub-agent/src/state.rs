//! What can be seen of the stub Agent from outside.

use std::collections::{BTreeMap, VecDeque};

use akri_http_proto::v0::register_discovery_handler_request::EndpointType;
use tonic::Code;

use crate::instances::Instance;

/// How many registrations and how many errors are remembered; older ones are forgotten.
const REMEMBERED: usize = 1_000;

/// Everything that a test or a demo may want to look at or to wait for. The counters only grow.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Registrations in the order received, repeated ones included; the last 1,000.
    pub registrations: VecDeque<Registered>,
    /// Discover calls made on reachable endpoints, refused ones included.
    pub discovers: u64,
    /// Discover streams that are open now.
    pub open_streams: usize,
    /// Messages received in total, on all streams.
    pub messages: u64,
    /// Server-side applies that the real Agent would have made: every message costs one per device listed on any
    /// open stream of its Configuration, also when nothing changed (rule 9).
    pub applies: u64,
    /// Discover calls that failed and streams that ended with an error, oldest first; the last 1,000.
    pub discover_errors: VecDeque<DiscoverError>,
    /// The Instances that exist now, by name.
    pub instances: BTreeMap<String, Instance>,
    /// Instances created in total.
    pub created: u64,
    /// Instances deleted in total; 0 means that no broker was ever taken down.
    pub deleted: u64,
}

/// A registration as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The discovery handler's name.
    pub name: String,
    /// A socket's path or a URL, as `endpoint_type` says.
    pub endpoint: String,
    /// How to read `endpoint`.
    pub endpoint_type: EndpointType,
    /// Whether other nodes may see the same devices.
    pub shared: bool,
}

/// Why a Discover call or its stream came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverError {
    /// The Configuration that asked.
    pub configuration: String,
    /// The endpoint that was asked.
    pub endpoint: String,
    /// `Unavailable` also stands for an endpoint that could not be connected.
    pub code: Code,
    /// The handler's words, or the transport's; at most 1,000 characters.
    pub message: String,
}

impl State {
    pub(crate) fn remember_registration(&mut self, registered: Registered) {
        push(&mut self.registrations, registered);
    }

    pub(crate) fn remember_error(&mut self, mut error: DiscoverError) {
        error.message = error.message.chars().take(1_000).collect();
        push(&mut self.discover_errors, error);
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= REMEMBERED {
        queue.pop_front();
    }
    queue.push_back(item);
}
