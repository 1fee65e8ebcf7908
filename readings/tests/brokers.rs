//! Brokers and devices that come, fail, go and come back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use serde_json::Value;
use support::{Broker, Page};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

#[tokio::test]
async fn every_device_of_every_broker_is_on_the_page_with_its_newest_value() {
    let (one, other) = (
        Broker::start(&["a", "b"]).await,
        Broker::start(&["c"]).await,
    );
    one.give("a", Ok("21.5"));
    one.give("b", Ok("closed"));
    let page = Page::of(&[&one, &other]).await;
    let value = |devices: &[Value], name: &str| {
        let device = devices.iter().find(|device| device["device"] == name);
        device.map(|device| (device["value"].clone(), device["number"].clone()))
    };
    let devices = page
        .until("three devices", |devices| devices.len() == 3)
        .await;
    assert_eq!(value(&devices, "a"), Some(("21.5".into(), 21.5.into())));
    assert_eq!(value(&devices, "b"), Some(("closed".into(), Value::Null)));
    assert!(devices.iter().all(|device| device["state"] == "reading"));
    one.give("a", Ok("22"));
    page.until("the next value", |devices| {
        value(devices, "a").is_some_and(|it| it.0 == "22")
    })
    .await;
}

#[tokio::test]
async fn a_device_that_fails_says_why_and_keeps_its_last_value_until_it_comes_back() {
    let broker = Broker::start(&["a"]).await;
    broker.give("a", Ok("1"));
    let page = Page::of(&[&broker]).await;
    page.until_only_is("reading").await;
    broker.give("a", Err("cannot connect: Connection refused"));
    let failing = page.until_only_is("failing").await;
    assert_eq!(failing["why"], "cannot connect: Connection refused");
    assert_eq!(failing["value"], "1");
    // Another cause does not begin another failure.
    broker.give("a", Err("no reply"));
    let is = |devices: &[Value]| devices[0]["why"] == "no reply";
    let still = page.until("another cause", is).await;
    assert_eq!(still[0]["since"], failing["since"]);
    broker.give("a", Ok("2"));
    let back = page.until_only_is("reading").await;
    assert_eq!((&back["value"], &back["why"]), (&"2".into(), &Value::Null));
    assert!(back["since"].as_u64() > failing["since"].as_u64());
}

#[tokio::test]
async fn a_device_that_goes_with_its_broker_and_comes_back_with_another_one_is_one_row_with_its_history()
 {
    let page = Page::start().await;
    let first = Broker::start(&["a"]).await;
    first.give("a", Ok("1"));
    page.add(&first);
    let before = page.until_only_is("reading").await;
    page.remove(&first);
    drop(first);
    let gone = page.until_only_is("gone").await;
    assert_eq!(gone["value"], "1");

    let second = Broker::start(&["a"]).await;
    second.give("a", Ok("2"));
    page.add(&second);
    let back = page.until_only_is("reading").await;
    assert_eq!(back["id"], before["id"]);
    assert_eq!(back["broker"], second.address.to_string());
    let mut numbers = back["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| &point[1]);
    assert_eq!(numbers.next(), Some(&1.0.into()));
    assert_eq!(numbers.next_back(), Some(&2.0.into()));
}

#[tokio::test]
async fn two_brokers_may_mean_different_devices_by_one_name() {
    let (one, other) = (Broker::start(&["a"]).await, Broker::start(&["a"]).await);
    let page = Page::of(&[&one, &other]).await;
    let two = page
        .until("two devices", |devices| devices.len() == 2)
        .await;
    assert_ne!(two[0]["broker"], two[1]["broker"]);
    // None of them is taken over, since nobody knows which one it was.
    page.remove(&one);
    page.until("one that is gone", |devices| {
        devices.iter().any(|device| device["state"] == "gone")
    })
    .await;
    let third = Broker::start(&["a"]).await;
    page.add(&third);
    page.until("three devices", |devices| devices.len() == 3)
        .await;
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_named_with_the_cause_and_its_devices_come_back_with_it() {
    let broker = Broker::start(&["a"]).await;
    let page = Page::of(&[&broker]).await;
    let before = page.until_only_is("reading").await;
    let address = broker.address;
    drop(broker);
    let is = |devices: &[Value]| {
        let why = devices[0]["why"].as_str().unwrap_or_default();
        why.starts_with("the broker does not answer: ")
    };
    page.until("the cause", is).await;
    let brokers = page.json().await["brokers"].clone();
    assert_eq!(
        (&brokers["known"], &brokers["answering"]),
        (&1.into(), &0.into())
    );
    let problem = brokers["problems"][0].as_str().unwrap();
    assert!(problem.starts_with(&format!("{address}: ")), "{problem}");

    let _again = Broker::at(address, &["a"]).await;
    let back = page.until_only_is("reading").await;
    assert_eq!(back["id"], before["id"]);
    assert_eq!(
        page.json().await["brokers"]["problems"],
        Value::Array(vec![])
    );
}

#[tokio::test]
async fn a_watch_that_ends_begins_again_and_a_device_that_is_not_listed_any_more_has_gone() {
    let broker = Broker::start(&["a", "b"]).await;
    let page = Page::of(&[&broker]).await;
    let state = |devices: &[Value], name: &str| {
        let device = devices.iter().find(|device| device["device"] == name);
        device.map(|device| device["state"].as_str().unwrap().to_owned())
    };
    page.until("two devices", |devices| devices.len() == 2)
        .await;
    broker.end("a");
    page.until("a failure", |devices| {
        state(devices, "a").as_deref() == Some("failing")
    })
    .await;
    broker.give("a", Ok("1"));
    page.until("a reading", |devices| {
        state(devices, "a").as_deref() == Some("reading")
    })
    .await;
    assert_eq!(broker.watches("a"), 1);
    broker.remove("a");
    broker.add("c");
    page.until("another device", |devices| {
        state(devices, "a").as_deref() == Some("gone") && state(devices, "c").is_some()
    })
    .await;
    assert_eq!(page.json().await["brokers"]["answering"], 1);
}

/// A page of this broker that looks at it through a proxy, and the connections that it opens, as they come.
async fn page_by_proxy(broker: &Broker) -> (Page, mpsc::UnboundedReceiver<JoinHandle<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, behind) = (listener.local_addr().unwrap(), broker.address);
    let (opened, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut page, _) = listener.accept().await.unwrap();
            let passing = tokio::spawn(async move {
                let mut broker = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut page, &mut broker).await;
            });
            let _ = opened.send(passing);
        }
    });
    let page = Page::start().await;
    page.brokers
        .send_modify(|brokers| drop(brokers.insert(proxy, proxy.to_string())));
    (page, connections)
}

#[tokio::test]
async fn when_one_of_several_connections_to_a_broker_ends_its_devices_go_on_with_another() {
    // More than one connection is for.
    let names: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let broker = Broker::start(&names).await;
    let (page, mut connections) = page_by_proxy(&broker).await;
    let all_have = |devices: &[Value], value: &str| {
        devices.len() == 100 && devices.iter().all(|device| device["value"] == value)
    };
    page.until("all devices", |devices| all_have(devices, "0"))
        .await;
    connections.recv().await.unwrap().abort();
    names.iter().for_each(|name| broker.give(name, Ok("1")));
    page.until("all of them again", |devices| all_have(devices, "1"))
        .await;
}

#[tokio::test]
async fn devices_that_come_and_go_need_no_more_connections() {
    let names = |round: usize| (0..40).map(move |number| format!("{round}-{number}"));
    let broker = Broker::start(&[]).await;
    names(0).for_each(|name| broker.add(&name));
    let (page, mut connections) = page_by_proxy(&broker).await;
    for round in 0..5 {
        let new = |device: &&Value| {
            let name = device["device"].as_str().unwrap_or_default();
            name.starts_with(&format!("{round}-")) && device["state"] == "reading"
        };
        let all_new = |devices: &[Value]| devices.iter().filter(new).count() == 40;
        page.until("the new devices", all_new).await;
        names(round + 1).for_each(|name| broker.add(&name));
        names(round).for_each(|name| broker.remove(&name));
    }
    // A watch that has ended may count for a moment.
    let mut opened = 0;
    while connections.try_recv().is_ok() {
        opened += 1;
    }
    assert!(opened <= 2, "{opened} connections for 200 devices");
}

#[tokio::test]
async fn a_broker_with_very_many_devices_leaves_room_for_those_of_others() {
    let names: Vec<_> = (0..1_100).map(|number| number.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (many, one) = (Broker::start(&names).await, Broker::start(&["a"]).await);
    let page = Page::of(&[&many, &one]).await;
    page.until("a half of all and another one", |devices| {
        devices.len() == 1_024 + 1
    })
    .await;
    let problems = page.json().await["brokers"]["problems"].clone();
    assert_eq!(
        problems,
        serde_json::json!(["there are too many devices, and some are left out"])
    );
}
