//! ttrpc's frames: a header of ten bytes (length, stream, type, flags), then a message (github.com/containerd/ttrpc,
//! PROTOCOL.md).

use crate::rpc::messages::{Request, Response, Status};
use crate::rpc::wire::Message;

const HEADER: usize = 10;
/// Longer messages are skipped, and their caller is told.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;

/// The codes of gRPC that occur here.
pub(crate) mod code {
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const NOT_FOUND: i32 = 5;
    pub(crate) const ALREADY_EXISTS: i32 = 6;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const FAILED_PRECONDITION: i32 = 9;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
    pub(crate) const INTERNAL: i32 = 13;
}

/// What ends a call that failed.
pub(crate) fn status(code: i32, message: impl Into<String>) -> Status {
    Status { code, message: message.into() }
}

/// The message of a call.
pub(crate) fn decode<M: Message>(request: &Request) -> Result<M, Status> {
    M::decode(&request.payload).map_err(|_| status(code::INVALID_ARGUMENT, format!("the message of {} is malformed", request.method)))
}

/// One frame.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    /// `None`: it was longer than [`MAX_MESSAGE`].
    pub(crate) message: Option<Vec<u8>>,
}

/// Takes bytes as they come and gives frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    /// What of `buffer` has been given. It is dropped once for many frames: what is behind each moves to the front.
    given: usize,
    /// Bytes of a message too long that are still to come.
    skip: usize,
}

impl Decoder {
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        self.buffer.drain(..std::mem::take(&mut self.given));
        self.buffer.extend_from_slice(bytes);
    }

    pub(crate) fn next(&mut self) -> Option<Frame> {
        let rest = self.buffer.get(self.given..)?;
        let [a, b, c, d, e, f, g, h, kind, _flags] = *rest.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let stream = u32::from_be_bytes([e, f, g, h]);
        if length > MAX_MESSAGE {
            let there = (rest.len() - HEADER).min(length);
            self.skip = length - there;
            self.forget(HEADER + there);
            return Some(Frame { stream, kind, message: None });
        }
        let message = rest.get(HEADER..HEADER + length)?.to_vec();
        self.forget(HEADER + length);
        Some(Frame { stream, kind, message: Some(message) })
    }

    fn forget(&mut self, n: usize) {
        self.given += n;
        if self.given == self.buffer.len() {
            self.given = 0;
            self.buffer.clear();
            // one long request must not stay in memory for the life of the pod
            if self.buffer.capacity() > 4096 {
                self.buffer = Vec::new();
            }
        }
    }
}

/// A frame's bytes.
pub(crate) fn encode(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + message.len());
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(message);
    out
}

/// The frame that answers a call.
pub(crate) fn answer(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match result {
        Ok(payload) if payload.len() > MAX_MESSAGE - 64 => {
            let text = format!("answer of {} bytes exceeds maximum message size", payload.len());
            Response { status: Some(status(code::RESOURCE_EXHAUSTED, text)), payload: Vec::new() }
        }
        Ok(payload) => Response { status: Some(Status::default()), payload },
        Err(status) => Response { status: Some(status), payload: Vec::new() },
    };
    encode(stream, RESPONSE, &response.encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::messages::*;

    #[test]
    fn a_request_as_containerd_sends_it() {
        let request = Request { service: "s".into(), method: "m".into(), payload: vec![1, 2], timeout_nano: -1 };
        let bytes = request.encode();
        assert_eq!(bytes, b"\x0a\x01s\x12\x01m\x1a\x02\x01\x02\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        let mut decoder = Decoder::default();
        let frame = encode(3, REQUEST, &bytes);
        for byte in &frame {
            assert_eq!(decoder.next(), None);
            decoder.push(&[*byte]);
        }
        let frame = decoder.next().unwrap();
        assert_eq!((frame.stream, frame.kind), (3, REQUEST));
        assert_eq!(Request::decode(&frame.message.unwrap()).unwrap(), request);
        assert_eq!(decoder.next(), None);
    }

    #[test]
    fn too_long_a_message_is_skipped_and_the_next_one_is_read() {
        let mut decoder = Decoder::default();
        let mut bytes = encode(1, REQUEST, &vec![0; MAX_MESSAGE + 1]);
        bytes.extend(encode(3, REQUEST, b"x"));
        let mut frames = Vec::new();
        for chunk in bytes.chunks(100_000) {
            decoder.push(chunk);
            while let Some(frame) = decoder.next() {
                frames.push(frame);
            }
        }
        assert_eq!(frames[0], Frame { stream: 1, kind: REQUEST, message: None });
        assert_eq!(frames[1], Frame { stream: 3, kind: REQUEST, message: Some(b"x".to_vec()) });
        assert_eq!(frames.len(), 2);
    }
}
