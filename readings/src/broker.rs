//! One broker: which devices it has, and what it says of each.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use akri_daemon::Outage;
use akri_http_broker::client::cause;
use akri_proto::http::{ListDevicesRequest, ListDevicesResponse};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    connection::Connection,
    devices::{DEVICES, Devices},
    watch::Watch,
};

const LIST_DEVICES: &str = "/http.DeviceService/ListDevices";

/// How long listing the devices may take, and the beginning of a watch.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// From one list of the devices to the next.
const LIST: Duration = Duration::from_secs(30);

/// The longest list of devices, in bytes.
const MAX_LIST: usize = 1024 * 1024;

/// How many lists may be under way at once, because of their size.
const LISTS: usize = 64;

/// The first and the longest pause before something is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The longest name of a device, in bytes: an endpoint's, and what makes it distinct.
const MAX_NAME: usize = 2_048 + 16;

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
        let connection = match open(self.address).await {
            Ok(connection) => connection,
            Err(why) => return why,
        };
        let mut connection = (connection, 0);
        let mut watches = HashMap::new();
        let doubt = Arc::new(Notify::new());
        loop {
            let names = match self.list(&connection.0).await {
                Ok(names) => names,
                Err(_) if !connection.0.is_open() => return ENDED.into(),
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
                if connection.1 >= WATCHES_PER_CONNECTION {
                    connection = match open(self.address).await {
                        Ok(another) => (another, 0),
                        Err(why) => return why,
                    };
                }
                connection.1 += 1;
                let Some(watch) = self.begin(&name, &connection.0, &doubt) else {
                    break;
                };
                watches.insert(name, watch);
            }
            // When a watch has ended, it may be the broker that has.
            let next = LIST.mul_f64(1.0 + fastrand::f64() / 10.0);
            let _ = timeout(next, doubt.notified()).await;
            sleep(PAUSES.0).await;
        }
    }

    async fn list(&self, connection: &Connection) -> Result<HashSet<Arc<str>>, String> {
        let _turn = self.watching.lists.acquire().await;
        // On the heap, since it is large, and only for a moment.
        let listing = Box::pin(async {
            let mut answer = connection
                .call(LIST_DEVICES, &ListDevicesRequest {}, MAX_LIST)
                .await?;
            answer.next::<ListDevicesResponse>().await
        });
        let listed = timeout(ANSWER, listing).await;
        let listed = listed.map_err(|_| format!("no list of its devices within {ANSWER:?}"))?;
        let listed = listed.map_err(|status| cause(&status))?;
        let listed = listed.ok_or("an answer without a list of its devices")?;
        let names = listed.devices.into_iter().map(|device| device.endpoint);
        Ok(names
            .filter(|name| name.len() <= MAX_NAME)
            .take(DEVICES)
            .map(Arc::from)
            .collect())
    }

    /// `None` where there are too many watches.
    fn begin(
        &self,
        name: &Arc<str>,
        connection: &Connection,
        doubt: &Arc<Notify>,
    ) -> Option<AbortOnDropHandle<()>> {
        let Ok(permit) = self.watching.watches.clone().try_acquire_owned() else {
            self.watching.devices.left_out();
            return None;
        };
        let watch = Watch {
            broker: self.address,
            name: name.clone(),
            interval: self.watching.interval,
            connection: connection.clone(),
            devices: self.watching.devices.clone(),
            doubt: doubt.clone(),
        };
        let watch = async move {
            watch.run().await;
            drop(permit);
        };
        Some(AbortOnDropHandle::new(tokio::spawn(watch)))
    }
}
