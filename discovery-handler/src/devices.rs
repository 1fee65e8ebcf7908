//! The list of devices, and its way into a `DiscoverResponse`. No I/O, no timers.

use std::fmt;

use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

/// Says what kind of device it is; the walkthrough's brokers look for it.
pub const PROTOCOL_PROPERTY: (&str, &str) = ("AKRI_HTTP", "http");

/// Where a broker finds its device.
pub const ENDPOINT_PROPERTY: &str = "AKRI_HTTP_DEVICE_ENDPOINT";

/// A set of endpoints, in one order on every node (rule 10), whatever order they were reported in.
///
/// It is held as text and written to the wire from there: 40,000 devices as generated `Device`s would take over 20 MB,
/// which the 24 Mi that Akri's chart grants (rule 17) does not have.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct DeviceList {
    /// Sorted, each endpoint followed by a line feed.
    pub(crate) text: String,
    pub(crate) len: usize,
    pub(crate) encoded_len: usize,
}

impl DeviceList {
    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no device; that is a list like any other.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The endpoints in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// The size of this list as a `DiscoverResponse`, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// Writes a part of the list as a `DiscoverResponse`: from where the last part ended, 0 at first, and at least `bytes`
    /// or to the end. Says where this part ended, if that was not the end.
    pub fn encode_part(
        &self,
        from: usize,
        bytes: usize,
        buffer: &mut impl BufMut,
    ) -> Option<usize> {
        let (mut end, mut written) = (from, 0);
        for endpoint in self.text.get(from..)?.split_terminator('\n') {
            if written >= bytes {
                return Some(end);
            }
            encode_device(endpoint, buffer);
            written += encoded_device_len(endpoint);
            end += endpoint.len() + 1;
        }
        None
    }

    /// The endpoints that are only in `other`, in their order.
    pub fn missing_from<'a>(&'a self, other: &'a DeviceList) -> impl Iterator<Item = &'a str> {
        let mut mine = self.iter().peekable();
        other.iter().filter(move |theirs| {
            while mine.next_if(|endpoint| endpoint < theirs).is_some() {}
            mine.peek() != Some(theirs)
        })
    }
}

impl fmt::Debug for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceList({} devices)", self.len)
    }
}

// The wire form of one `Device`, as discovery.proto has it: id = 1, properties = 2 with key = 1 and value = 2.

fn string_len(value: &str) -> usize {
    1 + encoded_len_varint(value.len() as u64) + value.len()
}

fn property_len(key: &str, value: &str) -> usize {
    string_len(key) + string_len(value)
}

fn nested_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// What one device adds to a `DiscoverResponse`, in bytes.
pub(crate) fn encoded_device_len(endpoint: &str) -> usize {
    nested_len(device_len(endpoint))
}

fn device_len(endpoint: &str) -> usize {
    string_len(endpoint)
        + nested_len(property_len(PROTOCOL_PROPERTY.0, PROTOCOL_PROPERTY.1))
        + nested_len(property_len(ENDPOINT_PROPERTY, endpoint))
}

const FIRST_FIELD: u8 = 1 << 3 | 2;
const SECOND_FIELD: u8 = 2 << 3 | 2;

fn encode_string(field: u8, value: &str, buffer: &mut impl BufMut) {
    buffer.put_u8(field);
    encode_varint(value.len() as u64, buffer);
    buffer.put_slice(value.as_bytes());
}

fn encode_property(key: &str, value: &str, buffer: &mut impl BufMut) {
    buffer.put_u8(SECOND_FIELD);
    encode_varint(property_len(key, value) as u64, buffer);
    encode_string(FIRST_FIELD, key, buffer);
    encode_string(SECOND_FIELD, value, buffer);
}

fn encode_device(endpoint: &str, buffer: &mut impl BufMut) {
    buffer.put_u8(FIRST_FIELD);
    encode_varint(device_len(endpoint) as u64, buffer);
    encode_string(FIRST_FIELD, endpoint, buffer);
    encode_property(PROTOCOL_PROPERTY.0, PROTOCOL_PROPERTY.1, buffer);
    encode_property(ENDPOINT_PROPERTY, endpoint, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use akri_http_proto::v0::DiscoverResponse;
    use prost::Message;

    fn read(body: impl AsRef<[u8]>) -> DeviceList {
        let mut reader = crate::lines::ListReader::new(1 << 22);
        reader.push(body.as_ref()).unwrap();
        reader.finish().unwrap()
    }

    #[test]
    fn the_message_is_what_prost_makes_of_the_same_devices() {
        let long = format!("http://host/{}", "x".repeat(300));
        let list = read(format!("http://b:80\nhttp://a:80\ndevice:8000\n{long}"));
        let mut bytes = Vec::new();
        let mut from = Some(0);
        while let Some(part) = from {
            from = list.encode_part(part, 200, &mut bytes);
        }
        assert_eq!(bytes.len(), list.encoded_len());

        let response = DiscoverResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(response.encoded_len(), list.encoded_len());
        assert_eq!(response.devices.len(), list.len());
        for (device, endpoint) in response.devices.iter().zip(list.iter()) {
            assert_eq!(device.id, endpoint);
            let mut properties: Vec<_> = device.properties.iter().collect();
            properties.sort();
            assert_eq!(
                properties,
                [
                    (&"AKRI_HTTP".to_string(), &"http".to_string()),
                    (
                        &"AKRI_HTTP_DEVICE_ENDPOINT".to_string(),
                        &endpoint.to_string()
                    ),
                ]
            );
            assert!(device.mounts.is_empty() && device.device_specs.is_empty());
        }
    }

    #[test]
    fn the_difference_of_two_lists_names_what_came() {
        let (one, two) = (read("a:1\nb:1\nd:1"), read("b:1\nc:1\nd:1\ne:1"));
        assert_eq!(one.missing_from(&two).collect::<Vec<_>>(), ["c:1", "e:1"]);
        assert_eq!(two.missing_from(&one).collect::<Vec<_>>(), ["a:1"]);
    }
}
