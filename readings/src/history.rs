//! The last ten minutes of one device.

use std::collections::VecDeque;

/// How far back it goes, in milliseconds.
pub(crate) const LASTS: u64 = 10 * 60 * 1000;

/// Numbers within one of these spans, in milliseconds, are one point: the last of them.
pub(crate) const STEP: u64 = 1000;

/// So many points at most: with one a second, all ten minutes.
const POINTS: usize = 600;

/// Numbers and gaps, oldest first. There are many, so each is as small as it can be.
#[derive(Debug, Default)]
pub(crate) struct History {
    points: VecDeque<Point>,
    /// When the last of them was.
    newest: u64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    /// The lower half of the time. All points are so close to the newest that it says the rest.
    at: u32,
    /// An `f64`, but not aligned as one. NaN for a gap: the device failed, or gave a text.
    number: [u8; 8],
}

impl History {
    /// Adds what a device gave at a time, or a gap. A gap after a gap, or at the beginning, adds nothing.
    pub(crate) fn push(&mut self, at: u64, number: Option<f64>) {
        let number = number.filter(|number| number.is_finite());
        let last = self.points.back().map(|last| self.read(*last));
        match (last, number) {
            (None | Some((_, None)), None) => return,
            (Some((before, Some(_))), Some(_)) if before / STEP == at / STEP => {
                self.points.pop_back();
            }
            _ => {}
        }
        while self.points.len() >= POINTS
            || (self.points.front()).is_some_and(|first| self.read(*first).0 + LASTS < at)
        {
            self.points.pop_front();
        }
        let points = self.points.len();
        if points == self.points.capacity() {
            // By itself it would take twice as much.
            let more = (points / 4).max(8).min(POINTS - points);
            self.points.reserve_exact(more);
        }
        let number = number.unwrap_or(f64::NAN).to_ne_bytes();
        self.points.push_back(Point {
            at: at as u32,
            number,
        });
        self.newest = at;
    }

    fn read(&self, point: Point) -> (u64, Option<f64>) {
        let before = (self.newest as u32).wrapping_sub(point.at);
        let number = f64::from_ne_bytes(point.number);
        (
            self.newest.saturating_sub(before.into()),
            Some(number).filter(|it| !it.is_nan()),
        )
    }

    /// The points after `since` up to `upto`, but none that is too old by then. A gap is `None`.
    pub(crate) fn between(
        &self,
        since: u64,
        upto: u64,
    ) -> impl Iterator<Item = (u64, Option<f64>)> + Clone {
        let since = since.max(upto.saturating_sub(LASTS));
        // Most often only the last few are asked for.
        let from = self
            .points
            .partition_point(|point| self.read(*point).0 <= since);
        let points = self.points.iter().skip(from).map(|point| self.read(*point));
        points.take_while(move |point| point.0 <= upto)
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
        assert_eq!(history.points.len(), 1);
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
    fn times_stay_right_for_ever_and_numbers_exact() {
        let mut history = History::default();
        let numbers = [f64::MAX, -0.1, f64::MIN_POSITIVE];
        // Half of a time is full every 49 days, here between the first two points.
        let times = [
            (1 << 40) - 1,
            (1 << 40) + STEP,
            (1 << 40) + LASTS - 2 * STEP,
        ];
        for (at, number) in times.into_iter().zip(numbers) {
            history.push(at, Some(number));
        }
        let expected = times.into_iter().zip(numbers.map(Some));
        assert_eq!(all(&history, times[2]), expected.collect::<Vec<_>>());
        history.push(1 << 41, Some(2.0));
        assert_eq!(all(&history, 1 << 41), [(1 << 41, Some(2.0))]);
    }

    #[test]
    fn a_full_history_of_a_thousand_devices_is_7_mib() {
        let mut history = History::default();
        for second in 0..2_000_u32 {
            history.push(u64::from(second) * STEP, Some(second.into()));
            assert!(history.points.capacity() <= POINTS);
        }
        assert_eq!(size_of::<Point>() * POINTS, 7_200);
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
