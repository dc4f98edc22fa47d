//! Messages of D-Bus: calls are written, answers and signals are read (D-Bus specification, "Message Protocol"). No function
//! has side effects.

use super::value::{Reader, Value, align, garbage};
use crate::error::Result;

/// The size of the fixed header, in bytes. It contains the size of the rest.
pub(super) const START: usize = 16;
/// The largest accepted body, in bytes. Signals that are not used are read, too.
const MAX: usize = 1 << 20;
/// The largest header and the largest decoded arguments, in bytes. An answer of systemd has a few hundred bytes.
const MAX_READ: usize = 64 << 10;

const CALL: u8 = 1;
pub(super) const ANSWER: u8 = 2;
pub(super) const REFUSAL: u8 = 3;
pub(super) const SIGNAL: u8 = 4;
const VERSION: u8 = 1;

/// The bus must not start the called service: it cannot start a systemd that is being restarted.
const NO_AUTO_START: u8 = 2;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR: u8 = 4;
const REPLY_TO: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method and the object that it is called on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

impl Method<'_> {
    /// The bytes of a call. The answer will name `serial`; without `answered` there is none.
    pub(super) fn call(&self, serial: u32, answered: bool, arguments: &[Value]) -> Vec<u8> {
        let mut body = Vec::new();
        arguments.iter().for_each(|v| v.write(&mut body));
        let signature: String = arguments.iter().map(Value::signature).collect();
        let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(PATH, Value::Path(self.path.into())),
            field(INTERFACE, Value::text(self.interface)),
            field(MEMBER, Value::text(self.member)),
            field(DESTINATION, Value::text(self.destination)),
        ];
        if !signature.is_empty() {
            fields.push(field(SIGNATURE, Value::Signature(signature)));
        }
        let mut out = vec![b'l', CALL, NO_AUTO_START | u8::from(!answered), VERSION];
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(serial.to_le_bytes());
        Value::array("(yv)", fields).write(&mut out);
        align(&mut out, 8);
        out.extend(body);
        out
    }
}

/// A received message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The message type: 1 call, 2 answer, 3 error, 4 signal.
    pub kind: u8,
    /// The serial of the call that this message answers, or 0.
    pub reply_to: u32,
    /// The interface of a signal.
    pub interface: String,
    /// The name of a signal.
    pub member: String,
    /// The name of an error.
    pub error: String,
    signature: String,
    body: Vec<u8>,
    big_endian: bool,
}

impl Message {
    /// The size of the message that begins with `start`, in bytes.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal): not a message of protocol version 1, or too large.
    pub fn length(start: &[u8; START]) -> Result<usize> {
        let big_endian = big_endian(start[0])?;
        let mut reader = Reader::new(start, big_endian);
        let [_, _, _, version] = [reader.byte()?, reader.byte()?, reader.byte()?, reader.byte()?];
        let (body, _, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
        if version != VERSION || body > MAX || fields > MAX_READ {
            return Err(garbage());
        }
        Ok((START + fields).next_multiple_of(8) + body)
    }

    /// Parses one complete message.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal): malformed.
    pub fn parse(bytes: &[u8]) -> Result<Message> {
        let big_endian = big_endian(bytes.first().copied().unwrap_or_default())?;
        let mut reader = Reader::new(bytes, big_endian);
        let [_, kind, _, _] = [reader.byte()?, reader.byte()?, reader.byte()?, reader.byte()?];
        let (body, _) = (reader.u32()? as usize, reader.u32()?);
        let mut message = Message { kind, big_endian, ..Message::default() };
        let Some(Value::Array(_, fields)) = reader.values("a(yv)")?.pop() else { return Err(garbage()) };
        for field in fields {
            let Value::Struct(field) = field else { return Err(garbage()) };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { return Err(garbage()) };
            match (*code, value.as_ref()) {
                (INTERFACE, Value::Text(text)) => message.interface = text.clone(),
                (MEMBER, Value::Text(text)) => message.member = text.clone(),
                (ERROR, Value::Text(text)) => message.error = text.clone(),
                (REPLY_TO, Value::U32(serial)) => message.reply_to = *serial,
                (SIGNATURE, Value::Signature(text)) => message.signature = text.clone(),
                (INTERFACE..=REPLY_TO | SIGNATURE, _) => return Err(garbage()),
                _ => {}
            }
        }
        reader.align(8)?;
        let rest = bytes.get(reader.at()..).unwrap_or_default();
        if rest.len() != body {
            return Err(garbage());
        }
        message.body = rest.to_vec();
        Ok(message)
    }

    /// The decoded arguments.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal): malformed, larger than 64 KiB, or of a type that [`Value`] lacks.
    pub fn arguments(&self) -> Result<Vec<Value>> {
        if self.body.len() > MAX_READ {
            return Err(garbage());
        }
        Reader::new(&self.body, self.big_endian).values(&self.signature)
    }

    /// The first argument, which must be a string or an object path.
    ///
    /// # Errors
    /// As [`Message::arguments`], or the argument is missing or of another type.
    pub fn first_text(&self) -> Result<String> {
        match self.arguments()?.into_iter().next() {
            Some(Value::Text(text) | Value::Path(text)) => Ok(text),
            _ => Err(garbage()),
        }
    }
}

fn big_endian(mark: u8) -> Result<bool> {
    match mark {
        b'l' => Ok(false),
        b'B' => Ok(true),
        _ => Err(garbage()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: Method<'_> =
        Method { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus", member: "Hello" };

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let bytes = HELLO.call(1, true, &[]);
        let expected = b"l\x01\x02\x01\0\0\0\0\x01\0\0\0\x6d\0\0\0\
            \x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0\
            \x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
            \x03\x01s\0\x05\0\0\0Hello\0\0\0\
            \x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_call_with_arguments_is_read_back() {
        let arguments = [Value::text("x.scope"), Value::Bool(true), Value::array("(ss)", [])];
        let bytes = HELLO.call(7, false, &arguments);
        assert_eq!(bytes[2], 3, "no answer is wanted, and nothing started for it");
        assert_eq!(Message::length(bytes[..START].try_into().unwrap()).unwrap(), bytes.len());
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Hello"));
        assert_eq!(message.arguments().unwrap(), arguments);
        assert_eq!(message.first_text().unwrap(), "x.scope");
    }

    #[test]
    fn the_other_byte_order_is_read() {
        let bytes = b"B\x02\0\x01\0\0\0\x07\0\0\0\x09\0\0\0\x0f\x05\x01u\0\0\0\0\x07\x08\x01g\0\x01s\0\0\0\0\0\x02ab\0";
        assert_eq!(Message::length(bytes[..START].try_into().unwrap()).unwrap(), bytes.len());
        let message = Message::parse(bytes).unwrap();
        assert_eq!((message.kind, message.reply_to, message.first_text().unwrap().as_str()), (ANSWER, 7, "ab"));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = |body: u32| {
            let mut start = *b"l\x02\0\x01\0\0\0\0\x01\0\0\0\0\0\0\0";
            start[4..8].copy_from_slice(&body.to_le_bytes());
            Message::length(&start)
        };
        assert_eq!(long(9).unwrap(), 25);
        assert!(long(u32::MAX).is_err());
        assert!(Message::length(b"HTTP/1.1 400 Bad").is_err());
        assert!(Message::length(b"l\x02\0\x02\0\0\0\0\x01\0\0\0\0\0\0\0").is_err(), "another version");
        let whole = HELLO.call(1, true, &[Value::text("x")]);
        for end in 0..whole.len() {
            assert!(Message::parse(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_message_is_read_or_refused(at in 0..200_usize, byte in any::<u8>(), cut in 0..200_usize) {
            let mut bytes = HELLO.call(1, true, &[Value::text("x.scope"), Value::array("(ss)", [Value::Struct(vec![Value::text("a"), Value::text("b")])])]);
            let n = bytes.len();
            bytes[at % n] = byte;
            bytes.truncate(n - cut % n);
            if let Ok(start) = bytes.get(..START).unwrap_or_default().try_into() {
                let _ = Message::length(start);
            }
            if let Ok(message) = Message::parse(&bytes) {
                let _ = message.arguments();
                let _ = message.first_text();
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes).map(|m| m.arguments());
        }
    }
}
