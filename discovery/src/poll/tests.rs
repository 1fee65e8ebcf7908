use std::{collections::VecDeque, fmt, path::Path};

use anyhow::anyhow;
use std::time::Duration;
use tokio::time::Instant;

use super::*;
use crate::{Device, Found, Properties, Settings};

/// Answers each poll as the next word of its script says, and the last word again and again.
struct Scripted {
    script: Mutex<VecDeque<&'static str>>,
    polls: watch::Sender<Vec<Instant>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Every(u64);

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "every {} s", self.0)
    }
}

fn devices(ids: &str) -> Vec<Device> {
    let device = |id: &str| Device {
        id: id.into(),
        ..Device::default()
    };
    ids.split_whitespace().map(device).collect()
}

#[async_trait::async_trait]
impl DiscoveryHandler for Scripted {
    type Request = Every;

    fn request(&self, _: &str, _: &Properties) -> anyhow::Result<Every> {
        Ok(Every(10))
    }

    fn times(&self, every: &Every, _: Times) -> Times {
        Times {
            interval: Duration::from_secs(every.0),
            // Only one test has a long one.
            timeout: Duration::from_secs(if every.0 == 3_600 { 600 } else { 5 }),
            // Only these have it.
            grace: Duration::from_secs(if matches!(every.0, 15 | 86_400) {
                60
            } else {
                0
            }),
        }
    }

    async fn discover(&self, _: &Every, found: &Found<'_>) -> anyhow::Result<()> {
        self.polls.send_modify(|polls| polls.push(Instant::now()));
        let word = {
            let mut script = self.script.lock().unwrap();
            match script.len() {
                0 | 1 => script.front().copied().unwrap_or(""),
                _ => script.pop_front().unwrap(),
            }
        };
        match word {
            "fails" => Err(anyhow!("it fails")),
            "hangs" => std::future::pending().await,
            "panics" => panic!("it panics"),
            "same" => Ok(()),
            told if told.contains('>') => {
                for word in told.split('>').map(str::trim) {
                    match word {
                        "fails" => anyhow::bail!("it fails"),
                        "ends" => return Ok(()),
                        ids => found.all(devices(ids))?,
                    }
                    sleep(Duration::from_secs(100)).await;
                }
                std::future::pending().await
            }
            ids => found.all(devices(ids)),
        }
    }
}

fn pollers(script: &[&'static str]) -> Arc<Pollers<Scripted>> {
    let handler = Scripted {
        script: Mutex::new(script.iter().copied().collect()),
        polls: watch::Sender::default(),
    };
    let settings = Settings::in_directory(Path::new("/"), "test");
    let (observed, stop) = (Observed::new(), CancellationToken::new());
    Pollers::new(handler, &settings, observed, stop)
}

async fn next(lists: &mut Lists) -> Vec<String> {
    lists.changed().await.unwrap();
    let list = lists.borrow_and_update().clone().unwrap();
    list.ids().map(String::from).collect()
}

/// When so many polls came, in seconds after the first one.
async fn times(script: &[&'static str], interval: u64, polls: usize) -> Vec<f64> {
    let pollers = pollers(script);
    let _lists = pollers.subscribe(&Every(interval));
    let mut seen = pollers.handler.polls.subscribe();
    let seen = seen.wait_for(|seen| seen.len() >= polls).await.unwrap();
    seen.iter()
        .map(|time| (*time - seen[0]).as_secs_f64())
        .collect()
}

fn gaps(times: &[f64]) -> Vec<f64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_poll_comes_at_once_and_then_every_interval_within_ten_percent() {
    let gaps = gaps(&times(&["a"], 10, 100).await);
    assert!(
        gaps.iter().all(|gap| (8.99..=11.01).contains(gap)),
        "{gaps:?}"
    );
    assert!(gaps.iter().any(|gap| *gap < 9.9) && gaps.iter().any(|gap| *gap > 10.1));
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_tries_come_from_one_second_doubling_up_to_the_interval() {
    let gaps = gaps(&times(&["a", "fails"], 60, 10).await);
    let expected = [60.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
    for (gap, expected) in gaps.iter().zip(expected) {
        assert!((gap - expected).abs() <= 0.1 * expected + 0.01, "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_starts_the_delays_anew() {
    let script = ["fails", "a", "fails", "fails", "a"];
    let gaps = gaps(&times(&script, 60, 5).await);
    for (gap, expected) in gaps.iter().zip([1.0, 60.0, 1.0, 2.0]) {
        assert!((gap - expected).abs() <= 0.1 * expected + 0.01, "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_failed_poll_a_hanging_one_and_a_panic_keep_the_list() {
    let pollers = pollers(&[
        "a b", "fails", "hangs", "same", "panics", "a b", "b a", "a c",
    ]);
    let mut lists = pollers.subscribe(&Every(10));
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    assert_eq!(next(&mut lists).await, ["a", "c"]);
    assert_eq!(pollers.handler.polls.borrow().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_from_the_start_brings_no_list_until_it_works() {
    let pollers = pollers(&["fails", "fails", "a"]);
    let mut lists = pollers.subscribe(&Every(10));
    assert_eq!(next(&mut lists).await, ["a"]);
    assert_eq!(pollers.handler.polls.borrow().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn equal_requests_share_a_poller_which_ends_with_the_last_of_them() {
    let pollers = pollers(&["a"]);
    let mut one = pollers.subscribe(&Every(10));
    let mut two = pollers.subscribe(&Every(10));
    assert_eq!(next(&mut one).await, ["a"]);
    assert_eq!(next(&mut two).await, ["a"]);
    assert_eq!(pollers.running().len(), 1);
    assert_eq!(pollers.handler.polls.borrow().len(), 1);
    drop(one);
    two.mark_unchanged();
    sleep(Duration::from_secs(60)).await;
    let polls = pollers.handler.polls.borrow().len();
    assert!(polls > 4, "{polls}");
    drop(two);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(pollers.handler.polls.borrow().len(), polls);
    assert!(pollers.running().is_empty());
    let mut again = pollers.subscribe(&Every(10));
    assert_eq!(next(&mut again).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_missing_is_kept_for_the_grace_period_and_then_gone() {
    let empty_once = ["a b", " ", "a b", "b a"];
    let half_for_long = ["a", "a c", "same"];
    let pollers = pollers(&[&empty_once[..], &half_for_long].concat());
    let mut lists = pollers.subscribe(&Every(15));
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    // Nothing is said of the empty reply, nor of b as long as it may come back.
    assert_eq!(next(&mut lists).await, ["a", "b", "c"]);
    assert_eq!(pollers.handler.polls.borrow().len(), 6);
    // A handler that finds the same devices again says so also when it is not asked what has changed.
    pollers.handler.script.lock().unwrap().clear();
    pollers.handler.script.lock().unwrap().push_back("a c");
    assert_eq!(next(&mut lists).await, ["a", "c"]);
    let polls = pollers.handler.polls.borrow().clone();
    let missing = *polls.last().unwrap() - polls[4];
    assert!((60..=77).contains(&missing.as_secs()), "{missing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_takes_minutes_and_an_interval_of_an_hour_are_no_stuck_loop() {
    let pollers = pollers(&["hangs", "a"]);
    let _lists = pollers.subscribe(&Every(3_600));
    for _ in 0..300 {
        sleep(Duration::from_secs(30)).await;
        assert_eq!(pollers.observed.loops.stuck(), Vec::<String>::new());
    }
    assert!(pollers.handler.polls.borrow().len() > 2);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_told_is_asked_once_and_tells_of_changes_at_once() {
    let pollers = pollers(&["a > a b > b a > a b c"]);
    let mut lists = pollers.subscribe(&Every(10));
    assert_eq!(next(&mut lists).await, ["a"]);
    let begin = Instant::now();
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    assert_eq!(begin.elapsed().as_secs(), 100);
    assert_eq!(next(&mut lists).await, ["a", "b", "c"]);
    assert_eq!(begin.elapsed().as_secs(), 300);
    sleep(Duration::from_secs(100_000)).await;
    assert_eq!(pollers.handler.polls.borrow().len(), 1);
    assert_eq!(pollers.observed.loops.stuck(), Vec::<String>::new());
    let (mut metrics, mut text) = (akri_daemon::registry(), String::new());
    pollers.observed.register(&mut metrics);
    prometheus_client::encoding::prometheus_text::encode(&mut text, &metrics).unwrap();
    let age = text.lines().find(|line| line.contains("age_seconds{"));
    let age = age.and_then(|line| line.rsplit(' ').next()).unwrap();
    assert!(age.parse::<f64>().unwrap() <= 10.0, "{age}");
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_device_of_which_a_handler_is_told_that_it_went_is_kept_for_the_grace_period() {
    let pollers = pollers(&["a b > a > a b > a"]);
    let mut lists = pollers.subscribe(&Every(15));
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    let begin = Instant::now();
    assert_eq!(next(&mut lists).await, ["a"]);
    let gone = begin.elapsed().as_secs();
    assert!((160..=175).contains(&gone), "{gone}");
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    assert_eq!(next(&mut lists).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_told_and_polls_once_a_day_gives_a_device_up_in_time_too() {
    let pollers = pollers(&["a b > a"]);
    let mut lists = pollers.subscribe(&Every(86_400));
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    let begin = Instant::now();
    assert_eq!(next(&mut lists).await, ["a"]);
    let gone = begin.elapsed().as_secs();
    assert!((160..=220).contains(&gone), "{gone}");
}

#[tokio::test(start_paused = true)]
async fn times_out_of_their_bounds_are_brought_within_them() {
    for (seconds, polls) in [(0, 9..=13), (u64::MAX, 1..=1)] {
        let pollers = pollers(&["a"]);
        let mut lists = pollers.subscribe(&Every(seconds));
        assert_eq!(next(&mut lists).await, ["a"]);
        sleep(Duration::from_secs(1)).await;
        let polled = pollers.handler.polls.borrow().len();
        assert!(polls.contains(&polled), "{polled}");
    }
}

#[test]
fn a_request_is_one_line_in_the_log_whatever_it_was_made_of() {
    assert_eq!(Called(&"a\nERROR b").to_string(), "a\\nERROR b");
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_handler_that_is_told_and_fails_keeps_its_list_and_is_asked_again_soon() {
    let begin = Instant::now();
    let pollers = pollers(&["fails", "fails", "fails", "a b > fails", "c > ends", "c d"]);
    let mut lists = pollers.subscribe(&Every(60));
    assert_eq!(next(&mut lists).await, ["a", "b"]);
    assert_eq!(next(&mut lists).await, ["c"]);
    assert_eq!(next(&mut lists).await, ["c", "d"]);
    let polls = pollers.handler.polls.borrow().clone();
    let gaps: Vec<f64> = polls
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .collect();
    // The failures before its list count no more.
    let expected = [1.0, 2.0, 4.0, 101.0, 100.0];
    for (gap, expected) in gaps.iter().zip(expected) {
        assert!((gap - expected).abs() <= 0.5, "{gaps:?}");
    }
    assert!(begin.elapsed() > Duration::from_secs(200));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_says_nothing_at_all_fails() {
    let pollers = pollers(&["same", "same", "a"]);
    let mut lists = pollers.subscribe(&Every(10));
    assert_eq!(next(&mut lists).await, ["a"]);
    assert_eq!(pollers.handler.polls.borrow().len(), 3);
}
