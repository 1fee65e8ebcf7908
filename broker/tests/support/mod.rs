//! Devices that misbehave, and the real binary as a child process.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    future::Future,
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::{Instant, timeout, timeout_at},
};

pub mod grpc;
pub mod raw;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const VARIABLE: &str = "AKRI_HTTP_DEVICE_ENDPOINT";

/// A device that hands each connection, with the request's head already read, to `answer`.
pub async fn device<F, A>(answer: F) -> SocketAddr
where
    F: Fn(String, TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(head) = head(&mut stream).await {
                tokio::spawn(answer(head, stream));
            }
        }
    });
    address
}

/// A device that answers each request with these bytes, and closes the connection.
pub async fn canned(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    device(move |_, stream| send(stream, answer.clone())).await
}

/// A device that answers 200 with this body.
pub async fn healthy(body: &str) -> SocketAddr {
    canned(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
    .await
}

/// A device that takes the request and never answers.
pub async fn hanging() -> SocketAddr {
    device(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

/// An address where nothing listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A device that answers its n-th request with `body(n)`, counted from 0, and how many there were.
pub async fn counting(
    body: impl Fn(usize) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let address = device(move |_, stream| {
        let body = body(counted.fetch_add(1, Ordering::SeqCst));
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        send(stream, answer.into())
    })
    .await;
    (address, requests)
}

pub async fn send(mut stream: TcpStream, bytes: Vec<u8>) {
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

/// The next request's head; `None` when the client is gone.
pub async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// The status and the body of the answer to a GET.
pub async fn get(address: &str, path: &str) -> (String, String) {
    let mut answer = String::new();
    let asked = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    });
    asked.await.expect("no answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.to_owned(), body.to_owned())
}

/// A real binary, with nothing in its environment but what a test puts there.
pub struct Binary {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// What it prints.
    pub output: Lines<BufReader<ChildStdout>>,
}

impl Binary {
    pub fn standalone(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_standalone"), variables, arguments)
    }

    pub fn grpc_broker(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_grpc-broker"), variables, arguments)
    }

    pub fn grpc_client(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_grpc-client"), variables, arguments)
    }

    fn start(binary: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut child = Command::new(binary)
            .env_clear()
            // The same log on a machine without CA certificates.
            .env(
                "SSL_CERT_FILE",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/valid.pem"),
            )
            .envs(variables.iter().copied())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, log, output }
    }

    /// The next line of the log that contains `text`; those before it are dropped.
    pub async fn line_with(&mut self, text: &str) -> String {
        self.lines_up_to(text).await.pop().unwrap()
    }

    /// The lines of the log up to the first that contains `text`.
    pub async fn lines_up_to(&mut self, text: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            let line = timeout_at(deadline, self.log.next_line())
                .await
                .unwrap_or_else(|_| panic!("no line with {text:?} in {lines:#?}"))
                .unwrap()
                .unwrap_or_else(|| panic!("the log ended without {text:?}: {lines:#?}"));
            let found = line.contains(text);
            lines.push(line);
            if found {
                return lines;
            }
        }
    }

    /// Where it says that it can be watched.
    pub async fn admin(&mut self) -> String {
        let line = self.line_with("/metrics are at http://").await;
        line.rsplit('/').next().unwrap().to_owned()
    }

    /// The next line that it prints.
    pub async fn printed(&mut self) -> String {
        timeout(PATIENCE, self.output.next_line())
            .await
            .expect("nothing was printed")
            .unwrap()
            .expect("the output ended")
    }

    /// The most memory that it has had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    pub async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(
            Command::new("/bin/sh")
                .args(["-c", &kill])
                .status()
                .await
                .unwrap()
                .success()
        );
    }

    /// How it ended while nobody read its log, and that log.
    pub async fn end_unread(mut self) -> (ExitStatus, Vec<String>) {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("the process did not end").unwrap();
        (status, self.end().await.1)
    }

    /// How it ended, and the rest of its log.
    pub async fn end(mut self) -> (ExitStatus, Vec<String>) {
        timeout(PATIENCE, async {
            let mut lines = Vec::new();
            while let Some(line) = self.log.next_line().await.unwrap() {
                lines.push(line);
            }
            (self.child.wait().await.unwrap(), lines)
        })
        .await
        .expect("the process did not end")
    }
}
