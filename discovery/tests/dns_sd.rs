//! `examples/dns_sd.rs` at the stub Agent: a handler that is asked, of a DNS server on the loopback device.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../examples/dns_sd.rs"]
#[allow(dead_code, missing_docs)]
mod dns_sd;
mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use akri_discovery::DiscoveryHandler;
use dns_sd::DnsSd;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{
            Name, RData, Record,
            rdata::{PTR, SRV, TXT},
        },
    },
};
use support::{Handler, Node, SOON};
use tokio::{net::UdpSocket, sync::watch, task::AbortHandle, time::timeout};

const BOILER: &str = "boiler._http._tcp.example.com.";
const PUMP: &str = "My\\040Pump._http._tcp.example.com.";

/// What a server knows, or why it does not.
type Zone = Result<Vec<Record>, ResponseCode>;

/// A DNS server over UDP.
struct Server {
    zone: Arc<Mutex<Zone>>,
    address: SocketAddr,
    /// How many answers were errors.
    failed: watch::Receiver<u64>,
    task: AbortHandle,
}

impl Server {
    async fn start(records: Vec<Record>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Ok(records)));
        let known = Arc::clone(&zone);
        let (failures, failed) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..len]).unwrap();
                let answer = answer(&query, &known.lock().unwrap());
                let bytes = answer.to_vec().unwrap();
                socket.send_to(&bytes, peer).await.unwrap();
                if known.lock().unwrap().is_err() {
                    failures.send_modify(|failed| *failed += 1);
                }
            }
        });
        Self {
            zone,
            address,
            failed,
            task: task.abort_handle(),
        }
    }

    fn now(&self, zone: Zone) {
        *self.zone.lock().unwrap() = zone;
    }

    async fn has_failed_twice(&self) {
        let mut failed = self.failed.clone();
        let before = *failed.borrow_and_update();
        let twice = failed.wait_for(|failed| *failed >= before + 2);
        drop(timeout(SOON, twice).await.unwrap());
    }

    fn handler(&self) -> DnsSd {
        let mut udp = ConnectionConfig::udp();
        udp.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![udp]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let resolver =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build();
        DnsSd(resolver.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(query: &Message, zone: &Zone) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries = query.queries.clone();
    let Some(asked) = query.queries.first() else {
        return answer;
    };
    match zone {
        Ok(records) => {
            let fits = |record: &&Record| {
                record.name == *asked.name() && record.record_type() == asked.query_type()
            };
            answer.answers = records.iter().filter(fits).cloned().collect();
            if !records.iter().any(|record| record.name == *asked.name()) {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        Err(code) => answer.metadata.response_code = *code,
    }
    answer
}

/// As bytes, since the name of a service may have any.
fn name(text: &str) -> Name {
    let text = text.replace("\\040", " ");
    let labels = text.split('.').filter(|label| !label.is_empty());
    Name::from_labels(labels.map(str::as_bytes)).unwrap()
}

/// A record that nobody remembers.
fn record(of: &str, data: RData) -> Record {
    Record::from_rdata(name(of), 0, data)
}

fn service(id: &str) -> Record {
    record("_http._tcp.example.com.", RData::PTR(PTR(name(id))))
}

fn server(id: &str, priority: u16, host: &str) -> Record {
    record(id, RData::SRV(SRV::new(priority, 0, 8080, name(host))))
}

fn text(id: &str, pairs: &[&str]) -> Record {
    let pairs = pairs.iter().map(|pair| (*pair).to_owned()).collect();
    record(id, RData::TXT(TXT::new(pairs)))
}

fn boiler() -> Vec<Record> {
    let pairs = ["path=/sensor", "site=north=1", "flag", "site=south"];
    vec![
        service(BOILER),
        server(BOILER, 0, "boiler.example.com."),
        text(BOILER, &pairs),
    ]
}

fn pump() -> Vec<Record> {
    vec![service(PUMP), server(PUMP, 0, "pump.example.com.")]
}

async fn node(server: &Server) -> (Node, Handler) {
    let node = Node::start("node", "dns-sd", "example.com").await;
    let handler = Handler::start(server.handler(), node.settings());
    (node, handler)
}

#[tokio::test]
async fn a_service_is_a_device_while_it_is_listed() {
    let server = Server::start(boiler()).await;
    let (node, _handler) = node(&server).await;
    node.has(&[BOILER]).await;
    let properties = node.instance(BOILER).properties;
    let expected = [
        (
            "AKRI_HTTP_DEVICE_ENDPOINT",
            "http://boiler.example.com:8080",
        ),
        ("TXT_path", "/sensor"),
        ("TXT_site", "north=1"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(properties, expected.into());

    server.now(Ok([boiler(), pump()].concat()));
    node.has(&[BOILER, PUMP]).await;
    server.now(Ok(pump()));
    node.has(&[PUMP]).await;
    server.now(Ok(vec![]));
    node.has(&[]).await;
}

#[tokio::test]
async fn a_service_without_a_server_is_none_and_hides_no_other_one() {
    // RFC 2782: the root as a target says that there is none.
    let nowhere = vec![
        service("fan._http._tcp.example.com."),
        server("fan._http._tcp.example.com.", 0, "."),
    ];
    let server = Server::start([vec![service(PUMP)], nowhere, boiler()].concat()).await;
    let (node, _handler) = node(&server).await;
    node.has(&[BOILER]).await;
}

#[tokio::test]
async fn rule_10_servers_in_any_order_are_the_same_device() {
    let one = server(PUMP, 2, "one.example.com.");
    let other = server(PUMP, 10, "other.example.com.");
    let dns = Server::start(vec![service(PUMP), one.clone(), other.clone()]).await;
    let (node, _handler) = node(&dns).await;
    node.has(&[PUMP]).await;
    let before = node.instance(PUMP);
    dns.now(Ok([vec![service(PUMP), other, one], boiler()].concat()));
    node.has(&[PUMP, BOILER]).await;
    let after = node.instance(PUMP).properties;
    assert_eq!(after, before.properties);
    let endpoint = &after["AKRI_HTTP_DEVICE_ENDPOINT"];
    assert_eq!(endpoint, "http://one.example.com:8080");
}

#[tokio::test]
async fn rule_1_a_server_that_cannot_say_costs_no_instance() {
    let server = Server::start(boiler()).await;
    let (node, _handler) = node(&server).await;
    let before = node.has(&[BOILER]).await;
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        server.now(Err(code));
        server.has_failed_twice().await;
    }
    server.now(Ok([boiler(), pump()].concat()));
    let after = node.has(&[BOILER, PUMP]).await;
    assert_eq!(after.deleted, before.deleted);
}

#[tokio::test]
async fn services_are_there_whatever_happens() {
    let server = Server::start([boiler(), pump()].concat()).await;
    let (mut node, first) = node(&server).await;
    let (second, third) = (server.handler(), server.handler());
    node.has_whatever_happens(&[BOILER, PUMP], first, second, third)
        .await;
}

#[tokio::test]
async fn details_that_are_no_domain_are_refused() {
    let server = Server::start(vec![]).await;
    let handler = server.handler();
    for details in ["", "a..b", &"a".repeat(64)] {
        let error = handler.request(details, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("must be a domain"), "{error}");
    }
}
