//! Protocol buffers by hand, to test programs that have their own code for them.

use anyhow::{Context, Result, bail};

/// A message to send.
#[derive(Debug, Clone, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn number(mut self, field: u64, value: u64) -> Self {
        varint(field << 3, &mut self.0);
        varint(value, &mut self.0);
        self
    }

    #[must_use]
    pub fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        varint(field << 3 | 2, &mut self.0);
        varint(value.len() as u64, &mut self.0);
        self.0.extend(value);
        self
    }

    #[must_use]
    pub fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    #[must_use]
    pub fn message(self, field: u64, value: Self) -> Self {
        let bytes = value.0;
        self.bytes(field, &bytes)
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A received message: its numbers, and its fields with a length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    numbers: Vec<(u64, u64)>,
    bytes: Vec<(u64, Vec<u8>)>,
}

impl Fields {
    /// Reads a message.
    ///
    /// # Errors
    /// The bytes are not a valid message.
    pub fn of(mut rest: &[u8]) -> Result<Self> {
        let mut fields = Self::default();
        while !rest.is_empty() {
            let key = read(&mut rest)?;
            match key & 7 {
                0 => fields.numbers.push((key >> 3, read(&mut rest)?)),
                1 => rest = rest.get(8..).context("cut off")?,
                2 => {
                    let n = read(&mut rest)? as usize;
                    let (value, after) = rest.split_at_checked(n).context("cut off")?;
                    fields.bytes.push((key >> 3, value.to_vec()));
                    rest = after;
                }
                kind => bail!("a field of kind {kind}"),
            }
        }
        Ok(fields)
    }

    /// The number in `field`, 0 if absent.
    #[must_use]
    pub fn number(&self, field: u64) -> u64 {
        self.numbers.iter().rev().find(|(f, _)| *f == field).map_or(0, |(_, n)| *n)
    }

    /// The text in `field`, empty if absent.
    #[must_use]
    pub fn text(&self, field: u64) -> String {
        self.bytes.iter().rev().find(|(f, _)| *f == field).map(|(_, b)| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
    }

    #[must_use]
    pub fn message(&self, field: u64) -> Option<Self> {
        self.bytes.iter().rev().find(|(f, _)| *f == field).and_then(|(_, b)| Self::of(b).ok())
    }
}

fn read(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().context("cut off")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number without end")
}
