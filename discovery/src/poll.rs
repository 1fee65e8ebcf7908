//! Equal requests share one poller, which ends with the last of their streams.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use akri_daemon::{LineBudget, Outage};
use log::Level;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    DiscoveryHandler, Times,
    list::DeviceList,
    news::Called,
    observed::Observed,
    poller::{FIRST_RETRY, MOST, Poller},
    saved::Saved,
    settings::Settings,
    streams::PeerLog,
};

/// The newest list, or none before the first poll that succeeded.
pub(crate) type List = Option<Arc<DeviceList>>;

/// Follows the lists of a poller.
pub(crate) type Lists = watch::Receiver<List>;

/// The running pollers, one for each different request. Each has a stream, so streams bound their number.
pub(crate) struct Pollers<H: DiscoveryHandler> {
    handler: H,
    shared: bool,
    times: Times,
    saved: Option<Arc<Saved>>,
    observed: Arc<Observed>,
    stop: CancellationToken,
    log: PeerLog,
    running: Mutex<HashMap<H::Request, watch::Sender<List>>>,
}

impl<H: DiscoveryHandler> Pollers<H> {
    /// None is running yet; all end when `stop` is cancelled.
    pub fn new(
        handler: H,
        settings: &Settings,
        observed: Arc<Observed>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            handler,
            shared: settings.shared,
            times: settings.times(),
            saved: Saved::new(settings),
            observed,
            stop,
            log: PeerLog::new(),
            running: Mutex::default(),
        })
    }

    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The setting.
    pub fn shared(&self) -> bool {
        self.shared
    }

    /// For this request.
    pub fn times(&self, request: &H::Request) -> Times {
        self.handler.times(request, self.times).bounded()
    }

    pub fn saved(&self) -> Option<&Arc<Saved>> {
        self.saved.as_ref()
    }

    pub fn observed(&self) -> &Arc<Observed> {
        &self.observed
    }

    pub fn log(&self) -> &PeerLog {
        &self.log
    }

    /// The lists for `request`, from a poller that runs already or from a new one. A poller ends when the last receiver of
    /// its lists is dropped.
    pub fn subscribe(self: &Arc<Self>, request: &H::Request) -> Lists {
        let mut running = self.running();
        if let Some(lists) = running.get(request) {
            return lists.subscribe();
        }
        let (lists, receiver) = watch::channel(None);
        running.insert(request.clone(), lists.clone());
        tokio::spawn(self.clone().keep_running(request.clone(), lists));
        receiver
    }

    /// A handler that panics is a bug, and no reason to leave its streams without a poller.
    async fn keep_running(self: Arc<Self>, request: H::Request, lists: watch::Sender<List>) {
        let mut outage = Outage::new(module_path!(), Called(&request).to_string());
        while let Err(bug) = tokio::spawn(self.clone().run(request.clone(), lists.clone())).await {
            outage.failed(bug, "this is a bug; the poller is started again");
            sleep(self.times(&request).interval.clamp(FIRST_RETRY, MOST)).await;
        }
    }

    async fn run(self: Arc<Self>, request: H::Request, lists: watch::Sender<List>) {
        let Times {
            interval, timeout, ..
        } = self.times(&request);
        let called = Called(&request);
        let told = self.log.say(
            Level::Info,
            format_args!("{called}: polling every {interval:?}, each poll within {timeout:?}"),
        );
        // Of many requests that come and go, those that are not told of shall not fill the log by what they bring.
        let budget = || match told {
            true => LineBudget::default(),
            false => LineBudget::spent(),
        };
        let mut poller = Poller::new(&self, &request, &lists, budget);
        let mut polling = pin!(poller.poll());
        loop {
            tokio::select! {
                () = &mut polling => {}
                () = self.stop.cancelled() => break,
                () = lists.closed() => {
                    // A request may have come in the meantime; under the lock none can.
                    let mut running = self.running();
                    if lists.is_closed() {
                        running.remove(&request);
                        break;
                    }
                }
            }
        }
        self.log
            .say(Level::Info, format_args!("{called}: polling ended"));
    }

    fn running(&self) -> MutexGuard<'_, HashMap<H::Request, watch::Sender<List>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
