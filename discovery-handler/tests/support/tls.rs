//! A discovery service that speaks TLS, with certificates that are made for the test.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use super::until;

/// Issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own, by which issuers are found.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, name: &str) -> Leaf {
        self.issue_with(name, |_| {})
    }

    pub fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        Leaf {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Leaf {
    pub fn der(&self) -> Vec<u8> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        der.unwrap().to_vec()
    }
}

/// A request, and the client certificate that it came with.
#[derive(Clone)]
pub struct Seen {
    pub head: String,
    pub client: Option<Vec<u8>>,
}

pub struct Secure {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Secure {
    /// Answers each request of a connection with `answer`. Wants a certificate of `clients`, if there are any.
    pub fn start(leaf: &Leaf, clients: Option<&Authority>, only_12: bool, answer: &str) -> Self {
        let config = Arc::new(config(leaf, clients, only_12));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, told) = (answer.to_owned(), seen.clone());
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let (answer, told) = (answer.clone(), told.clone());
                let mut stream = StreamOwned::new(connection, socket);
                thread::spawn(move || while serve(&mut stream, &answer, &told).is_some() {});
            }
        });
        Self { port, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until a request has come for which this holds.
    pub async fn saw(&self, check: impl Fn(&Seen) -> bool) {
        until(|| self.seen().iter().any(&check)).await;
    }

    pub fn details(&self) -> String {
        format!("url: https://localhost:{}/\ninterval: 100ms", self.port)
    }

    pub fn key(&self) -> String {
        format!("localhost:{}/", self.port)
    }
}

fn config(leaf: &Leaf, clients: Option<&Authority>, only_12: bool) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let versions = if only_12 {
        vec![&TLS12]
    } else {
        vec![&TLS13, &TLS12]
    };
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    builder.with_single_cert(vec![certificate], key).unwrap()
}

fn serve(
    stream: &mut StreamOwned<ServerConnection, TcpStream>,
    answer: &str,
    seen: &Mutex<Vec<Seen>>,
) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let client = (stream.conn.peer_certificates()).and_then(|certificates| certificates.first());
    seen.lock().unwrap().push(Seen {
        head: String::from_utf8(head).unwrap(),
        client: client.map(|certificate| certificate.to_vec()),
    });
    stream.write_all(answer.as_bytes()).ok()
}
