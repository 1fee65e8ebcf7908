//! One GET, bounded in every direction.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH},
};

use crate::{
    CredentialFiles, Credentials, HttpError, Reply,
    error::{cause, closed_unanswered},
    files::Files,
    pool::{Pool, Pools, Way},
};

/// How many redirects are followed.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// Where a redirect may lead. With credentials that is only [`Redirects::SameOrigin`], whatever is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// Anywhere that HTTP reaches.
    Anywhere,
    /// Only to the scheme, host and port that was asked: a device must not make its broker read what only the broker can
    /// reach.
    SameOrigin,
}

/// A process's HTTP client. It keeps connections alive from one GET to the next; clones share them.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    process: Arc<Process>,
    own: Credentials,
    proxy: Option<Url>,
    using: Mutex<Option<Using>>,
}

/// What all clients of a process share.
struct Process {
    pools: Pools,
    files: Option<Files>,
}

/// What a GET goes with, until the process's credentials change.
#[derive(Clone)]
struct Using {
    process: Arc<Credentials>,
    credentials: Arc<Credentials>,
    pool: Arc<Pool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client that calls itself `user_agent`, has the process's credentials and reaches servers directly: a proxy in the
    /// environment is for what lies beyond the cluster. Where the system has no CA certificates a warning says so, and https
    /// cannot be used. Files that are not good are told, and read again before each GET.
    ///
    /// # Errors
    /// A file is set without the other that it needs ([`akri_daemon::BadSetting`]), or TLS cannot be set up at all.
    pub fn new(
        user_agent: &'static str,
        redirects: Redirects,
        files: CredentialFiles,
    ) -> anyhow::Result<Self> {
        // Fails where the process has a provider already, and then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let files = Files::new(files)?;
        let own_authorities = files.as_ref().is_some_and(Files::has_authorities);
        let process = Process {
            pools: Pools::new(user_agent, redirects, own_authorities),
            files,
        };
        Self::of(Arc::new(process), Credentials::default(), None)
    }

    /// A client of the same process that goes through `proxy`, and with credentials of its own. The process's token and
    /// certificate are for those who have neither a header nor a certificate, its authorities for those who have none.
    ///
    /// # Errors
    /// TLS cannot be set up with them.
    pub fn with(&self, own: Credentials, proxy: Option<Url>) -> anyhow::Result<Self> {
        Self::of(self.0.process.clone(), own, proxy)
    }

    fn of(process: Arc<Process>, own: Credentials, proxy: Option<Url>) -> anyhow::Result<Self> {
        let client = Self(Arc::new(Inner {
            process,
            own,
            proxy,
            using: Mutex::default(),
        }));
        // Where the files are not good yet, each GET says so.
        if let Ok(using) = client.using() {
            let built = using.pool.client(Duration::MAX / 4);
            // The error's causes may quote what is secret.
            built
                .map_err(|error| anyhow::Error::msg(cause(&error)))
                .context("cannot set up the HTTP client")?;
        }
        Ok(client)
    }

    /// What the next GET goes with. New pools only where that differs from what the last one went with.
    fn using(&self) -> Result<Using, String> {
        let process = match &self.0.process.files {
            Some(files) => Some(files.now()?),
            None => None,
        };
        let mut last = self.0.using.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(using) = &*last
            && (process.as_ref()).is_none_or(|process| Arc::ptr_eq(process, &using.process))
        {
            return Ok(using.clone());
        }
        let process = process.unwrap_or_default();
        let credentials = Arc::new(self.0.own.or(&process));
        let pool = self.0.process.pools.get(Way {
            tls: credentials.tls(),
            proxy: self.0.proxy.clone(),
            secret: credentials.is_secret(),
        });
        let using = Using {
            process,
            credentials,
            pool,
        };
        Ok(last.insert(using).clone())
    }

    /// Sends a GET with these headers and the credentials. `timeout` is for all of it, the last byte of the body included.
    /// Dropping the future or the reply gives it up.
    ///
    /// # Errors
    /// Whatever keeps the server from giving a 2xx reply, or 304 where a header asks for it; see [`HttpError`].
    pub async fn get(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Reply, HttpError> {
        let started = Instant::now();
        let using = self.using().map_err(HttpError::Credentials)?;
        let conditional =
            headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE);
        headers.extend(using.credentials.headers());
        if !url.username().is_empty() || url.password().is_some() {
            // The URL's own come first.
            headers.remove(AUTHORIZATION);
        }
        let client = using.pool.client(timeout);
        let client = client.map_err(|error| HttpError::NoConnection(cause(&error)))?;
        let send = |timeout| {
            let request = client.get(url.clone()).headers(headers.clone());
            request.timeout(timeout).send()
        };
        let response = match send(timeout).await {
            // The server may close a kept connection in the very moment we use it: that is no outage.
            Err(error) if closed_unanswered(&error) => {
                send(timeout.saturating_sub(started.elapsed())).await
            }
            response => response,
        };
        let response = response.map_err(|error| HttpError::new(&error, timeout))?;
        let reply = Reply::of(response, url, timeout);
        let status = reply.status();
        // The condition was for the URL that was asked.
        let unchanged = status == StatusCode::NOT_MODIFIED && conditional && !reply.is_redirected();
        // 206 says of itself that something is missing.
        if !unchanged && (!status.is_success() || status == StatusCode::PARTIAL_CONTENT) {
            return Err(HttpError::Status(status));
        }
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket, TcpStream},
    };

    use super::*;
    use crate::{pool::builder, resolver::Resolver};

    /// An address that drops what would connect to it, and what makes it so.
    async fn dead() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let patience = Duration::from_millis(500);
        while let Ok(connected) = tokio::time::timeout(patience, TcpStream::connect(address)).await
        {
            queued.push(connected.unwrap());
        }
        (address, queued, listener)
    }

    #[tokio::test]
    async fn a_second_address_gets_its_turn_where_the_first_is_dead_within_any_timeout() {
        let (dead, _queued, _listener) = dead().await;
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [dead, live.local_addr().unwrap()];
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = live.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1_000]).await.unwrap();
                let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(reply).await.unwrap();
            }
        });
        let files = CredentialFiles::default();
        let client = Client::new("test", Redirects::Anywhere, files).unwrap();
        let pool = Pool::of(move || {
            let builder = builder("test", Resolver::default()).tls_certs_only([]);
            Ok(builder.resolve_to_addrs("two", &addresses))
        });
        client.0.using.lock().unwrap().as_mut().unwrap().pool = pool;
        let url = Url::parse("http://two/").unwrap();
        for timeout in [400, 1_000, 5_000].map(Duration::from_millis) {
            let reply = client.get(&url, HeaderMap::new(), timeout).await;
            let reply = reply.unwrap_or_else(|error| panic!("{timeout:?}: {error}"));
            assert_eq!(reply.body(10).await.unwrap(), b"ok");
        }
    }
}
