//! What the Agent would make of some devices, for anyone who wants to see that without one. No I/O, no timers.

use akri_proto::v0::DiscoverResponse;
use prost::Message;

use crate::{
    Device, Devices,
    collisions::{Collision, collisions},
    list::{DeviceList, MAX_MESSAGE},
};

/// What is sent of [`Devices`], and what becomes of it.
#[non_exhaustive]
pub struct Preview {
    /// In the order in which they are sent, each with the hash in its Instance's name where it is shared (rule 12).
    pub devices: Vec<(Device, String)>,
    /// The size of the message.
    pub message_bytes: usize,
    /// Pairs of shared devices of which Akri shows only one: their hash and their ids.
    pub collisions: Vec<(String, [String; 2])>,
}

impl Preview {
    /// The most that a message may have, in bytes (rule 11).
    pub const MAX_MESSAGE_BYTES: usize = MAX_MESSAGE;

    /// Previews these devices.
    ///
    /// # Errors
    /// They do not fit into one message.
    pub fn of(devices: &Devices) -> anyhow::Result<Self> {
        let list = DeviceList::default().next(devices)?;
        let pieces = (0..).map_while(|piece| list.encoded(piece));
        let mut sent = Vec::new();
        for piece in pieces {
            sent.extend(DiscoverResponse::decode(piece)?.devices);
        }
        let hashes = list.hashes().map(|hash| format!("{hash:06x}"));
        let pair = |Collision { hash, devices }| (hash, devices);
        Ok(Self {
            devices: sent.into_iter().zip(hashes).collect(),
            message_bytes: list.encoded_len(),
            collisions: collisions(&list).into_iter().map(pair).collect(),
        })
    }
}
