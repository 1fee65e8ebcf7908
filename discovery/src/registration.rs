//! Keeps this handler registered with the Agent.

use std::{error::Error, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use akri_daemon::{Outage, innermost};
use akri_proto::v0::{RegisterDiscoveryHandlerRequest, registration_client::RegistrationClient};
use anyhow::anyhow;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use log::info;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::transport::Endpoint;

use crate::{
    agent::{Known, Seen},
    directory::{FileId, look_again},
    observed::Observed,
    own_socket::{Place, Reach},
    settings::Settings,
    streams::Streams,
};

/// The delay before the second try; the next ones double up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Tries are at most this far apart.
const MAX_RETRY: Duration = Duration::from_secs(5);

/// For one registration as a whole.
const ANSWER: Duration = Duration::from_secs(5);

/// An Agent that opens no stream is told again after the first of these, then after twice that and so on up to the second: it may
/// have been busy with another request when we registered, or have dropped us when it could not reach us for a moment (rule
/// 24). Without a stream that costs it nothing (rule 5). The first time is before a handler that nobody asks counts as ready.
const RENEW: (Duration, Duration) = (Duration::from_secs(7), Duration::from_secs(5 * 60));

/// After this long without a try the delays start anew.
const SETTLED: Duration = Duration::from_secs(6);

/// What to register, and where.
pub(crate) struct Registration {
    agent_socket: PathBuf,
    name: String,
    shared: bool,
}

impl Registration {
    pub fn new(settings: &Settings) -> Self {
        Self {
            agent_socket: settings.agent_socket(),
            name: settings.discovery_handler_name.clone(),
            shared: settings.shared,
        }
    }

    /// Registers once; `reached` is called as soon as there is an Agent that can hear it.
    async fn register(&self, reach: &Reach, reached: impl FnOnce()) -> anyhow::Result<()> {
        let target = format!("unix:{}", self.agent_socket.display());
        let channel = Endpoint::from_shared(target)?.connect().await;
        let channel = channel.map_err(|error| anyhow!("cannot connect: {}", innermost(&error)))?;
        reached();
        let request = RegisterDiscoveryHandlerRequest {
            name: self.name.clone(),
            endpoint: reach.endpoint.clone(),
            endpoint_type: reach.endpoint_type.into(),
            shared: self.shared,
        };
        let registered = RegistrationClient::new(channel)
            .register_discovery_handler(request)
            .await;
        registered.map_err(|observed| match observed.source() {
            // The connection broke; the Agent itself said nothing.
            Some(cause) => anyhow!("no answer: {}", innermost(cause)),
            None => {
                let (code, message) = (observed.code(), observed.message().escape_debug());
                anyhow!("the Agent refused: {code:?}: {message}")
            }
        })?;
        Ok(())
    }

    /// Registers once, and gives up early when the Agent's socket becomes another one.
    async fn attempt(&self, reach: &Reach, seen: Seen, known: &mut Known) -> Result<(), String> {
        let registering = self.register(reach, || known.asked(seen));
        let mut registering = pin!(timeout(ANSWER, registering));
        loop {
            tokio::select! {
                outcome = &mut registering => return match outcome {
                    Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                    Err(_) => Err(format!("no answer within {ANSWER:?}")),
                },
                () = look_again() => {
                    if FileId::of(&self.agent_socket) != Some(seen.socket) {
                        return Err("the Agent's socket was replaced meanwhile".into());
                    }
                }
            }
        }
    }

    fn log(&self, reach: &Reach) {
        let agent = self.agent_socket.display();
        let (name, endpoint, shared) = (&self.name, &reach.endpoint, self.shared);
        info!("registered with {agent} as {name} at {endpoint}, shared: {shared}");
    }
}

/// Proves that this handler answers where it will be registered. Then registers as soon as there is an Agent, and again
/// whenever it may have forgotten us: a new socket, its last stream dropped, the own socket lost. Never while streams to a
/// living Agent are open, and never as a heartbeat (rule 5). Runs until it is dropped; failures are logged and tried again,
/// at most 5 s apart.
///
/// # Errors
/// The proof fails.
pub(crate) async fn keep_registered(
    registration: Registration,
    place: watch::Receiver<Place>,
    observed: Arc<Observed>,
) -> anyhow::Result<()> {
    prove(&place).await?;
    let mut streams = observed.streams.subscribe();
    let turning = observed.loops.begin("registration");
    let shown = registration.agent_socket.display();
    let mut outage = Outage::new(module_path!(), format!("registering with {shown}"));
    let mut known = Known::default();
    let mut tries = Tries::new();
    let mut waiting = false;
    loop {
        turning.turns(ANSWER);
        let now = *streams.borrow_and_update();
        let socket = FileId::of(&registration.agent_socket);
        if !std::mem::replace(&mut waiting, socket.is_none()) && waiting {
            info!("waiting for the Agent's socket {shown}");
        }
        let seen = seen(socket, now, &place);
        let needs_us = seen.is_none_or(|seen| known.needs_us(seen));
        observed.set_registered(!needs_us);
        let renews = tries.renew(now.open);
        let due = seen.filter(|_| needs_us || renews);
        if let Some(seen) = due
            && tries.is_due(known.try_with(seen))
        {
            tries.begin(renews);
            let reach = place.borrow().reach.clone();
            let outcome = registration.attempt(&reach, seen, &mut known).await;
            observed.count_registration(outcome.is_ok());
            match outcome {
                Ok(()) => {
                    outage.succeeded();
                    known.registered(seen);
                    registration.log(&reach);
                }
                Err(cause) => outage.failed(cause, "trying again, at most 5 s apart"),
            }
            continue;
        }
        tokio::select! {
            () = look_again() => {}
            // The other side is held by the service, which outlives this.
            _ = streams.changed() => {}
            () = sleep_until(tries.next), if due.is_some() => {}
        }
    }
}

/// Proves that we answer where the Agent will find us; again where that has changed in the meantime.
async fn prove(place: &watch::Receiver<Place>) -> anyhow::Result<()> {
    loop {
        let Place { reach, times, .. } = place.borrow().clone();
        let proof = reach.prove().await;
        let lost = || !place.borrow().is_there() || place.borrow().times != times;
        if proof.is_ok() || !lost() {
            return proof;
        }
        look_again().await;
    }
}

/// `None` where there is no Agent, or nothing that it could dial.
fn seen(socket: Option<FileId>, streams: Streams, place: &watch::Receiver<Place>) -> Option<Seen> {
    let place = place.borrow();
    let (socket, bound) = (socket?, place.times);
    place.is_there().then_some(Seen {
        socket,
        streams,
        bound,
    })
}

/// When to try.
struct Tries {
    delays: ExponentialBackoff,
    last: Option<Instant>,
    next: Instant,
    /// How long after the last one an Agent that opens no stream is told again.
    renew: Duration,
}

impl Tries {
    fn new() -> Self {
        Self {
            delays: delays(),
            last: None,
            next: Instant::now(),
            renew: RENEW.0,
        }
    }

    /// Whether so few streams are `open`, and have been for so long, that the Agent is told again.
    fn renew(&mut self, open: usize) -> bool {
        if open > 0 {
            self.renew = RENEW.0;
            return false;
        }
        self.last.is_some_and(|last| last.elapsed() > self.renew)
    }

    /// Whether it is time; at once with a new Agent, and after a long time without a try.
    fn is_due(&mut self, is_new: bool) -> bool {
        if is_new || self.last.is_none_or(|last| last.elapsed() > SETTLED) {
            self.delays = delays();
            self.next = Instant::now();
        }
        self.next <= Instant::now()
    }

    /// A try begins. The next one counts from here, so that a try that takes long does not make it late.
    fn begin(&mut self, renews: bool) {
        let now = Instant::now();
        if renews {
            self.renew = (self.renew * 2).min(RENEW.1);
        }
        self.last = Some(now);
        self.next = now + self.delays.next().unwrap_or(MAX_RETRY);
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_RETRY)
        // The jitter adds up to once the delay.
        .with_max_delay(MAX_RETRY / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_quickly_at_first_and_at_most_five_seconds_apart() {
        let delays: Vec<Duration> = delays().take(50).collect();
        assert!(delays[0] <= Duration::from_millis(100), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= MAX_RETRY), "{delays:?}");
        assert!(
            delays[40..].iter().all(|delay| *delay >= MAX_RETRY / 2),
            "{delays:?}"
        );
    }
}
