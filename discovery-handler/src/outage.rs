//! Something that fails again and again, told in few lines: when it starts, when the cause changes, when it is over.

use std::time::Duration;

use log::{info, warn};
use tokio::time::Instant;

/// How many lines may come at once; a further one is earned in [`LINE_PERIOD`].
const LINES: u32 = 10;
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Bounds the log where somebody else decides how often there is something to say.
pub struct LineBudget {
    lines: u32,
    earned_until: Instant,
    left_out: u64,
}

impl Default for LineBudget {
    fn default() -> Self {
        Self {
            lines: LINES,
            earned_until: Instant::now(),
            left_out: 0,
        }
    }
}

impl LineBudget {
    /// Whether a line may be logged now, and what to append to it: how many were left out before.
    pub fn take(&mut self) -> Option<String> {
        let now = Instant::now();
        while self.lines < LINES && self.earned_until + LINE_PERIOD <= now {
            self.lines += 1;
            self.earned_until += LINE_PERIOD;
        }
        if self.lines == LINES {
            self.earned_until = now;
        }
        if self.lines == 0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1;
        match std::mem::take(&mut self.left_out) {
            0 => Some(String::new()),
            n => Some(format!(" ({n} lines like this were left out)")),
        }
    }
}

/// One thing that is tried over and over.
pub struct Outage {
    subject: String,
    failing: Option<(Instant, String)>,
    budget: LineBudget,
}

impl Outage {
    /// For log lines that begin with `subject`.
    pub fn new(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            failing: None,
            budget: LineBudget::default(),
        }
    }

    /// It failed: a line if it did not before, or for another cause. `consequence` is said once, when it starts.
    pub fn failed(&mut self, cause: impl ToString, consequence: &str) {
        let cause = cause.to_string();
        let line = match &self.failing {
            Some((_, known)) if *known == cause => return,
            Some((since, _)) => format!("still failing after {:.1?}: {cause}", since.elapsed()),
            None => format!("{cause}; {consequence}"),
        };
        let since = (self.failing.take()).map_or_else(Instant::now, |(since, _)| since);
        self.failing = Some((since, cause));
        if let Some(left_out) = self.budget.take() {
            warn!("{}: {line}{left_out}", self.subject);
        }
    }

    /// It worked: a line if it had failed. Says whether it had.
    pub fn succeeded(&mut self) -> bool {
        let Some((since, _)) = self.failing.take() else {
            return false;
        };
        if let Some(left_out) = self.budget.take() {
            let lasted = since.elapsed();
            info!("{}: works again after {lasted:.1?}{left_out}", self.subject);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_every_second_is_logged_ten_times_and_then_once_in_ten_seconds() {
        let mut budget = LineBudget::default();
        let mut lines = 0;
        for _ in 0..1_000 {
            lines += u32::from(budget.take().is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!((108..=112).contains(&lines), "{lines}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_start_a_new_cause_and_the_recovery_are_a_line_each() {
        let mut outage = Outage::new("test");
        assert!(!outage.succeeded());
        outage.failed("down", "the list stands");
        outage.failed("down", "the list stands");
        assert_eq!(outage.budget.lines, LINES - 1);
        outage.failed("refused", "the list stands");
        assert_eq!(outage.budget.lines, LINES - 2);
        assert!(outage.succeeded());
        assert!(!outage.succeeded());
        assert_eq!(outage.budget.lines, LINES - 3);
    }
}
