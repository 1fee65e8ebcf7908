//! The admin port as a probe sees it.

use std::net::{Ipv4Addr, SocketAddr};

use akri_http_discovery_handler::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{log_line, soon};

/// On loopback; an address of its own tells a handler's line in the log from those of other tests.
pub struct Admin(Ipv4Addr);

impl Admin {
    pub fn on(last: u8) -> Self {
        Self(Ipv4Addr::new(127, 0, 8, last))
    }

    pub fn set(&self, config: &mut Config) {
        config.handler.admin.admin_address = Some((self.0, 0).into());
    }

    /// Where the handler that was started last serves it.
    async fn address(&self) -> SocketAddr {
        let line = log_line(&[&format!("are at http://{}:", self.0)]).await;
        let (_, address) = line.rsplit_once("http://").unwrap();
        address.parse().unwrap()
    }

    /// The status and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = soon(TcpStream::connect(self.address().await))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        soon(stream.read_to_string(&mut reply)).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Waits until the handler says that it is ready.
    pub async fn ready(&self) {
        soon(async {
            while self.get("/readyz").await.0 != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Waits until it gives a reason that begins like this why it is not.
    pub async fn not_ready(&self, reason: &str) {
        soon(async {
            loop {
                let (status, body) = self.get("/readyz").await;
                if status == 503 && body.starts_with(reason) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}
