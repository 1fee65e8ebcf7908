//! The last ten minutes of one device.

use std::collections::VecDeque;

/// How far back it goes, in milliseconds.
pub(crate) const LASTS: u64 = 10 * 60 * 1000;

/// Numbers within one of these spans, in milliseconds, are one point: the last of them.
pub(crate) const STEP: u64 = 1000;

/// So many points at most: with one a second, all ten minutes.
const POINTS: usize = 600;

/// Numbers and gaps, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Point>);

#[derive(Clone, Copy, Debug)]
struct Point {
    at: u64,
    /// NaN for a gap: the device failed, or gave a text.
    number: f64,
}

impl History {
    /// Adds what a device gave at a time, or a gap. A gap after a gap, or at the beginning, adds nothing.
    pub(crate) fn push(&mut self, at: u64, number: Option<f64>) {
        let number = number.filter(|number| number.is_finite());
        let number = number.unwrap_or(f64::NAN);
        if number.is_nan() && self.0.back().is_none_or(|last| last.number.is_nan()) {
            return;
        }
        let merges = |last: &Point| last.at / STEP == at / STEP && !last.number.is_nan();
        if !number.is_nan() && self.0.back().is_some_and(merges) {
            self.0.pop_back();
        }
        while self.0.len() >= POINTS || self.0.front().is_some_and(|first| first.at + LASTS < at) {
            self.0.pop_front();
        }
        self.0.push_back(Point { at, number });
    }

    /// The points after `since` up to `upto`, but none that is too old by then. A gap is `None`.
    pub(crate) fn between(
        &self,
        since: u64,
        upto: u64,
    ) -> impl Iterator<Item = (u64, Option<f64>)> + Clone {
        let since = since.max(upto.saturating_sub(LASTS));
        // Most often only the last few are asked for.
        let from = self.0.partition_point(|point| point.at <= since);
        let points = self.0.iter().skip(from);
        points
            .take_while(move |point| point.at <= upto)
            .map(|point| (point.at, Some(point.number).filter(|it| !it.is_nan())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(history: &History, now: u64) -> Vec<(u64, Option<f64>)> {
        history.between(0, now).collect()
    }

    #[test]
    fn a_history_holds_ten_minutes_and_no_more_than_600_points() {
        let mut history = History::default();
        for second in 1..=2_000_u32 {
            history.push(u64::from(second) * STEP, Some(second.into()));
        }
        let points = all(&history, 2_000 * STEP);
        assert_eq!(points.len(), POINTS);
        assert_eq!(points[0], (1_401 * STEP, Some(1_401.0)));
        assert_eq!(points[POINTS - 1], (2_000 * STEP, Some(2_000.0)));

        // A device that gives nothing new has none of them ten minutes later.
        assert_eq!(all(&history, 2_000 * STEP + LASTS), []);
        history.push(2_700 * STEP, Some(1.0));
        assert_eq!(history.0.len(), 1);
    }

    #[test]
    fn many_readings_within_a_second_are_one_point_so_that_ten_minutes_stay() {
        let mut history = History::default();
        for tenth in 0..12_000_u32 {
            history.push(u64::from(tenth) * 100, Some(tenth.into()));
        }
        let points = all(&history, 1_200_000);
        assert_eq!(points.len(), POINTS);
        assert!(points[0].0 <= 1_200_000 - LASTS + STEP);
        assert_eq!(points[POINTS - 1], (1_199_900, Some(11_999.0)));
    }

    #[test]
    fn a_failure_or_a_text_is_a_gap_and_many_of_them_are_one() {
        let mut history = History::default();
        history.push(STEP, None);
        assert_eq!(all(&history, STEP), []);
        history.push(2 * STEP, Some(1.0));
        for second in 3..100 {
            history.push(second * STEP, Some(f64::INFINITY));
        }
        history.push(100 * STEP, Some(2.0));
        let points = all(&history, 100 * STEP);
        let expected = [(2, Some(1.0)), (3, None), (100, Some(2.0))];
        assert_eq!(points, expected.map(|(at, number)| (at * STEP, number)));
    }

    #[test]
    fn who_has_seen_a_part_gets_the_rest() {
        let mut history = History::default();
        for second in 1..=10 {
            history.push(second * STEP, Some(0.5));
        }
        let times: Vec<_> = history.between(7 * STEP, 9 * STEP).map(|it| it.0).collect();
        assert_eq!(times, [8 * STEP, 9 * STEP]);
        assert_eq!(history.between(10 * STEP, 20 * STEP).count(), 0);
    }
}
