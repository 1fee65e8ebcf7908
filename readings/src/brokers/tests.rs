use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::time::advance;

use super::*;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 1))
}

/// Resolves a name to one answer after another, and looks at what is found after each.
async fn found(devices: &Devices, answers: Vec<io::Result<Vec<SocketAddr>>>) -> Vec<Vec<u8>> {
    let count = answers.len();
    let answers = Mutex::new(VecDeque::from(answers));
    let lookup = |_| {
        let next = answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        async {
            match next {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    };
    let (sender, receiver) = watch::channel(Brokers::new());
    let mut seen = Vec::new();
    let loops = Loops::default();
    let look = async {
        for _ in 0..count {
            // What is ready is done before the time goes on.
            sleep(Duration::from_millis(1)).await;
            let last = |address: &SocketAddr| match address {
                SocketAddr::V4(address) => address.ip().octets()[3],
                SocketAddr::V6(_) => 0,
            };
            seen.push(receiver.borrow().keys().map(last).collect());
            advance(RESOLVE * 11 / 10).await;
        }
    };
    tokio::select! {
        () = resolve(vec!["name:1".into()], lookup, devices, &loops, &sender) => {}
        () = look => {}
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn every_address_of_a_name_is_a_broker_as_long_as_the_name_has_it() {
    let answers = [vec![1, 2], vec![2, 3], vec![2, 3], vec![]];
    let to_addresses = |numbers: &Vec<u8>| Ok(numbers.iter().copied().map(address).collect());
    let resolved = answers.iter().map(to_addresses).collect();
    assert_eq!(found(&Devices::default(), resolved).await, answers);
}

#[tokio::test(start_paused = true)]
async fn as_long_as_a_name_cannot_be_resolved_the_brokers_that_answer_stay() {
    let devices = Devices::default();
    for last in [1, 2] {
        devices.come(address(last), "broker");
    }
    devices.answers(address(1), &Default::default());
    devices.does_not_answer(address(2), "cannot connect");
    let failed = || Err(io::Error::other("no such name"));
    let both = || Ok(vec![address(1), address(2)]);
    let seen = found(&devices, vec![both(), failed(), failed(), both(), failed()]).await;
    let expected = [vec![1, 2], vec![1], vec![1], vec![1, 2], vec![1]];
    assert_eq!(seen, expected);
    assert_eq!(devices.brokers(10).problems[0], "name:1: no such name");
}

#[tokio::test]
async fn the_system_knows_its_own_name() {
    let addresses = by_the_system("localhost:80".into()).await.unwrap();
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    assert!(
        by_the_system("no-such-name.invalid:80".into())
            .await
            .is_err()
    );
}
