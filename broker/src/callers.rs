//! Who may connect and call: limits on what all callers together hold, and half as much for one address,
//! so that a caller who takes all that it gets leaves room for the others.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream::unfold};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// How many connections may be open at once.
pub const CONNECTIONS: u32 = 512;

/// How many calls may be under way at once, until their answers are taken: watches, too.
pub const CALLS: u32 = 1024;

/// How many bytes of messages of more than 4 KiB may wait for slow callers.
pub const WAITING_BYTES: u32 = 32 * 1024 * 1024;

/// How long a new connection may take to say something.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// The pause after a connection could not be accepted, such as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What is left to take.
#[derive(Debug)]
struct Limits {
    connections: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Limits {
    fn one_of(parts: u32) -> Self {
        let semaphore = |limit: u32| Arc::new(Semaphore::new((limit / parts) as usize));
        Self {
            connections: semaphore(CONNECTIONS),
            calls: semaphore(CALLS),
            bytes: semaphore(WAITING_BYTES),
        }
    }
}

/// A part of the limits, given back when dropped.
pub type Share = (OwnedSemaphorePermit, OwnedSemaphorePermit);

fn take(all: &Arc<Semaphore>, own: &Arc<Semaphore>, count: u32) -> Option<Share> {
    let own = own.clone().try_acquire_many_owned(count).ok()?;
    let all = all.clone().try_acquire_many_owned(count).ok()?;
    Some((all, own))
}

/// Somebody at one address.
#[derive(Clone, Debug)]
pub struct Caller {
    all: Arc<Limits>,
    own: Arc<Limits>,
}

impl Caller {
    /// Somebody who is alone.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        Self {
            all: Arc::new(Limits::one_of(1)),
            own: Arc::new(Limits::one_of(2)),
        }
    }

    /// Room for one call; `None` when there is none.
    pub fn take_call(&self) -> Option<Share> {
        take(&self.all.calls, &self.own.calls, 1)
    }

    /// Room for a large message that waits to be sent; `None` when there is none.
    pub fn take_bytes(&self, bytes: usize) -> Option<Share> {
        let bytes = u32::try_from(bytes).ok()?;
        take(&self.all.bytes, &self.own.bytes, bytes)
    }
}

/// The connections that `listener` accepts, within the limits. They break when `cut` is cancelled.
pub fn connections(
    listener: TcpListener,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let callers = Callers {
        all: Arc::new(Limits::one_of(1)),
        by_address: HashMap::new(),
    };
    unfold(
        (listener, callers, cut),
        |(listener, mut callers, cut)| async move {
            loop {
                match listener.accept().await {
                    Ok((stream, address)) => match callers.admit(address) {
                        Some((caller, share)) => {
                            let connection = Connection::new(stream, caller, share, cut.clone());
                            return Some((Ok(connection), (listener, callers, cut)));
                        }
                        None => log::debug!("{address} has too many connections"),
                    },
                    Err(error) => {
                        log::debug!("a connection could not be accepted: {error}");
                        sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        },
    )
}

struct Callers {
    all: Arc<Limits>,
    /// Those with connections; others are removed when a new one comes.
    by_address: HashMap<IpAddr, Weak<Limits>>,
}

impl Callers {
    fn admit(&mut self, address: SocketAddr) -> Option<(Caller, Share)> {
        let address = address.ip().to_canonical();
        let own = self.by_address.get(&address).and_then(Weak::upgrade);
        let own = own.unwrap_or_else(|| {
            self.by_address.retain(|_, own| own.strong_count() > 0);
            let own = Arc::new(Limits::one_of(2));
            self.by_address.insert(address, Arc::downgrade(&own));
            own
        });
        let share = take(&self.all.connections, &own.connections, 1)?;
        let all = self.all.clone();
        Some((Caller { all, own }, share))
    }
}

/// A connection of a [`Caller`], which tonic puts into the extensions of each of its requests.
pub struct Connection {
    stream: TcpStream,
    caller: Caller,
    /// Until the first bytes have come.
    patience: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _share: Share,
}

impl Connection {
    fn new(stream: TcpStream, caller: Caller, share: Share, cut: CancellationToken) -> Self {
        // Small messages shall not wait for more; a connection that refuses it works all the same.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            caller,
            patience: Some(Box::pin(sleep(FIRST_BYTES))),
            cut: Box::pin(cut.cancelled_owned()),
            _share: share,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.patience = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_half_and_gives_it_back() {
        let mut callers = Callers {
            all: Arc::new(Limits::one_of(1)),
            by_address: HashMap::new(),
        };
        let greedy: SocketAddr = "10.0.0.1:1000".parse().unwrap();
        let (caller, connection) = callers.admit(greedy).unwrap();
        let (again, _connection) = callers
            .admit("[::ffff:10.0.0.1]:2".parse().unwrap())
            .unwrap();
        let calls: Vec<Share> = std::iter::from_fn(|| caller.take_call()).collect();
        assert_eq!(calls.len(), CALLS as usize / 2);
        assert!(again.take_call().is_none());
        assert!(caller.take_bytes(WAITING_BYTES as usize / 2 + 1).is_none());

        let (other, _connection) = callers.admit("10.0.0.2:1000".parse().unwrap()).unwrap();
        assert!(other.take_call().is_some());
        drop(calls);
        assert!(again.take_call().is_some());

        drop((caller, connection, again));
        let others: Vec<_> = (0..=255)
            .map(|n| callers.admit(SocketAddr::from(([10, 0, 1, n], 1))).unwrap())
            .collect();
        drop(others);
        let _last = callers.admit("10.0.0.3:1".parse().unwrap()).unwrap();
        assert!(callers.by_address.len() <= 3);
    }
}
