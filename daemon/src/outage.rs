//! Something that fails again and again, told in few lines: when it starts, when the cause changes, when it is over.

use std::time::Duration;

use log::{info, warn};
use tokio::time::Instant;

/// How many lines may come at once by default; a further one is earned in [`LINE_PERIOD`].
const LINES: u32 = 10;
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Bounds the log where somebody else decides how often there is something to say.
#[derive(Debug)]
pub struct LineBudget {
    most: u32,
    lines: u32,
    earned_until: Instant,
    left_out: u64,
}

impl Default for LineBudget {
    /// Ten lines at once, and one more every 10 s.
    fn default() -> Self {
        Self::new(LINES)
    }
}

impl LineBudget {
    /// So many lines may come at once, and one more every 10 s.
    pub fn new(lines: u32) -> Self {
        Self {
            most: lines,
            lines,
            earned_until: Instant::now(),
            left_out: 0,
        }
    }

    /// No line at once, and one every 10 s.
    pub fn spent() -> Self {
        Self {
            lines: 0,
            ..Self::default()
        }
    }

    /// Whether a line may be logged now, and what to append to it: how many were left out before.
    pub fn take(&mut self) -> Option<String> {
        let now = Instant::now();
        while self.lines < self.most && self.earned_until + LINE_PERIOD <= now {
            self.lines += 1;
            self.earned_until += LINE_PERIOD;
        }
        if self.lines == self.most {
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
#[derive(Debug)]
pub struct Outage {
    target: &'static str,
    subject: String,
    failing: Option<(Instant, String)>,
    /// What the last line said: this cause, or that it works.
    told: Option<String>,
    budget: LineBudget,
}

impl Outage {
    /// For log lines that begin with `subject`, as if they came from the module `target` (`module_path!()`).
    pub fn new(target: &'static str, subject: impl Into<String>) -> Self {
        Self::with_budget(target, subject, LineBudget::default())
    }

    /// As [`Outage::new`], with these lines and no more.
    pub fn with_budget(
        target: &'static str,
        subject: impl Into<String>,
        budget: LineBudget,
    ) -> Self {
        Self {
            target,
            subject: subject.into(),
            failing: None,
            told: None,
            budget,
        }
    }

    /// It failed: a line if it did not before, or for another cause. `consequence` is said once, when it starts.
    pub fn failed(&mut self, cause: impl ToString, consequence: &str) {
        let cause = cause.to_string();
        let since = (self.failing.take()).map_or_else(Instant::now, |(since, _)| since);
        // Not told yet: either it is new, or there was no line left for it.
        if self.told.as_ref() != Some(&cause)
            && let Some(left_out) = self.budget.take()
        {
            match self.told.replace(cause.clone()) {
                None => {
                    warn!(target: self.target, "{}: {cause}; {consequence}{left_out}", self.subject)
                }
                Some(_) => {
                    let lasted = since.elapsed();
                    warn!(
                        target: self.target,
                        "{}: still failing after {lasted:.1?}: {cause}{left_out}",
                        self.subject
                    );
                }
            }
        }
        self.failing = Some((since, cause));
    }

    /// It worked: a line if the last one said that it does not.
    pub fn succeeded(&mut self) {
        let failed = self.failing.take();
        if self.told.is_some()
            && let Some(left_out) = self.budget.take()
        {
            self.told = None;
            let lasted = failed.map(|(since, _)| format!(" after {:.1?}", since.elapsed()));
            let lasted = lasted.unwrap_or_default();
            info!(target: self.target, "{}: works again{lasted}{left_out}", self.subject);
        }
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
        let mut outage = Outage::new(module_path!(), "test");
        outage.succeeded();
        assert_eq!(outage.budget.lines, LINES);
        outage.failed("down", "the list stands");
        outage.failed("down", "the list stands");
        assert_eq!(outage.budget.lines, LINES - 1);
        outage.failed("refused", "the list stands");
        assert_eq!(outage.budget.lines, LINES - 2);
        outage.succeeded();
        outage.succeeded();
        assert_eq!(outage.budget.lines, LINES - 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_there_was_no_line_for_is_told_when_there_is_one() {
        let mut outage = Outage::new(module_path!(), "test");
        for _ in 0..LINES {
            outage.failed("down", "the list stands");
            outage.succeeded();
        }
        assert_eq!(outage.told, None);
        outage.failed("down", "the list stands");
        assert_eq!(outage.told, None, "no line was left");
        tokio::time::advance(LINE_PERIOD).await;
        outage.failed("down", "the list stands");
        assert_eq!(outage.told.as_deref(), Some("down"));
        outage.succeeded();
        assert_eq!(outage.told.as_deref(), Some("down"), "no line was left");
        tokio::time::advance(LINE_PERIOD).await;
        outage.succeeded();
        assert_eq!(outage.told, None);
    }
}
