//! One GET, bounded in every direction.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use reqwest::{
    ClientBuilder, Response, StatusCode, Url, Version,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
    redirect::Policy,
};

use crate::{
    HttpError,
    error::{cause, closed_unanswered},
    resolver::Resolver,
};

/// How many redirects are followed.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// How long connecting may take at most, the look-up of the name included. A request takes this, its half, a quarter and so on:
/// the first that is at most three quarters of its own time-out. It is shared out among the addresses of a name, so that the
/// second one gets its turn where the first is dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How many different ones there are. The shortest is 47 ms.
const CONNECT_TIMEOUTS: usize = 7;

/// Where a redirect may lead.
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
    build: Box<dyn Fn() -> ClientBuilder + Send + Sync>,
    /// One for each time to connect, made when it is needed, since reqwest sets that for all requests of a client.
    clients: [OnceLock<reqwest::Client>; CONNECT_TIMEOUTS],
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client that calls itself `user_agent` and reaches servers directly: a proxy in the environment is for what lies
    /// beyond the cluster. Where the system has no CA certificates a warning says so, and https cannot be used.
    ///
    /// # Errors
    /// When TLS cannot be set up at all.
    pub fn new(user_agent: &'static str, redirects: Redirects) -> anyhow::Result<Self> {
        // Fails where the process has a provider already, and then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trusts = builder(user_agent, redirects).build();
        if let Err(error) = &trusts {
            log::warn!("https cannot be used, http can: {}", cause(error));
        }
        let trusts = trusts.is_ok();
        let client = Self::of(move || match trusts {
            true => builder(user_agent, redirects),
            false => builder(user_agent, redirects).tls_certs_only([]),
        });
        client.within(0).context("cannot set up the HTTP client")?;
        Ok(client)
    }

    fn of(build: impl Fn() -> ClientBuilder + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            build: Box::new(build),
            clients: Default::default(),
        }))
    }

    /// The client that takes [`CONNECT_TIMEOUT`], halved so many times, to connect.
    fn within(&self, halvings: usize) -> reqwest::Result<reqwest::Client> {
        let connect = CONNECT_TIMEOUT / (1 << halvings);
        let build = || (self.0.build)().connect_timeout(connect).build();
        let Some(client) = self.0.clients.get(halvings) else {
            return build();
        };
        if let Some(client) = client.get() {
            return Ok(client.clone());
        }
        let built = build()?;
        Ok(client.get_or_init(|| built).clone())
    }

    /// Sends a GET. `timeout` is for all of it, the last byte of the body included. Dropping the future or the reply gives
    /// it up.
    ///
    /// # Errors
    /// Whatever keeps the server from giving a 2xx reply; see [`HttpError`].
    pub async fn get(
        &self,
        url: &Url,
        accept: &str,
        timeout: Duration,
    ) -> Result<Reply, HttpError> {
        let started = Instant::now();
        let is_longer = |halvings: &usize| CONNECT_TIMEOUT / (1 << halvings) > timeout * 3 / 4;
        let halvings = (0..CONNECT_TIMEOUTS - 1).take_while(is_longer).count();
        let client = self.within(halvings);
        let client = client.map_err(|error| HttpError::NoConnection(cause(&error)))?;
        let send = |timeout| {
            let request = client.get(url.clone()).header(ACCEPT, accept);
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
        let status = response.status();
        // 206 says of itself that something is missing.
        if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
            return Err(HttpError::Status(status));
        }
        let headers = response.headers();
        let ends_by_closing = response.version() < Version::HTTP_2
            && status != StatusCode::NO_CONTENT
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING);
        Ok(Reply {
            response,
            timeout,
            ends_by_closing,
            last: None,
        })
    }
}

fn builder(user_agent: &str, redirects: Redirects) -> ClientBuilder {
    let policy = match redirects {
        Redirects::Anywhere => Policy::limited(MAX_REDIRECTS),
        Redirects::SameOrigin => Policy::custom(|attempt| {
            let first = attempt.previous().first();
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else if first.is_some_and(|first| first.origin() != attempt.url().origin()) {
                attempt.error("it leads to another scheme, host or port")
            } else {
                attempt.follow()
            }
        }),
    };
    reqwest::Client::builder()
        .user_agent(user_agent)
        .dns_resolver(Resolver::default())
        .no_proxy()
        // A redirect must not carry the query elsewhere.
        .referer(false)
        .redirect(policy)
}

/// A 2xx reply whose body is read as it comes.
pub struct Reply {
    response: Response,
    timeout: Duration,
    /// It tells its length in no other way, so that one that is cut looks whole.
    ends_by_closing: bool,
    last: Option<u8>,
}

impl Reply {
    /// The Content-Type; empty where there is none, or none that is ASCII.
    pub fn content_type(&self) -> &str {
        let value = self.response.headers().get(CONTENT_TYPE);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The status, a 2xx.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// How many bytes the body will have, where the server says so.
    pub fn announced(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next bytes of the body, `None` at its proper end.
    ///
    /// # Errors
    /// The body breaks off, is too slow, or may have been cut.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|error| HttpError::new(&error, self.timeout))?;
        if let Some(chunk) = &chunk {
            self.last = chunk.last().copied().or(self.last);
        } else if self.ends_by_closing && self.last != Some(b'\n') {
            return Err(HttpError::PerhapsCut);
        }
        Ok(chunk)
    }

    /// The whole body, of at most `limit` bytes: the length that a server announces need not be true.
    ///
    /// # Errors
    /// As [`Reply::chunk`], and [`HttpError::TooLarge`].
    pub async fn body(mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
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
        let client = Client::of(move || {
            let builder = builder("test", Redirects::Anywhere).tls_certs_only([]);
            builder.resolve_to_addrs("two", &addresses)
        });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = Url::parse("http://two/").unwrap();
        for timeout in [400, 1_000, 5_000].map(Duration::from_millis) {
            let reply = client.get(&url, "*/*", timeout).await;
            let reply = reply.unwrap_or_else(|error| panic!("{timeout:?}: {error}"));
            assert_eq!(reply.body(10).await.unwrap(), b"ok");
        }
    }
}
