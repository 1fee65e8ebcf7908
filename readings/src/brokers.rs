//! Which brokers there are: every address of some names, resolved again and again, and a task for each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use akri_daemon::{Loops, Outage, innermost};
use log::warn;
use tokio::{net::lookup_host, sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    broker::{self, Watching},
    devices::Devices,
};

/// The most names.
pub const NAMES: usize = 64;

/// The most brokers; further ones are left out.
pub const BROKERS: usize = 1_024;

/// From one time that a name is resolved to the next. Up to a tenth is added.
const RESOLVE: Duration = Duration::from_secs(5);

/// The address of each broker, and how the page calls it.
pub type Brokers = BTreeMap<SocketAddr, String>;

/// Resolves `names` for ever. As long as one cannot be resolved, those brokers that answer stay.
pub(crate) async fn resolve<L>(
    names: Vec<String>,
    lookup: impl Fn(String) -> L,
    devices: &Devices,
    loops: &Loops,
    found: &watch::Sender<Brokers>,
) where
    L: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let all = watch::Sender::new(BTreeMap::<String, BTreeSet<SocketAddr>>::new());
    let each = names.into_iter().map(async |name| {
        let turning = loops.begin(format!("resolving {name}"));
        let mut outage = Outage::new(module_path!(), &name);
        loop {
            resolve_once(&name, &lookup, devices, &all, &mut outage).await;
            turning.turns(RESOLVE * 2);
            sleep(RESOLVE.mul_f64(1.0 + fastrand::f64() / 10.0)).await;
        }
    });
    let together = async {
        let mut changed = all.subscribe();
        loop {
            let brokers: Brokers = (changed.borrow_and_update().values().flatten())
                .map(|address| (*address, address.to_string()))
                .collect();
            found.send_if_modified(|found| {
                let differs = *found != brokers;
                *found = brokers;
                differs
            });
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(futures_util::future::join_all(each), together);
}

async fn resolve_once<L>(
    name: &str,
    lookup: &impl Fn(String) -> L,
    devices: &Devices,
    all: &watch::Sender<BTreeMap<String, BTreeSet<SocketAddr>>>,
    outage: &mut Outage,
) where
    L: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    match lookup(name.to_owned()).await {
        Ok(addresses) => {
            outage.succeeded();
            devices.resolved(name, None);
            let addresses = addresses.into_iter().collect();
            all.send_modify(|all| drop(all.insert(name.to_owned(), addresses)));
        }
        // A headless Service without Pods has no address, which looks like this too.
        Err(error) => {
            let cause = innermost(&error).to_string();
            outage.failed(&cause, "the brokers that answer stay");
            devices.resolved(name, Some(cause));
            all.send_if_modified(|all| {
                let Some(addresses) = all.get_mut(name) else {
                    return false;
                };
                let before = addresses.len();
                addresses.retain(|address| devices.is_answering(*address));
                addresses.len() < before
            });
        }
    }
}

/// By the system's resolver.
pub(crate) async fn by_the_system(name: String) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host(name).await?.collect())
}

/// Watches every broker as long as it is `found`, for ever.
pub(crate) async fn keep(mut found: watch::Receiver<Brokers>, watching: Watching) {
    let watching = Arc::new(watching);
    let mut kept: BTreeMap<SocketAddr, (String, AbortOnDropHandle<()>)> = BTreeMap::new();
    let mut too_many = false;
    loop {
        let brokers = found.borrow_and_update().clone();
        if (brokers.len() > BROKERS) != too_many {
            too_many = !too_many;
            warn!(
                "{} brokers; those after the first {BROKERS} are left out",
                brokers.len()
            );
        }
        let brokers: Brokers = brokers.into_iter().take(BROKERS).collect();
        // First those that have gone, since others may take over their devices.
        kept.retain(|address, (name, _)| {
            let stays = brokers.get(address) == Some(name);
            if !stays {
                watching.devices.gone(*address);
            }
            stays
        });
        for (address, name) in brokers {
            kept.entry(address).or_insert_with(|| {
                watching.devices.come(address, &name);
                let task = tokio::spawn(broker::watch(address, &name, watching.clone()));
                (name, AbortOnDropHandle::new(task))
            });
        }
        // Without a sender the brokers stay as they are.
        if found.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
