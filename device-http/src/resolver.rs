//! Names are looked up by the system, one look-up at a time for each name and each in a thread of its own, so that a name
//! that nobody answers for holds up nothing but itself.

use std::{
    collections::HashMap,
    error::Error,
    future::ready,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use reqwest::dns::{Name, Resolve, Resolving};
use tokio::sync::watch;

/// How many names may be looked up at once.
const MAX_LOOKUPS: usize = 64;

type Found = Option<Result<Vec<SocketAddr>, String>>;

/// The look-ups that are under way.
#[derive(Clone, Default)]
pub(crate) struct Resolver(Arc<Mutex<HashMap<String, watch::Receiver<Found>>>>);

impl Resolver {
    fn under_way(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Found>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the look-up of `name`, or begins one.
    fn look_up(&self, name: &str) -> Result<watch::Receiver<Found>, String> {
        let mut under_way = self.under_way();
        if let Some(found) = under_way.get(name) {
            return Ok(found.clone());
        }
        if under_way.len() >= MAX_LOOKUPS {
            return Err(format!("{MAX_LOOKUPS} names are being looked up already"));
        }
        let (sender, found) = watch::channel(None);
        let (resolver, host) = (self.clone(), name.to_owned());
        let looking = move || {
            let addresses = (host.as_str(), 0).to_socket_addrs();
            let addresses = addresses.map(Iterator::collect);
            resolver.under_way().remove(&host);
            sender.send_replace(Some(addresses.map_err(|error| error.to_string())));
        };
        // Where no thread can be had, this lookup fails and nothing else.
        let thread = thread::Builder::new().name("lookup".into()).spawn(looking);
        thread.map_err(|error| format!("no thread to look the name up: {error}"))?;
        under_way.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let mut found = match self.look_up(name.as_str()) {
            Ok(found) => found,
            Err(why) => return Box::pin(ready(Err(why.into()))),
        };
        Box::pin(async move {
            let found = found.wait_for(Option::is_some).await;
            let addresses = match found.as_deref() {
                Ok(Some(Ok(addresses))) => addresses.clone(),
                Ok(Some(Err(why))) => return Err(why.as_str().into()),
                // The thread is gone without an answer.
                _ => return Err("the name was not looked up".into()),
            };
            let addresses = addresses.into_iter();
            Ok::<_, Box<dyn Error + Send + Sync>>(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}
