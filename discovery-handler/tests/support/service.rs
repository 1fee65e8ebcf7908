//! A discovery service that does as it is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::soon;

/// What the discovery service does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with this body.
    List(String),
    /// What this makes of the request's head, and then the connection closes.
    Made(fn(&str) -> Vec<u8>),
    /// These bytes, and then the connection closes.
    Raw(Vec<u8>),
    /// These bytes, and then these again and again, with a pause.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Nothing, for ever.
    Silence,
}

pub fn list(lines: &[&str]) -> Reply {
    Reply::List(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// A 200 with these headers and this body, and then the connection closes.
pub fn raw(head: &str, body: impl AsRef<[u8]>) -> Reply {
    let mut bytes = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body.as_ref());
    Reply::Raw(bytes)
}

/// A discovery service on a port of its own.
pub struct Service {
    pub port: u16,
    reply: watch::Sender<Reply>,
    seen: Arc<Mutex<VecDeque<String>>>,
    polls: watch::Sender<u64>,
    serving: Option<JoinHandle<()>>,
}

impl Service {
    pub async fn start(reply: Reply) -> Self {
        let mut service = Self {
            port: 0,
            reply: watch::Sender::new(reply),
            seen: Arc::default(),
            polls: watch::Sender::new(0),
            serving: None,
        };
        service.up().await;
        service
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/discovery", self.port)
    }

    /// What the log lines about it have, and no others: a bare port may be part of another number.
    pub fn key(&self) -> String {
        format!("127.0.0.1:{}/", self.port)
    }

    /// Details that poll five times a second.
    pub fn details(&self) -> String {
        format!("url: {}\ninterval: 200ms\ntimeout: 1m", self.url())
    }

    pub fn now(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    /// Nobody listens any more.
    pub fn down(&mut self) {
        self.serving = None.or_else(|| {
            if let Some(serving) = self.serving.take() {
                serving.abort();
            }
            None
        });
    }

    /// Listens, on the same port as before.
    pub async fn up(&mut self) {
        let listener = soon(async {
            loop {
                match TcpListener::bind(("127.0.0.1", self.port)).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await;
        self.port = listener.local_addr().unwrap().port();
        let (reply, seen, polls) = (self.reply.clone(), self.seen.clone(), self.polls.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serve(stream, reply.subscribe(), seen.clone(), polls.clone());
                connections.spawn(serving);
            }
        }));
    }

    pub fn polls(&self) -> u64 {
        *self.polls.borrow()
    }

    /// Waits for that many more polls to have begun.
    pub async fn polled(&self, more: u64) {
        let wanted = self.polls() + more;
        let mut polls = self.polls.subscribe();
        soon(polls.wait_for(|polls| *polls >= wanted))
            .await
            .unwrap();
    }

    /// The heads of the last requests, the newest last.
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().cloned().collect()
    }

    /// The last request's head.
    pub fn last_request(&self) -> String {
        self.seen
            .lock()
            .unwrap()
            .back()
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.down();
    }
}

async fn serve(
    mut stream: TcpStream,
    reply: watch::Receiver<Reply>,
    seen: Arc<Mutex<VecDeque<String>>>,
    polls: watch::Sender<u64>,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        {
            let mut seen = seen.lock().unwrap();
            seen.push_back(String::from_utf8_lossy(&head).into_owned());
            if seen.len() > 10 {
                seen.pop_front();
            }
        }
        polls.send_modify(|polls| *polls += 1);
        let now = reply.borrow().clone();
        match now {
            Reply::List(body) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await?;
            }
            Reply::Made(make) => {
                let bytes = make(&String::from_utf8_lossy(&head));
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Drip(first, again, pause) => {
                stream.write_all(&first).await?;
                loop {
                    tokio::time::sleep(pause).await;
                    stream.write_all(&again).await?;
                }
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}
