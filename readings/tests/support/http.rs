//! What a browser, a program and Prometheus ask of the page.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, Page};

pub fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    builder.build().unwrap()
}

/// The provider of TLS that reqwest asks for, though nothing here uses TLS.
pub fn get(address: SocketAddr, path: &str) -> impl Future<Output = reqwest::Response> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let request = client().get(format!("http://{address}{path}"));
    async { timeout(PATIENCE, request.send()).await.unwrap().unwrap() }
}

impl Page {
    pub async fn text(&self, path: &str) -> String {
        get(self.address, path).await.text().await.unwrap()
    }

    /// `/api/devices`, parsed.
    pub async fn json(&self) -> Value {
        serde_json::from_str(&self.text("/api/devices").await).unwrap()
    }

    /// The devices, as soon as they are as they should be.
    pub async fn until(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let wait = async {
            loop {
                let devices = self.json().await["devices"].as_array().unwrap().clone();
                if is(&devices) {
                    return devices;
                }
                sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(devices) => devices,
            Err(_) => panic!("never {what}: {}", self.json().await),
        }
    }

    /// The only device, as soon as it is in this state.
    pub async fn until_only_is(&self, state: &str) -> Value {
        let is = |devices: &[Value]| matches!(devices, [one] if one["state"] == state);
        self.until(&format!("one device that is {state}"), is).await[0].clone()
    }

    /// The events from now on.
    pub async fn events(&self) -> Events {
        let response = get(self.address, "/api/events").await;
        assert_eq!(response.status(), 200);
        Events {
            response,
            text: String::new(),
        }
    }
}

/// A page that is open in a browser.
pub struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    pub async fn next(&mut self) -> Value {
        timeout(PATIENCE, self.next_in_time()).await.unwrap()
    }

    async fn next_in_time(&mut self) -> Value {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let event = serde_json::from_str(data.unwrap()).unwrap();
                self.text = rest.to_owned();
                return event;
            }
            let chunk = self
                .response
                .chunk()
                .await
                .unwrap()
                .expect("the stream goes on");
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// The first event with a device that is like this, and that device.
    pub async fn until(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let event = self.next().await;
                let devices = event["devices"].as_array().unwrap();
                if let Some(device) = devices.iter().find(|device| is(device)) {
                    return device.clone();
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap()
    }
}
