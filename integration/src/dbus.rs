//! D-Bus messages, as far as the tests' own systemd needs them: calls of a runtime are read as JSON, answers are written.
//!
//! Source: D-Bus specification, "Message Protocol". The code is independent of masu's own, so that one checks the other.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// A received call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The serial number, which the answer repeats.
    pub serial: u32,
    /// Whether the caller wants an answer.
    pub answered: bool,
    /// The name of the method.
    pub member: String,
    /// The arguments. A variant is an object with its signature as the only key; a structure is an array.
    pub arguments: Vec<Value>,
}

/// The length of the message at the start of `bytes`, or `None` while too few bytes are there.
///
/// # Errors
/// The message is not little endian, or not of version 1.
pub fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(start) = bytes.get(..16) else { return Ok(None) };
    ensure!(start[0] == b'l' && start[3] == 1, "not a message: {start:?}");
    let (body, fields) = (number(&start[4..8]) as usize, number(&start[12..16]) as usize);
    Ok(Some((16 + fields).next_multiple_of(8) + body))
}

impl Call {
    /// Reads one whole message.
    ///
    /// # Errors
    /// The message is not a call, or violates the specification.
    pub fn parse(bytes: &[u8]) -> Result<Call> {
        ensure!(bytes.get(1) == Some(&1), "not a call: {bytes:?}");
        let answered = bytes[2] & 1 == 0;
        let mut reader = Reader { bytes, at: 8 };
        let serial = reader.u32()?;
        ensure!(serial != 0, "a serial of 0");
        let fields = reader.value(&mut "a(yv)")?;
        let (mut member, mut signature, mut destination) = (String::new(), String::new(), String::new());
        for field in fields.as_array().context("fields")? {
            let text = field[1].as_object().and_then(|v| v.values().next()).and_then(Value::as_str).unwrap_or_default();
            match field[0].as_u64() {
                Some(3) => text.clone_into(&mut member),
                Some(6) => text.clone_into(&mut destination),
                Some(8) => text.clone_into(&mut signature),
                _ => {}
            }
        }
        ensure!(destination.starts_with("org.freedesktop."), "a call of {destination:?}");
        reader.align(8)?;
        let mut rest = signature.as_str();
        let mut arguments = Vec::new();
        while !rest.is_empty() {
            arguments.push(reader.value(&mut rest)?);
        }
        ensure!(reader.at == bytes.len(), "{} bytes behind the arguments", bytes.len() - reader.at);
        Ok(Call { serial, answered, member, arguments })
    }

    /// The argument at `i` as text.
    pub fn text(&self, i: usize) -> &str {
        self.arguments.get(i).and_then(Value::as_str).unwrap_or_default()
    }

    /// The properties in the argument at `i`, by name, each as an object of signature and value. If a name is repeated, the last
    /// one counts.
    pub fn properties(&self, i: usize) -> Map<String, Value> {
        let list = self.arguments.get(i).and_then(Value::as_array).cloned().unwrap_or_default();
        list.into_iter().map(|pair| (pair[0].as_str().unwrap_or_default().to_owned(), pair[1].clone())).collect()
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let part = self.bytes.get(self.at..self.at + n).with_context(|| format!("{n} bytes at {}", self.at))?;
        self.at += n;
        Ok(part)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        let padding = self.take(self.at.next_multiple_of(to) - self.at)?;
        ensure!(padding.iter().all(|b| *b == 0), "padding that is not 0");
        Ok(())
    }

    fn u32(&mut self) -> Result<u32> {
        self.align(4)?;
        Ok(number(self.take(4)?))
    }

    fn u64(&mut self) -> Result<u64> {
        self.align(8)?;
        Ok(self.take(8)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = String::from_utf8(self.take(length)?.to_vec())?;
        ensure!(self.take(1)? == [0], "a text without its end");
        Ok(text)
    }

    /// Reads a value of the first type in `signature`, and removes that type from `signature`.
    fn value(&mut self, signature: &mut &str) -> Result<Value> {
        let kind = signature.chars().next().context("a type")?;
        *signature = &signature[1..];
        Ok(match kind {
            'y' => json!(self.take(1)?[0]),
            'b' => json!(self.u32()? != 0),
            'i' => json!(self.u32()?.cast_signed()),
            'u' => json!(self.u32()?),
            'x' => json!(self.u64()?.cast_signed()),
            't' => json!(self.u64()?),
            'd' => json!(f64::from_bits(self.u64()?)),
            's' | 'o' => {
                let length = self.u32()? as usize;
                json!(self.text(length)?)
            }
            'g' => {
                let length = usize::from(self.take(1)?[0]);
                json!(self.text(length)?)
            }
            'v' => {
                let length = usize::from(self.take(1)?[0]);
                let inner = self.text(length)?;
                let value = self.value(&mut inner.as_str())?;
                json!({ inner: value })
            }
            'a' => {
                let size = self.u32()? as usize;
                let element = *signature;
                self.align(if element.starts_with(['(', '{', 'x', 't', 'd']) { 8 } else { 1 })?;
                let end = self.at + size;
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(&mut &*element)?);
                }
                ensure!(self.at == end, "an array of another length");
                skip(signature)?;
                json!(items)
            }
            '(' => {
                self.align(8)?;
                let mut fields = Vec::new();
                while !signature.starts_with(')') {
                    fields.push(self.value(signature)?);
                }
                *signature = &signature[1..];
                json!(fields)
            }
            kind => bail!("a value of type {kind:?}"),
        })
    }
}

/// Splits the first type off a signature.
fn skip(signature: &mut &str) -> Result<()> {
    let mut open = 0;
    for (i, c) in signature.char_indices() {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        if open == 0 && c != 'a' {
            *signature = &signature[i + 1..];
            return Ok(());
        }
    }
    bail!("a type without an end: {signature}")
}

/// An answer, an error or a signal, as one message.
#[derive(Debug, Default)]
pub struct Answer {
    fields: Vec<u8>,
    signature: String,
    body: Vec<u8>,
    kind: u8,
}

impl Answer {
    /// An answer to a call.
    pub fn to(call: &Call) -> Answer {
        let mut answer = Answer { kind: 2, ..Answer::default() };
        answer.field(5, 'u', |out| out.extend(call.serial.to_le_bytes()));
        answer
    }

    /// An error as the answer to a call.
    pub fn refusal(call: &Call, error: &str, text: &str) -> Answer {
        let mut answer = Answer { kind: 3, ..Answer::to(call) };
        answer.field(4, 's', |out| put_text(out, error));
        answer.text('s', text)
    }

    /// A signal of systemd's manager.
    pub fn signal(member: &str) -> Answer {
        let mut answer = Answer { kind: 4, ..Answer::default() };
        answer.field(1, 'o', |out| put_text(out, "/org/freedesktop/systemd1"));
        answer.field(2, 's', |out| put_text(out, "org.freedesktop.systemd1.Manager"));
        answer.field(3, 's', |out| put_text(out, member));
        answer
    }

    /// Appends a text argument, of type `s` or `o`.
    pub fn text(mut self, kind: char, text: &str) -> Answer {
        self.signature.push(kind);
        pad(&mut self.body, 4);
        put_text(&mut self.body, text);
        self
    }

    /// Appends a variant that holds a text.
    pub fn variant(mut self, text: &str) -> Answer {
        self.signature.push('v');
        self.body.extend(b"\x01s\0");
        pad(&mut self.body, 4);
        put_text(&mut self.body, text);
        self
    }

    /// Appends a number.
    pub fn u32(mut self, number: u32) -> Answer {
        self.signature.push('u');
        pad(&mut self.body, 4);
        self.body.extend(number.to_le_bytes());
        self
    }

    fn field(&mut self, code: u8, kind: char, value: impl FnOnce(&mut Vec<u8>)) {
        pad(&mut self.fields, 8);
        self.fields.extend([code, 1, kind as u8, 0]);
        value(&mut self.fields);
    }

    /// The encoded message.
    pub fn bytes(mut self, serial: u32) -> Vec<u8> {
        if !self.signature.is_empty() {
            let signature = std::mem::take(&mut self.signature);
            self.field(8, 'g', |out| {
                out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
                out.extend(signature.as_bytes());
                out.push(0);
            });
        }
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = vec![b'l', self.kind, 0, 1];
        out.extend(size(self.body.len()));
        out.extend(serial.to_le_bytes());
        out.extend(size(self.fields.len()));
        out.extend(&self.fields);
        pad(&mut out, 8);
        out.extend(&self.body);
        out
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}
