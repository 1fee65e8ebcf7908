use akri_daemon::registry;
use prometheus_client::encoding::prometheus_text::encode;

use super::*;

fn shown(observed: &Arc<Observed>) -> String {
    let (mut registry, mut text) = (registry(), String::new());
    observed.register(&mut registry);
    encode(&mut text, &registry).unwrap();
    text
}

fn good(devices: usize) -> Option<Shown> {
    Some(Shown {
        good: Instant::now(),
        devices,
        missing: 1,
        collisions: 0,
    })
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_ready_when_every_request_has_its_list() {
    let observed = Observed::new();
    assert_eq!(
        observed.not_ready(),
        ["the Agent has not taken a registration"]
    );
    observed.set_registered(true);
    assert!(observed.not_ready()[0].contains("no Discover stream yet"));
    let (one, two) = (observed.report("one"), observed.report("two"));
    two.update(|polled| polled.failed = 2);
    assert_eq!(
        observed.not_ready(),
        [
            "one: no list yet, 0 polls failed",
            "two: no list yet, 2 polls failed"
        ]
    );
    for report in [&one, &two] {
        report.update(|polled| polled.list = good(1));
    }
    assert!(observed.not_ready().is_empty());
    // Whatever comes later, only the registration counts.
    let _another = observed.report("another");
    assert!(observed.not_ready().is_empty());
    observed.set_registered(false);
    assert_eq!(observed.not_ready().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_nobody_asks_is_ready_after_ten_seconds() {
    let observed = Observed::new();
    observed.set_registered(true);
    tokio::time::advance(ASKS_WITHIN / 2).await;
    observed.set_registered(true);
    assert_eq!(observed.not_ready().len(), 1);
    tokio::time::advance(ASKS_WITHIN / 2).await;
    assert!(observed.not_ready().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_given_up_after_two_minutes_where_no_other_handler_may_have_its_list()
 {
    let observed = Observed::new();
    observed.set_registered(true);
    let report = observed.report("one");
    report.update(|polled| {
        polled.failed = 1;
        polled.loading = true;
    });
    tokio::time::advance(GIVEN_UP).await;
    assert_eq!(observed.not_ready().len(), 1, "another one is there");
    observed.set_alone(true);
    assert_eq!(observed.not_ready().len(), 1, "a saved list may come");
    report.update(|polled| polled.loading = false);
    assert!(observed.not_ready().is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_that_look_alike_have_numbers_of_their_own_while_they_live() {
    let observed = Observed::new();
    let (one, two) = (observed.report("http://d"), observed.report("http://d"));
    one.update(|polled| polled.changed = 7);
    two.update(|polled| {
        polled.failed = 3;
        polled.list = good(9);
    });
    tokio::time::advance(Duration::from_secs(5)).await;
    let text = shown(&observed);
    for line in [
        "akri_discovery_polls_total{request=\"http://d\",outcome=\"changed\"} 7",
        "akri_discovery_polls_total{request=\"http://d#2\",outcome=\"failed\"} 3",
        "akri_discovery_devices{request=\"http://d#2\"} 9",
        "akri_discovery_missing_devices{request=\"http://d#2\"} 1",
        "akri_discovery_list_age_seconds{request=\"http://d#2\"} 5",
        "akri_discovery_registered 0",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("devices{request=\"http://d\"}"), "{text}");
    drop((one, two));
    assert!(!shown(&observed).contains("http://d"));
}
