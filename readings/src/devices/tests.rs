use tokio::time::advance;

use super::*;

fn broker(number: usize) -> SocketAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 50051))
}

fn come(devices: &Devices, number: usize) -> SocketAddr {
    let broker = broker(number);
    devices.come(broker, &broker.to_string());
    devices.answers(broker, &["a".into(), "b".into()].into());
    broker
}

fn gives(devices: &Devices, broker: SocketAddr, name: &str, number: f64) {
    let outcome = Outcome::Value {
        text: number.to_string(),
        number: Some(number),
    };
    devices.read(broker, &name.into(), outcome);
}

/// Those that `seen` has not seen, by name and state.
fn look(devices: &Devices, seen: &mut Seen) -> Vec<(String, State)> {
    let mut rows = Vec::new();
    let all = devices.look(seen, |_, row| {
        rows.push((row.device.clone(), row.state.clone()));
        true
    });
    assert!(all);
    rows
}

fn everything(devices: &Devices) -> Vec<(String, State)> {
    look(devices, &mut Seen::default())
}

#[tokio::test(start_paused = true)]
async fn a_second_look_shows_what_has_changed_since_the_first_even_in_the_same_millisecond() {
    let devices = Devices::default();
    let broker = come(&devices, 1);
    gives(&devices, broker, "a", 1.0);
    gives(&devices, broker, "b", 1.0);
    let mut seen = Seen::default();
    assert_eq!(look(&devices, &mut seen).len(), 2);
    assert_eq!(look(&devices, &mut seen), []);
    gives(&devices, broker, "b", 2.0);
    assert_eq!(look(&devices, &mut seen), [("b".into(), State::Reading)]);
    assert_eq!(look(&devices, &mut seen), []);
}

#[tokio::test(start_paused = true)]
async fn a_look_in_pieces_shows_everything_once_and_later_changes_afterwards() {
    let devices = Devices::default();
    let broker = come(&devices, 1);
    let names: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    names
        .iter()
        .for_each(|name| gives(&devices, broker, name, 0.0));
    let mut seen = Seen::default();
    let mut shown = Vec::new();
    while !devices.look(&mut seen, |_, row| {
        shown.push(row.device.clone());
        shown.len() % 3 != 0
    }) {
        gives(&devices, broker, "0", 1.0);
    }
    assert_eq!(shown, names);
    assert_eq!(look(&devices, &mut seen), [("0".into(), State::Reading)]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_gone_stays_for_five_minutes_and_then_not() {
    let devices = Devices::default();
    let broker = come(&devices, 1);
    gives(&devices, broker, "a", 1.0);
    devices.gone(broker);
    assert_eq!(everything(&devices), [("a".into(), State::Gone)]);
    advance(GONE_FOR).await;
    assert_eq!(everything(&devices).len(), 1);
    advance(Duration::from_millis(2)).await;
    assert_eq!(everything(&devices), []);
    assert!(devices.known().ids.is_empty());
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_devices_than_allowed_and_those_that_have_gone_make_room_first() {
    let devices = Devices::default();
    let (first, second) = (come(&devices, 1), come(&devices, 2));
    for n in 0..DEVICES {
        let broker = if n == 0 { first } else { second };
        gives(&devices, broker, &format!("device {n}"), 1.0);
    }
    gives(&devices, second, "one more", 1.0);
    assert_eq!(everything(&devices).len(), DEVICES);
    assert!(!everything(&devices).iter().any(|row| row.0 == "one more"));
    let problem = &devices.brokers(10).problems[0];
    assert_eq!(problem, "there are too many devices, and some are left out");

    devices.gone(first);
    gives(&devices, second, "one more", 1.0);
    let rows = everything(&devices);
    assert_eq!(rows.len(), DEVICES);
    assert!(rows.contains(&("one more".into(), State::Reading)));
    assert!(!rows.iter().any(|row| row.0 == "device 0"));
    advance(GONE_FOR * 2).await;
    everything(&devices);
    assert_eq!(devices.brokers(10).problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_device_moves_to_another_broker_when_its_own_does_not_answer() {
    let devices = Devices::default();
    let (first, second) = (come(&devices, 1), come(&devices, 2));
    gives(&devices, first, "a", 1.0);
    devices.does_not_answer(first, "cannot connect");
    gives(&devices, second, "a", 2.0);
    assert_eq!(everything(&devices), [("a".into(), State::Reading)]);
    // The first one is back: now there are two.
    devices.answers(first, &["a".into()].into());
    gives(&devices, first, "a", 3.0);
    assert_eq!(everything(&devices).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_began_when_the_broker_says_unless_that_is_in_the_future() {
    let devices = Devices::default();
    let broker = come(&devices, 1);
    let now = devices.now();
    for (since, expected) in [(now - 5_000, now - 5_000), (now + 5_000, now)] {
        let why = "down".to_owned();
        gives(&devices, broker, "a", 1.0);
        devices.read(
            broker,
            &"a".into(),
            Outcome::Failure {
                why,
                since: Some(since),
            },
        );
        devices.look(&mut Seen::default(), |_, row| {
            assert!(row.since.abs_diff(expected) < 10);
            true
        });
    }
}

#[test]
fn only_some_lines_say_what_is_wrong() {
    let devices = Devices::default();
    for number in 0..20 {
        let broker = come(&devices, number);
        devices.does_not_answer(broker, "no");
    }
    devices.resolved("name:1", Some("not found".into()));
    let brokers = devices.brokers(3);
    assert_eq!((brokers.known, brokers.answering), (20, 0));
    let lines = [
        "name:1: not found",
        "10.0.0.0:50051: no",
        "10.0.0.1:50051: no",
        "and 18 more",
    ];
    assert_eq!(brokers.problems, lines);
}
