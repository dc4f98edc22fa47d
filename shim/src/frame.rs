//! ttrpc's frames: a header of ten bytes (length, stream, type, flags), then a message (github.com/containerd/ttrpc,
//! PROTOCOL.md).

use crate::messages::{Response, Status};
use crate::wire::Message;

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
    /// Bytes of a message too long that are still to come.
    skip: usize,
}

impl Decoder {
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        self.buffer.extend_from_slice(bytes);
    }

    pub(crate) fn next(&mut self) -> Option<Frame> {
        let [a, b, c, d, e, f, g, h, kind, _flags] = *self.buffer.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let stream = u32::from_be_bytes([e, f, g, h]);
        if length > MAX_MESSAGE {
            let there = (self.buffer.len() - HEADER).min(length);
            self.skip = length - there;
            self.forget(HEADER + there);
            return Some(Frame { stream, kind, message: None });
        }
        let message = self.buffer.get(HEADER..HEADER + length)?.to_vec();
        self.forget(HEADER + length);
        Some(Frame { stream, kind, message: Some(message) })
    }

    fn forget(&mut self, n: usize) {
        self.buffer.drain(..n);
        // one long request must not stay in memory for the life of the pod
        if self.buffer.is_empty() && self.buffer.capacity() > 4096 {
            self.buffer = Vec::new();
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
    use crate::messages::*;
    use proptest::prelude::*;

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

    fn all(bytes: &[u8]) {
        let _ = Request::decode(bytes);
        let _ = Response::decode(bytes);
        let _ = CreateRequest::decode(bytes);
        let _ = ExecRequest::decode(bytes);
        let _ = UpdateRequest::decode(bytes);
        let _ = KillRequest::decode(bytes);
        let _ = ResizePtyRequest::decode(bytes);
        let _ = CloseIoRequest::decode(bytes);
        let _ = ProcessRequest::decode(bytes);
        let _ = BootstrapParams::decode(bytes);
        let _ = Options::decode(bytes);
        let _ = Answer::decode(bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            all(&bytes);
        }

        #[test]
        fn a_message_changed_in_one_place_is_a_message_or_an_error(
            texts in proptest::collection::vec(".{0,20}", 8), place in any::<proptest::sample::Index>(), byte in any::<u8>(),
        ) {
            let [a, b, c, d, e, f, g, h] = <[String; 8]>::try_from(texts).unwrap();
            let request = CreateRequest {
                id: a, bundle: b, rootfs: vec![Mount { kind: c, source: d, target: e, options: vec![f, g] }],
                stdout: h, options: Some(Any { type_url: "x".into(), value: vec![0; 20] }), ..CreateRequest::default()
            };
            let mut bytes = request.encode();
            prop_assert_eq!(CreateRequest::decode(&bytes).unwrap(), request);
            let place = place.index(bytes.len());
            bytes[place] = byte;
            all(&bytes);
        }

        #[test]
        fn frames_do_not_depend_on_how_bytes_arrive(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..20) {
            // short lengths, so that there are frames
            let mut bytes = bytes;
            for chunk in bytes.chunks_mut(30) {
                chunk.iter_mut().take(3).for_each(|b| *b = 0);
            }
            let mut whole = Decoder::default();
            whole.push(&bytes);
            let mut pieces = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                pieces.push(piece);
                seen.extend(std::iter::from_fn(|| pieces.next()));
            }
            prop_assert_eq!(std::iter::from_fn(|| whole.next()).collect::<Vec<_>>(), seen);
        }
    }
}
