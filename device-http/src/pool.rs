//! Connections that may be shared, since they lead the same way and prove the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use akri_daemon::one_line;
use reqwest::{ClientBuilder, Proxy, Url, redirect::Policy};
use rustls::RootCertStore;
use rustls_native_certs::load_native_certs;

use crate::{Credentials, Redirects, client::MAX_REDIRECTS, resolver::Resolver};

/// How long connecting may take at most, the look-up of the name included. A request takes this, its half, a quarter and so on:
/// the first that is at most three quarters of its own time-out. It is shared out among the addresses of a name, so that the
/// second one gets its turn where the first is dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How many different ones there are. The shortest is 47 ms.
const CONNECT_TIMEOUTS: usize = 7;

/// What connections have to have in common.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    /// Without headers.
    pub tls: Credentials,
    pub proxy: Option<Url>,
    /// There are credentials, so that redirects lead no further than to the same server.
    pub secret: bool,
}

type Build = Box<dyn Fn() -> reqwest::Result<ClientBuilder> + Send + Sync>;

/// The connections of one way.
pub(crate) struct Pool {
    build: Build,
    /// One for each time to connect, made when it is needed, since reqwest sets that for all requests of a client.
    clients: [OnceLock<reqwest::Client>; CONNECT_TIMEOUTS],
}

impl Pool {
    pub fn of(
        build: impl Fn() -> reqwest::Result<ClientBuilder> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            build: Box::new(build),
            clients: Default::default(),
        })
    }

    /// The client for a request that may take `timeout`.
    pub fn client(&self, timeout: Duration) -> reqwest::Result<reqwest::Client> {
        let is_longer = |halvings: &usize| CONNECT_TIMEOUT / (1 << halvings) > timeout * 3 / 4;
        let halvings = (0..CONNECT_TIMEOUTS - 1).take_while(is_longer).count();
        let connect = CONNECT_TIMEOUT / (1 << halvings);
        let build = || (self.build)()?.connect_timeout(connect).build();
        let Some(client) = self.clients.get(halvings) else {
            return build();
        };
        if let Some(client) = client.get() {
            return Ok(client.clone());
        }
        let built = build()?;
        Ok(client.get_or_init(|| built).clone())
    }
}

/// All pools of a process that are in use.
pub(crate) struct Pools {
    user_agent: &'static str,
    redirects: Redirects,
    /// The authorities of those who have none of their own.
    system: Arc<RootCertStore>,
    resolver: Resolver,
    open: Mutex<HashMap<Way, Weak<Pool>>>,
}

impl Pools {
    /// `own_authorities` says that the system's are not needed.
    pub fn new(user_agent: &'static str, redirects: Redirects, own_authorities: bool) -> Self {
        let system = match own_authorities {
            true => RootCertStore::empty(),
            false => system_authorities(),
        };
        Self {
            user_agent,
            redirects,
            system: system.into(),
            resolver: Resolver::default(),
            open: Mutex::default(),
        }
    }

    /// The pool for this way; requests that go the same way share it.
    pub fn get(&self, way: Way) -> Arc<Pool> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = open.get(&way).and_then(Weak::upgrade) {
            return pool;
        }
        open.retain(|_, pool| pool.strong_count() > 0);
        let (user_agent, resolver) = (self.user_agent, self.resolver.clone());
        let (redirects, secret, proxy) = (self.redirects, way.secret, way.proxy.clone());
        let tls = way.tls.tls_config(&self.system);
        let pool = Pool::of(move || {
            let builder = builder(user_agent, resolver.clone())
                .redirect(policy(redirects, secret))
                .tls_backend_preconfigured(tls.clone());
            Ok(match &proxy {
                Some(proxy) => builder.proxy(Proxy::all(proxy.clone())?),
                None => builder,
            })
        });
        open.insert(way, Arc::downgrade(&pool));
        pool
    }
}

/// None where there are none, and then a warning says so.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = match found.errors.first() {
            Some(error) => one_line(&error.to_string()),
            None => "the system has no CA certificates".to_owned(),
        };
        log::warn!("https cannot be used, http can: {why}");
    }
    roots
}

pub(crate) fn builder(user_agent: &str, resolver: Resolver) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(user_agent)
        .dns_resolver(resolver)
        .no_proxy()
        // A redirect must not carry the query elsewhere.
        .referer(false)
        .tls_info(true)
}

fn policy(redirects: Redirects, secret: bool) -> Policy {
    let refusal = match (secret, redirects) {
        (true, _) => {
            "it leads to another scheme, host or port, and the credentials are not for that"
        }
        (false, Redirects::SameOrigin) => "it leads to another scheme, host or port",
        (false, Redirects::Anywhere) => return Policy::limited(MAX_REDIRECTS),
    };
    Policy::custom(move |attempt| {
        let first = attempt.previous().first();
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if first.is_some_and(|first| first.origin() != attempt.url().origin()) {
            attempt.error(refusal)
        } else {
            attempt.follow()
        }
    })
}
