//! What happens in the demo.

use std::{path::Path, time::Duration};

use akri_http_discovery_handler::Config;
use akri_stub_agent::{State, StubAgent};
use anyhow::{Context, Error, Result, ensure};
use log::info;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    INTERVAL,
    devices::{MockServer, put},
};

/// How long the demo waits for an event. A longer wait is a bug.
const PATIENCE: Duration = Duration::from_secs(30);

/// The handlers of the node: one, and for a while two.
pub(crate) struct Handlers {
    config: Config,
    tasks: TaskTracker,
    all: CancellationToken,
    failed: mpsc::Sender<Error>,
}

impl Handlers {
    /// None yet; the errors of those that fail come out of the receiver.
    pub(crate) fn new(directory: &Path) -> (Self, mpsc::Receiver<Error>) {
        let (failed, failures) = mpsc::channel(1);
        let handlers = Self {
            config: Config::in_directory(directory),
            tasks: TaskTracker::new(),
            all: CancellationToken::new(),
            failed,
        };
        (handlers, failures)
    }

    /// One more, until the token is cancelled.
    pub(crate) fn start(&self) -> CancellationToken {
        let stop = self.all.child_token();
        let stopped = stop.clone().cancelled_owned();
        let handler = akri_http_discovery_handler::run(self.config.clone(), stopped);
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            if let Err(error) = handler.await {
                // One failure ends the demo.
                let _ = failed.try_send(error.context("the discovery handler"));
            }
        });
        stop
    }

    /// Ends all of them.
    pub(crate) async fn end(&self) {
        self.all.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What the story happens to.
pub(crate) struct Stage<'a> {
    pub(crate) agent: &'a StubAgent,
    pub(crate) handlers: &'a Handlers,
    /// The discovery service's URL.
    pub(crate) url: &'a str,
    pub(crate) endpoints: &'a [String],
    /// What the page says.
    pub(crate) note: &'a watch::Sender<String>,
}

impl Stage<'_> {
    fn tell(&self, what: &str) {
        info!("{what}");
        self.note.send_replace(what.to_owned());
    }

    async fn wait_for(&self, is: impl FnMut(&State) -> bool) -> Result<State> {
        self.agent.wait_for(is, PATIENCE).await
    }

    /// A device goes and comes back, the discovery service is away for a while, and another handler takes over. Then it
    /// waits for ever.
    pub(crate) async fn story(&self, discovery: MockServer) -> Result<()> {
        let first = self.handlers.start();
        let all = self.endpoints.len();
        self.wait_for(|state| state.instances.len() == all).await?;
        sleep(INTERVAL).await;

        self.tell("now one device goes: only its Instance and its broker go with it");
        let (_, rest) = self.endpoints.split_first().context("no devices")?;
        put(self.url, rest).await?;
        self.wait_for(|state| state.instances.len() < all).await?;
        sleep(INTERVAL).await;
        self.tell("now it comes back");
        put(self.url, self.endpoints).await?;
        let before = self.wait_for(|state| state.instances.len() == all).await?;
        sleep(INTERVAL / 2).await;

        self.tell("now the discovery service is stopped: nothing is lost, the brokers go on");
        let address = discovery.stop().await;
        sleep(INTERVAL * 2).await;
        self.tell("now the discovery service is back");
        let _discovery = MockServer::start(address, &[], self.endpoints).await?;
        // The handler tries again within two seconds and ten percent.
        sleep(INTERVAL * 3 / 2).await;
        self.lost_nothing(&before, "the outage of the discovery service")?;

        self.tell("now a second handler takes over from the first, as in an update");
        self.handlers.start();
        self.wait_for(|state| state.open_streams == 2).await?;
        sleep(INTERVAL / 2).await;
        first.cancel();
        self.wait_for(|state| state.open_streams == 1).await?;
        sleep(INTERVAL / 2).await;
        self.lost_nothing(&before, "the update")?;
        self.tell("neither the outage nor the update cost an Instance; Ctrl-C ends the demo");
        std::future::pending().await
    }

    fn lost_nothing(&self, before: &State, what: &str) -> Result<()> {
        let after = self.agent.state().borrow().clone();
        ensure!(
            (after.deleted, after.created) == (before.deleted, before.created),
            "{what} cost an Instance"
        );
        Ok(())
    }
}
