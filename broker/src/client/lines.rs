//! Answers of a gRPC broker as lines for a person.

use std::time::SystemTime;

use akri_daemon::one_line;
use akri_proto::http::{Device, ReadSensorResponse};
use prost_types::Timestamp;

/// The year 10000, in seconds since 1970. RFC 3339 has only four digits for a year.
const FIVE_DIGIT_YEARS: i64 = 253_402_300_800;

/// The time of a reading, its device if the broker names it, and its value.
pub(super) fn reading(reading: &ReadSensorResponse) -> String {
    let value = match one_line(&reading.value) {
        value if value.is_empty() => "(empty)".to_owned(),
        value => value,
    };
    // A broker with Akri's own interface sends neither time nor endpoint.
    match one_line(&reading.endpoint) {
        device if device.is_empty() => format!("{} {value}", time(&reading.read_at)),
        device => format!("{} {device} {value}", time(&reading.read_at)),
    }
}

/// RFC 3339 with milliseconds; the current time if there is none, or none that can be written like this.
fn time(timestamp: &Option<Timestamp>) -> String {
    let time = timestamp
        .filter(|timestamp| (0..FIVE_DIGIT_YEARS).contains(&timestamp.seconds))
        .and_then(|timestamp| SystemTime::try_from(timestamp).ok())
        .unwrap_or_else(SystemTime::now);
    humantime::format_rfc3339_millis(time).to_string()
}

/// A device and its state.
pub(super) fn device(device: &Device) -> String {
    let state = match (&device.failure, &device.read_at) {
        (Some(failure), _) => format!(
            "failing since {}: {}",
            time(&failure.since),
            one_line(&failure.message)
        ),
        (None, Some(_)) => format!("read at {}", time(&device.read_at)),
        (None, None) => "not read yet".to_owned(),
    };
    format!("{} {state}", one_line(&device.endpoint))
}

#[cfg(test)]
mod tests {
    use akri_proto::http::Failure;

    use super::*;

    #[test]
    fn a_reading_is_one_line() {
        let reading = ReadSensorResponse {
            value: " 0.5\n".to_owned(),
            read_at: Some(Timestamp {
                seconds: 0,
                nanos: 1_000_000,
            }),
            endpoint: "device:80".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            super::reading(&reading),
            "1970-01-01T00:00:00.001Z device:80 0.5"
        );
        let empty = ReadSensorResponse::default();
        assert!(
            super::reading(&empty).ends_with("Z (empty)"),
            "{}",
            super::reading(&empty)
        );
        // A time that cannot be written is not an error.
        for seconds in [i64::MIN, -1, FIVE_DIGIT_YEARS, i64::MAX] {
            let odd = ReadSensorResponse {
                read_at: Some(Timestamp { seconds, nanos: -1 }),
                ..Default::default()
            };
            assert!(super::reading(&odd).ends_with("(empty)"));
        }
    }

    #[test]
    fn a_device_is_one_line() {
        let read_at = Some(Timestamp::default());
        let failure = Some(Failure {
            code: 14,
            message: "answered 500\n".to_owned(),
            since: read_at,
        });
        for (read_at, failure, line) in [
            (None, None, "a:1 not read yet"),
            (read_at, None, "a:1 read at 1970-01-01T00:00:00.000Z"),
            (
                read_at,
                failure,
                "a:1 failing since 1970-01-01T00:00:00.000Z: answered 500",
            ),
        ] {
            let endpoint = "a:1".to_owned();
            let shown = Device {
                endpoint,
                read_at,
                failure,
            };
            assert_eq!(device(&shown), line);
        }
    }
}
