//! The answers of unary gRPC calls in what a service sent: the n-th one to a port, and where in the record it began to be
//! sent whole, which is the first moment at which its caller can know of it. Knows as much of HTTP/2 as that takes.

use std::collections::BTreeMap;

use crate::trace::{Call, Event, Place};

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
/// Of a message within a stream: a flag and four bytes of length.
const MESSAGE_HEAD: usize = 5;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) at: Place,
    /// A message of the contract, encoded.
    pub(crate) message: Vec<u8>,
}

/// By the client's port.
pub(crate) fn sent(events: &[Event]) -> BTreeMap<u16, Vec<Sent>> {
    let mut connections: BTreeMap<u16, Connection> = BTreeMap::new();
    for event in events {
        if let Call::Send { port, bytes } = &event.call {
            connections.entry(*port).or_default().add(event.began, bytes);
        }
    }
    let answers = connections.into_iter();
    answers.map(|(port, connection)| (port, connection.answers)).collect()
}

#[derive(Default)]
struct Connection {
    /// The begin of a frame.
    rest: Vec<u8>,
    streams: BTreeMap<u32, Vec<u8>>,
    answers: Vec<Sent>,
}

impl Connection {
    fn add(&mut self, at: Place, bytes: &[u8]) {
        self.rest.extend(bytes);
        while let Some([high, middle, low, kind, _flags, stream @ ..]) = self.rest.first_chunk::<FRAME_HEAD>() {
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            let (kind, stream) = (*kind, u32::from_be_bytes(*stream));
            let end = FRAME_HEAD + length;
            if self.rest.len() < end {
                return;
            }
            let frame: Vec<u8> = self.rest.drain(..end).collect();
            if kind != DATA {
                continue;
            }
            let data = self.streams.entry(stream).or_default();
            data.extend(&frame[FRAME_HEAD..]);
            if let Some([_, length @ ..]) = data.first_chunk::<MESSAGE_HEAD>()
                && data.len() - MESSAGE_HEAD >= u32::from_be_bytes(*length) as usize
            {
                let message = data.split_off(MESSAGE_HEAD);
                self.answers.push(Sent { at, message });
                self.streams.remove(&stream);
            }
        }
    }
}
