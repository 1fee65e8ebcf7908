//! The admin port over real sockets: what it answers, and that nobody keeps a probe out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{
    net::SocketAddr,
    sync::{Mutex, Once},
    time::Duration,
};

use akri_daemon::{Admin, AdminSettings, Loops, registry};
use log::{LevelFilter, Log, Metadata, Record};
use prometheus_client::{metrics::info::Info, registry::Registry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The log is what tells which port it got.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));
static LOG: Once = Once::new();
static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn at(address: &str) -> AdminSettings {
    AdminSettings {
        admin_address: Some(address.parse().unwrap()),
    }
}

fn admin(metrics: Registry, reasons: &[&'static str]) -> Admin {
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    Admin {
        metrics,
        loops: Loops::default(),
        not_ready: Box::new(move || reasons.clone()),
    }
}

/// Serves it until the handle is dropped; and where.
async fn serve(admin: Admin) -> (AbortOnDropHandle<()>, SocketAddr) {
    LOG.call_once(|| {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
    let _one_by_one = STARTING.lock().await;
    let serving = admin.serve(&at("127.0.0.1:0")).await.unwrap().unwrap();
    let lines = LINES.0.lock().unwrap();
    let says = |line: &String| line.starts_with("/livez, /readyz and /metrics are at http://");
    let line = lines.iter().rfind(|line| says(line)).unwrap();
    let address = line.rsplit('/').next().unwrap().parse().unwrap();
    (serving, address)
}

/// All that is answered to these bytes, until the connection is closed.
async fn answer(address: SocketAddr, request: &[u8]) -> String {
    let mut answer = Vec::new();
    let asked = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Who is refused may be cut off before all is sent.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
    });
    asked.await.expect("the connection stays open");
    String::from_utf8(answer).unwrap()
}

/// The status, the whole head, and the body.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = answer(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    (status.to_owned(), head.to_owned(), body.to_owned())
}

async fn assert_alive(address: SocketAddr) {
    let (status, _, body) = ask(address, "GET", "/livez").await;
    assert_eq!((&*status, &*body), ("200", "ok\n"));
}

/// How many connections the process has open there.
fn held(address: SocketAddr) -> usize {
    let (port, open) = (format!(":{:04X}", address.port()), ["01", "08"]);
    let connections = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_open = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[1].ends_with(&port) && open.contains(&columns[3])
    };
    connections.lines().filter(is_open).count()
}

/// Waits until no more than these are open.
async fn until_held(address: SocketAddr, at_most: usize) {
    let waited = timeout(PATIENCE, async {
        while held(address) > at_most {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let open = || format!("{} connections stay open", held(address));
    waited.await.unwrap_or_else(|_| panic!("{}", open()));
}

#[tokio::test]
async fn it_answers_get_and_head_at_three_paths() {
    let (_serving, address) = serve(admin(registry(), &[])).await;
    for (method, path, status) in [
        ("GET", "/livez", "200"),
        ("GET", "/readyz?verbose", "200"),
        ("GET", "/metrics", "200"),
        ("HEAD", "/livez", "200"),
        ("HEAD", "/metrics", "200"),
        ("GET", "/", "404"),
        ("GET", "/metrics/", "404"),
        ("GET", "/livez/../metrics", "404"),
        ("POST", "/metrics", "405"),
        ("DELETE", "/nothing", "405"),
    ] {
        let (answered, head, body) = ask(address, method, path).await;
        assert_eq!(answered, status, "{method} {path}: {head}");
        assert_eq!(body.is_empty(), method == "HEAD", "{method} {path}: {body}");
        assert!(
            !head.contains("content-length: 0"),
            "{method} {path}: {head}"
        );
    }
    until_held(address, 0).await;
}

#[tokio::test]
async fn the_build_is_told_as_prometheus_reads_it() {
    let (_serving, address) = serve(admin(registry(), &[])).await;
    let (_, head, body) = ask(address, "GET", "/metrics").await;
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let version = concat!(
        "akri_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\",revision=\""
    );
    assert!(
        body.contains(version) && body.ends_with("\"} 1\n"),
        "{body}"
    );
}

#[tokio::test]
async fn the_reasons_for_not_being_ready_are_lines_of_a_503_and_no_matter_for_liveness() {
    let (_serving, address) = serve(admin(registry(), &["no device", "no Agent"])).await;
    let (status, _, body) = ask(address, "GET", "/readyz").await;
    assert_eq!((&*status, &*body), ("503", "no device\nno Agent\n"));
    assert_alive(address).await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error_and_without_one_nothing_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let error = admin(registry(), &[]).serve(&at(&taken)).await.unwrap_err();
    let expected = format!("cannot listen on ADMIN_ADDRESS={taken}: ");
    assert!(format!("{error:#}").starts_with(&expected), "{error:#}");
    let nowhere = AdminSettings::default();
    assert!(
        admin(registry(), &[])
            .serve(&nowhere)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn it_ends_with_its_connections_when_the_handle_is_dropped() {
    let (serving, address) = serve(admin(registry(), &[])).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_alive(address).await;
    drop(serving);
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
    let _closed = end.expect("the connection stays open");
    assert!(rest.is_empty());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_probe_out_and_end_by_themselves() {
    let (_serving, address) = serve(admin(registry(), &[])).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_alive(address).await;
    // The peers keep their ends.
    until_held(address, 0).await;
    assert_alive(address).await;
}

#[tokio::test]
async fn connections_that_send_a_byte_a_second_do_not_keep_a_probe_out_and_are_cut_off() {
    let (_serving, address) = serve(admin(registry(), &[])).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        slow.push(tokio::spawn(async move {
            let mut second = interval(Duration::from_secs(1));
            for byte in b"GET /livez HTTP/1.1\r\nx: "
                .iter()
                .chain(std::iter::repeat(&b'x'))
            {
                second.tick().await;
                let (cut, mut answer) = (stream.write_all(&[*byte]).await.is_err(), [0]);
                if cut || matches!(stream.try_read(&mut answer), Ok(0)) {
                    return;
                }
            }
        }));
    }
    while slow.iter().any(|slow| !slow.is_finished()) {
        assert_alive(address).await;
        sleep(Duration::from_millis(50)).await;
    }
    until_held(address, 0).await;
}

#[tokio::test]
async fn garbage_and_a_head_of_more_than_8_kib_are_refused_and_harmless() {
    let (_serving, address) = serve(admin(registry(), &[])).await;
    let long_field = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(9_000));
    let long_path = format!("GET /livez?{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    for garbage in [
        long_field.as_bytes(),
        long_path.as_bytes(),
        many.as_bytes(),
        b"\0\xff\x80\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET  \r\n\r\n",
        b"GET /livez HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nx y: z\r\n\r\n",
    ] {
        let answer = answer(address, garbage).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{:?}: {answer}", String::from_utf8_lossy(garbage));
        assert_alive(address).await;
    }
    until_held(address, 0).await;
}

#[tokio::test]
async fn a_connection_serves_one_request() {
    let (_serving, address) = serve(admin(registry(), &[])).await;
    let two = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    assert_eq!(answer(address, &two).await.matches("HTTP/1.1 ").count(), 1);
}

#[tokio::test]
async fn a_peer_that_does_not_read_the_metrics_is_cut_off() {
    // More than sockets buffer.
    let (mut metrics, bytes) = (registry(), 32 << 20);
    metrics.register("big", "Big", Info::new([("text", "x".repeat(bytes))]));
    let (_serving, address) = serve(admin(metrics, &[])).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    // Its answer has begun.
    stream.readable().await.unwrap();
    assert_alive(address).await;
    until_held(address, 0).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.len() < bytes, "{} bytes came", answer.len());
}
