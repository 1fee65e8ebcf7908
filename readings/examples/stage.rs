//! A page with brokers and devices that do what a line on stdin says, for `.ci/browser` and for whoever works on the page:
//!
//! - `add NAME VALUE`: a device comes, with a broker of its own;
//! - `many COUNT`: so many devices come, which give a number about every ten seconds each;
//! - `give NAME VALUE`, `fail NAME CAUSE`: what the device gives from now on;
//! - `remove NAME`: the device goes, with its broker;
//! - `note TEXT`: the note on the page.
//!
//! `cargo run -p akri-http-readings --example stage [ADDRESS:PORT]`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{collections::BTreeMap, time::Duration};

use support::{Broker, Page};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    time::sleep,
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8090".into());
    let page = Page::at(address.parse().unwrap()).await;
    println!("http://{}", page.address);
    let mut brokers = BTreeMap::new();
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
        match command {
            "add" => {
                let broker = Broker::start(&[name]).await;
                broker.give(name, Ok(value));
                page.add(&broker);
                brokers.insert(name.to_owned(), broker);
            }
            "many" => many(&page, name.parse().unwrap()).await,
            "give" => brokers[name].give(name, Ok(value)),
            "fail" => brokers[name].give(name, Err(value)),
            "remove" => page.remove(&brokers.remove(name).unwrap()),
            "note" => drop(page.note.send_replace(rest.to_owned())),
            unknown => panic!("{unknown}?"),
        }
    }
}

/// A hundred for each broker.
async fn many(page: &Page, count: usize) {
    let names: Vec<_> = (1..=count)
        .map(|n| format!("http://sensor-{n}:8080/value"))
        .collect();
    for names in names.chunks(100) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let broker = Broker::start(&names).await;
        page.add(&broker);
        let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        tokio::spawn(async move {
            loop {
                for name in &names {
                    let number = 20.0 + fastrand::f64() * 5.0;
                    broker.give(name, Ok(&format!("{number:.2}")));
                    sleep(Duration::from_secs(10) / 100).await;
                }
            }
        });
    }
}
