//! The list that the streams send: encoded once, in pieces that a list shares with the one before it, so that many streams
//! and many changes take little more memory than one list (rule 17: 24 MiB). No I/O, no timers.

use std::{fmt, iter::Peekable, mem::take, sync::Arc};

use akri_proto::v0::DiscoverResponse;
use anyhow::ensure;
use blake2::{Blake2b, Digest, digest::consts::U3};
use bytes::Bytes;
use prost::{Message, length_delimiter_len};

use crate::{
    Collected, Device,
    devices::{Devices, slices},
};

/// The most that the Agent accepts in one message, in bytes (rule 11).
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A piece ends behind a device whose hash is a multiple of this, so that it has about as many devices, and that a device
/// that comes or goes changes one piece or two and not all that follow.
const ABOUT: u32 = 128;

/// A piece ends behind this many devices in any case.
const MOST: usize = 512;

/// Devices in the order of their ids, the same on every node (rule 10).
#[derive(Clone, Default)]
pub struct DeviceList {
    pieces: Vec<Arc<Piece>>,
    len: usize,
    encoded_len: usize,
    /// Whether it comes from a file, and so perhaps from a handler that makes other devices of the same ids.
    is_old: bool,
}

/// Some neighbours. A message that is the pieces of a list one after the other is the list's, as protobuf has it.
struct Piece {
    /// As a `DiscoverResponse`.
    encoded: Bytes,
    /// Where the ids stand in it, the first byte and how many there are, and where their devices end.
    ids: Vec<(u32, u32, u32)>,
    /// The Instance hash of each one (rule 12).
    hashes: Vec<u32>,
}

/// The list does not fit into one message (rule 11).
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge {
    devices: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = self.devices;
        write!(
            f,
            "the list of {devices} devices is too large: it takes a message of more than {MAX_MESSAGE} bytes, \
             which is what the Agent accepts; split it up among several Configurations"
        )
    }
}

impl std::error::Error for TooLarge {}

impl DeviceList {
    /// The list after this one. What has not changed is neither made, hashed nor encoded again.
    pub fn next(&self, found: &Devices) -> Result<Self, TooLarge> {
        let mut hashes = KnownHashes::new(self);
        let mut draft = Draft::default();
        let mut next = Self::default();
        for (place, id) in found.ids().enumerate() {
            let hash = hashes.of(id);
            draft.push(id, hash);
            let is_last = place + 1 == found.len();
            if is_last || ends_a_piece(hash, draft.ends.len()) {
                let piece = self.piece(take(&mut draft), next.len, found);
                next.push(piece).map_err(|_| TooLarge {
                    devices: found.len(),
                })?;
            }
        }
        Ok(next)
    }

    /// The list whose pieces were encoded like this, if they can be.
    pub(crate) fn from_encoded<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> anyhow::Result<Self> {
        let mut list = Self {
            is_old: true,
            ..Self::default()
        };
        let (mut devices, mut hashes) = (Vec::new(), Vec::new());
        let mut last: Option<String> = None;
        for encoded in pieces {
            for device in DiscoverResponse::decode(encoded)?.devices {
                let is_next = last.is_none_or(|last| last < device.id);
                ensure!(is_next, "its devices are not in their order");
                last = Some(device.id.clone());
                let hash = instance_hash(&device.id);
                hashes.push(hash);
                devices.push(device);
                if ends_a_piece(hash, hashes.len()) {
                    let (devices, hashes) = (take(&mut devices), take(&mut hashes));
                    list.push(Arc::new(Piece::new(devices, hashes)))?;
                }
            }
        }
        if !devices.is_empty() {
            list.push(Arc::new(Piece::new(devices, hashes)))?;
        }
        Ok(list)
    }

    fn push(&mut self, piece: Arc<Piece>) -> Result<(), TooLarge> {
        self.len += piece.ids.len();
        self.encoded_len += piece.encoded.len();
        self.pieces.push(piece);
        match self.encoded_len {
            0..=MAX_MESSAGE => Ok(()),
            _ => Err(TooLarge { devices: self.len }),
        }
    }

    /// The piece for these devices, the first of which is at `place`; one of this list where that is the same.
    fn piece(&self, draft: Draft, place: usize, found: &Devices) -> Arc<Piece> {
        let known = self.piece_from(draft.ids().next());
        let known = known.filter(|piece| piece.ids().eq(draft.ids()));
        if let Some(piece) = known
            && found.are_told_by_ids()
            && !self.is_old
        {
            return piece.clone();
        }
        let devices = draft.ids().zip(place..);
        let devices = devices.map(|(id, place)| found.device(place, id)).collect();
        let piece = Piece::new(devices, draft.hashes);
        match known {
            Some(known) if known.encoded == piece.encoded => known.clone(),
            _ => Arc::new(piece),
        }
    }

    /// The piece that begins with this id.
    fn piece_from(&self, id: Option<&str>) -> Option<&Arc<Piece>> {
        let search = |piece: &Arc<Piece>| piece.ids().next().cmp(&id);
        let at = self.pieces.binary_search_by(search).ok()?;
        self.pieces.get(at)
    }

    /// How many devices there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The ids in their order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().flat_map(|piece| piece.ids())
    }

    /// The Instance hashes in the order of the ids.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = u32> {
        self.pieces
            .iter()
            .flat_map(|piece| piece.hashes.iter().copied())
    }

    /// The ids that are only in `other`, in their order.
    pub(crate) fn missing_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let mut mine = self.ids().peekable();
        other.ids().filter(move |theirs| {
            while mine.next_if(|id| id < theirs).is_some() {}
            mine.peek() != Some(theirs)
        })
    }

    /// The ids that are in both lists and whose devices are not the same, in their order. What the lists share is not looked into.
    pub(crate) fn changed_from<'a>(&'a self, known: &'a Self) -> impl Iterator<Item = &'a str> {
        let mut old = known.unlike(self).peekable();
        self.unlike(known).filter_map(move |(id, device)| {
            while old.next_if(|(old, _)| *old < id).is_some() {}
            let (_, old) = old.next_if(|(old, _)| *old == id)?;
            (old != device).then_some(id)
        })
    }

    /// The devices of the pieces that are not in `other`.
    fn unlike<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let is_unlike = |piece: &&Arc<Piece>| {
            let known = other.piece_from(piece.ids().next());
            known.is_none_or(|known| !same(known, piece))
        };
        (self.pieces.iter().filter(is_unlike)).flat_map(|piece| piece.ids().zip(piece.devices()))
    }

    /// The devices of this list that have these ids, which are in their order.
    pub(crate) fn devices(&self, ids: &[&str]) -> Vec<Device> {
        let is_wanted = |id: &str| ids.binary_search(&id).is_ok();
        (self.pieces.iter())
            .filter(|piece| piece.ids().any(is_wanted))
            .filter_map(|piece| DiscoverResponse::decode(piece.encoded.clone()).ok())
            .flat_map(|piece| piece.devices)
            .filter(|device| is_wanted(&device.id))
            .collect()
    }

    /// All devices but these, whose ids are in their order.
    pub(crate) fn without(&self, gone: &[String]) -> Devices {
        let mut left = Collected::default();
        for piece in &self.pieces {
            let devices = DiscoverResponse::decode(piece.encoded.clone()).unwrap_or_default();
            for device in devices.devices {
                if gone.binary_search(&device.id).is_err() {
                    left.add(&device);
                }
            }
        }
        Devices::from(left)
    }

    /// The size of this list as a `DiscoverResponse`, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// A part of this list as a `DiscoverResponse`; `None` behind the last one.
    pub fn encoded(&self, part: usize) -> Option<Bytes> {
        self.pieces.get(part).map(|piece| piece.encoded.clone())
    }
}

impl PartialEq for DeviceList {
    /// Where a piece ends depends on the devices alone, so equal lists have equal pieces.
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.pieces.iter().zip(&other.pieces);
        self.len == other.len
            && self.pieces.len() == other.pieces.len()
            && pairs.all(|(one, other)| same(one, other))
    }
}

impl fmt::Debug for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceList({} devices)", self.len)
    }
}

fn same(one: &Arc<Piece>, other: &Arc<Piece>) -> bool {
    Arc::ptr_eq(one, other) || one.encoded == other.encoded
}

impl Piece {
    fn new(devices: Vec<Device>, hashes: Vec<u32>) -> Self {
        let mut ids = Vec::with_capacity(devices.len());
        let mut at = 0;
        for device in &devices {
            // A device is a tag, its length and its fields, of which the id, again a tag and a length, is the first.
            let (len, id) = (device.encoded_len(), device.id.len());
            let begin = at + 1 + length_delimiter_len(len);
            at = begin + len;
            let id_at = begin + 1 + length_delimiter_len(id);
            ids.push((id_at as u32, id as u32, at as u32));
        }
        let encoded = DiscoverResponse { devices }.encode_to_vec().into();
        Self {
            encoded,
            ids,
            hashes,
        }
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(|(at, len, _)| {
            let (at, len) = (*at as usize, *len as usize);
            let id = self.encoded.get(at..at + len).unwrap_or_default();
            std::str::from_utf8(id).unwrap_or_default()
        })
    }

    /// The devices as bytes, from their ids on.
    fn devices(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = |(at, _, end): &(u32, u32, u32)| self.encoded.get(*at as usize..*end as usize);
        (self.ids.iter()).map(move |place| bytes(place).unwrap_or_default())
    }
}

/// Whether a piece ends behind its device of this number and hash.
fn ends_a_piece(hash: u32, number: usize) -> bool {
    hash.is_multiple_of(ABOUT) || number == MOST
}

#[derive(Default)]
struct Draft {
    ids: String,
    ends: Vec<u32>,
    hashes: Vec<u32>,
}

impl Draft {
    fn push(&mut self, id: &str, hash: u32) {
        self.ids.push_str(id);
        self.ends.push(self.ids.len() as u32);
        self.hashes.push(hash);
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        slices(&self.ids, &self.ends)
    }
}

/// The hashes of a list, for ids that are asked for in their order.
struct KnownHashes<I: Iterator>(Peekable<I>);

impl<'a> KnownHashes<Box<dyn Iterator<Item = (&'a str, u32)> + 'a>> {
    fn new(list: &'a DeviceList) -> Self {
        let known: Box<dyn Iterator<Item = _>> = Box::new(list.ids().zip(list.hashes()));
        Self(known.peekable())
    }

    fn of(&mut self, id: &str) -> u32 {
        while self.0.next_if(|(known, _)| *known < id).is_some() {}
        let known = self.0.next_if(|(known, _)| *known == id);
        known.map_or_else(|| instance_hash(id), |(_, hash)| hash)
    }
}

/// The hash in the Instance's name of a shared device: BLAKE2b of its id, 3 bytes (rule 12).
fn instance_hash(id: &str) -> u32 {
    let digest: [u8; 3] = Blake2b::<U3>::digest(id).into();
    let [a, b, c] = digest;
    u32::from_be_bytes([0, a, b, c])
}

#[cfg(test)]
mod tests;
