//! One broker: which devices it has, and what it says of each.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use akri_daemon::Outage;
use akri_proto::http::{ListDevicesRequest, ListDevicesResponse};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    connection::{Connection, why},
    devices::{DEVICES, Devices},
    watch::Watch,
};

const LIST_DEVICES: &str = "/http.DeviceService/ListDevices";

/// How long listing the devices may take, and the beginning of a watch.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// From one list of the devices to the next.
const LIST: Duration = Duration::from_secs(30);

/// The longest list of devices, in bytes. A hostile one takes fifty times as much until its names are read, one at a time.
const MAX_LIST: usize = 512 * 1024;

/// How many lists may arrive at once, because of their size.
const LISTS: usize = 16;

/// The first and the longest pause before something is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The longest name of a device, in bytes: an endpoint's, and what makes it distinct.
const MAX_NAME: usize = 2_048 + 16;

/// How many devices of one broker are watched, so that there is room for those of others.
const WATCHES_PER_BROKER: usize = DEVICES / 2;

/// A broker takes no more calls than this on one connection; it takes 100.
const WATCHES_PER_CONNECTION: usize = 64;

/// Why a broker does not answer that has closed its connection.
const ENDED: &str = "the connection has ended";

/// What all brokers share.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) devices: Arc<Devices>,
    interval: Duration,
    watches: Arc<Semaphore>,
    lists: Semaphore,
}

impl Watching {
    /// A reading of each device at this interval.
    pub(crate) fn new(devices: Arc<Devices>, interval: Duration) -> Self {
        Self {
            devices,
            interval,
            watches: Arc::new(Semaphore::new(DEVICES)),
            lists: Semaphore::new(LISTS),
        }
    }
}

/// Growing pauses, so that nobody is asked too often, and not by all at once.
pub(crate) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Watches the devices of the broker at `address`, for ever. Whatever fails is a state of the devices, and is tried again.
pub(crate) fn watch(
    address: SocketAddr,
    name: &str,
    watching: Arc<Watching>,
) -> impl Future<Output = ()> + use<> {
    let mut broker = Broker {
        address,
        outage: Outage::new(module_path!(), format!("broker {name}")),
        pauses: pauses(),
        watching,
    };
    async move {
        loop {
            let why = broker.while_it_answers().await;
            broker.watching.devices.does_not_answer(address, &why);
            // A broker that has only restarted is back at once. If not, the next try says why.
            if why != ENDED {
                broker.outage.failed(why, "trying again");
            }
            sleep(broker.pauses.next().unwrap_or(PAUSES.1)).await;
        }
    }
}

/// On the heap, since it is large, and only for a moment.
fn open(broker: SocketAddr) -> impl Future<Output = Result<Connection, String>> {
    Box::pin(Connection::open(broker))
}

struct Broker {
    address: SocketAddr,
    outage: Outage,
    pauses: ExponentialBackoff,
    watching: Arc<Watching>,
}

impl Broker {
    /// Ends with the reason why it does not.
    async fn while_it_answers(&mut self) -> String {
        let mut connections = match open(self.address).await {
            Ok(connection) => vec![connection],
            Err(why) => return why,
        };
        let mut watches = HashMap::new();
        let doubt = Arc::new(Notify::new());
        loop {
            connections.retain(Connection::is_open);
            let Some(connection) = connections.first() else {
                return ENDED.into();
            };
            let names = match self.list(connection).await {
                Ok(names) => names,
                Err(_) if !connection.is_open() => continue,
                Err(why) => return why,
            };
            self.outage.succeeded();
            self.pauses = pauses();
            self.watching.devices.answers(self.address, &names);
            watches.retain(|name, watch: &mut AbortOnDropHandle<()>| {
                names.contains(name) && !watch.is_finished()
            });
            for name in names {
                if watches.contains_key(&name) {
                    continue;
                }
                let Some(permit) = self.permit(watches.len()) else {
                    self.watching.devices.left_out();
                    break;
                };
                let connection = match self.with_room(&mut connections).await {
                    Ok(connection) => connection,
                    Err(why) => return why,
                };
                let watch = self.begin(&name, connection, permit, &doubt);
                watches.insert(name, watch);
            }
            // The first ones fill up first, so it is the last ones that nobody needs any more.
            while connections.len() > 1 && connections.pop_if(|last| last.clones() == 0).is_some() {
            }
            // When a watch has ended, it may be the broker that has.
            let next = LIST.mul_f64(1.0 + fastrand::f64() / 10.0);
            let _ = timeout(next, doubt.notified()).await;
            sleep(PAUSES.0).await;
        }
    }

    async fn list(&self, connection: &Connection) -> Result<HashSet<Arc<str>>, String> {
        // On the heap, since it is large, and only for a moment.
        let listing = Box::pin(async {
            let answer = connection
                .call(LIST_DEVICES, &ListDevicesRequest {}, MAX_LIST)
                .await?;
            // Not before: a broker that hangs keeps no other waiting.
            let _turn = self.watching.lists.acquire().await;
            answer.only(names).await
        });
        match timeout(ANSWER, listing).await {
            Ok(listed) => listed.map_err(|status| why(&status)),
            Err(_) => Err(format!("no list of its devices within {ANSWER:?}")),
        }
    }

    /// The first connection that takes a further watch.
    async fn with_room(&self, connections: &mut Vec<Connection>) -> Result<Connection, String> {
        let has_room = |it: &&Connection| it.is_open() && it.clones() < WATCHES_PER_CONNECTION;
        if let Some(connection) = connections.iter().find(has_room) {
            return Ok(connection.clone());
        }
        let another = open(self.address).await?;
        connections.push(another.clone());
        Ok(another)
    }

    /// For one more watch than so many; `None` where that is too many.
    fn permit(&self, watches: usize) -> Option<OwnedSemaphorePermit> {
        if watches >= WATCHES_PER_BROKER {
            return None;
        }
        self.watching.watches.clone().try_acquire_owned().ok()
    }

    fn begin(
        &self,
        name: &Arc<str>,
        connection: Connection,
        permit: OwnedSemaphorePermit,
        doubt: &Arc<Notify>,
    ) -> AbortOnDropHandle<()> {
        let watch = Watch {
            broker: self.address,
            name: name.clone(),
            interval: self.watching.interval,
            connection,
            devices: self.watching.devices.clone(),
            doubt: doubt.clone(),
        };
        let watch = async move {
            watch.run().await;
            drop(permit);
        };
        AbortOnDropHandle::new(tokio::spawn(watch))
    }
}

fn names(listed: ListDevicesResponse) -> HashSet<Arc<str>> {
    let names = listed.devices.into_iter().map(|device| device.endpoint);
    names
        .filter(|name| name.len() <= MAX_NAME)
        .take(DEVICES)
        .map(Arc::from)
        .collect()
}
