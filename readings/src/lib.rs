//! A live page with the readings of all devices, as their gRPC brokers give them. In the order of the data's way:
//!
//! - [`Settings`]: the command line;
//! - `brokers`: which brokers there are: names, resolved to all their addresses again and again;
//! - `connection`, `broker`, `watch`: a connection to a broker, its list of devices, and one device as the broker watches it;
//! - `devices`, `row`: all devices, and one: what it gave last, and whether it gives anything;
//! - `history`: the last ten minutes of a device;
//! - `page`: what a browser, a program or Prometheus is shown of it.

mod broker;
mod brokers;
mod connection;
mod devices;
mod history;
mod page;
mod row;
mod settings;
mod watch;

use std::{sync::Arc, time::Duration};

use akri_daemon::Loops;
use anyhow::{Context, ensure};
use log::info;
use tokio::net::TcpListener;
use tokio::sync::watch as latest;

pub use brokers::{BROKERS, Brokers, NAMES};
pub use settings::Settings;

use crate::{broker::Watching, devices::Devices, page::Page};

/// What [`run`] works on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the brokers come from.
    pub brokers: BrokersFrom,
    /// A reading of each device at this interval. A broker raises it to its own minimum.
    pub interval: Duration,
    /// A line of text on the page; none where it is empty.
    pub note: latest::Receiver<String>,
}

/// Who says which brokers there are.
#[derive(Clone, Debug)]
pub enum BrokersFrom {
    /// Names as `HOST:PORT`, resolved again and again; every address of each is a broker.
    Names(Vec<String>),
    /// Somebody who knows them.
    Known(latest::Receiver<Brokers>),
}

/// Watches all devices of all brokers, and serves the page on `listener`, until `shutdown` is ready. Then it ends at once: a
/// page that is open says so, and tries again.
///
/// # Errors
/// There are too many names.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let address = listener
        .local_addr()
        .context("the listening socket has no address")?;
    let devices = Arc::new(Devices::default());
    let loops = Loops::default();
    let watching = Watching::new(devices.clone(), config.interval);
    let (found, resolved) = latest::channel(Brokers::new());
    let (names, brokers) = match config.brokers {
        BrokersFrom::Names(names) => (names, resolved),
        BrokersFrom::Known(brokers) => (Vec::new(), brokers),
    };
    ensure!(names.len() <= NAMES, "at most {NAMES} names of brokers");
    let page = Page::new(devices.clone(), loops.clone(), config.note);
    info!("the page is at http://{address}");
    tokio::select! {
        () = brokers::resolve(names, brokers::by_the_system, &devices, &loops, &found) => {}
        () = brokers::keep(brokers, watching) => {}
        () = page.serve(listener) => {}
        () = shutdown => {}
    }
    Ok(())
}
