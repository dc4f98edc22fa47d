//! Protocol buffers, as much of them as containerd's messages use (protobuf.dev, "Encoding").
//!
//! A message is declared by [`messages!`](crate::messages) as in a .proto file; decoding skips what it does not know, and
//! refuses what is damaged. What a message takes in memory is in proportion to the input.

use std::collections::BTreeMap;

/// The input is no message of that type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The value of one field as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// A message; see [`messages!`](crate::messages).
pub(crate) trait Message: Default {
    /// Takes one field; unknown numbers are ignored.
    fn take(&mut self, number: u32, value: Value<'_>) -> Result<(), Malformed>;
    /// Appends all fields that are not at their default.
    fn put_all(&self, out: &mut Vec<u8>);

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        merge(&mut message, bytes)?;
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_all(&mut out);
        out
    }
}

fn merge(message: &mut impl Message, mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        if number == 0 {
            return Err(Malformed);
        }
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => Value::Fixed64(u64::from_le_bytes(split(&mut rest, 8)?.try_into().map_err(|_| Malformed)?)),
            2 => {
                let n = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed)?;
                Value::Bytes(split(&mut rest, n)?)
            }
            5 => {
                split(&mut rest, 4)?;
                Value::Fixed32
            }
            // groups are not in these files, and never were
            _ => return Err(Malformed),
        };
        message.take(number, value)?;
    }
    Ok(())
}

fn split<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(n).ok_or(Malformed)?;
    *rest = tail;
    Ok(head)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = split(rest, 1)?.first().copied().unwrap_or(0);
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(number: u32, kind: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | kind, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The type of a field.
pub(crate) trait Field {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed>;
    fn put(&self, number: u32, out: &mut Vec<u8>);
}

macro_rules! integers {
    ($($type:ty)*) => { $(
        impl Field for $type {
            fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
                let Value::Varint(n) = value else { return Err(Malformed) };
                // longer numbers are cut, as every implementation does
                *self = n as $type;
                Ok(())
            }
            fn put(&self, number: u32, out: &mut Vec<u8>) {
                if *self != 0 {
                    put_key(number, 0, out);
                    // negative ones are extended to 64 bits
                    put_varint(*self as i64 as u64, out);
                }
            }
        }
    )* };
}
integers!(u32 i32 u64 i64);

impl Field for bool {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Varint(n) = value else { return Err(Malformed) };
        *self = n != 0;
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        u32::from(*self).put(number, out);
    }
}

impl Field for f64 {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Fixed64(bits) = value else { return Err(Malformed) };
        *self = f64::from_bits(bits);
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if *self != 0.0 {
            put_key(number, 1, out);
            out.extend_from_slice(&self.to_bits().to_le_bytes());
        }
    }
}

impl Field for String {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = str::from_utf8(bytes).map_err(|_| Malformed)?.to_owned();
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }
}

impl Field for Vec<u8> {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = bytes.to_vec();
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }
}

impl Field for Vec<String> {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let mut text = String::new();
        text.take(value)?;
        self.push(text);
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for text in self {
            put_bytes(number, text.as_bytes(), out);
        }
    }
}

/// Packed, but the other form is understood too.
impl Field for Vec<u64> {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Varint(n) => self.push(n),
            Value::Bytes(mut rest) => {
                while !rest.is_empty() {
                    self.push(varint(&mut rest)?);
                }
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            let mut packed = Vec::new();
            for n in self {
                put_varint(*n, &mut packed);
            }
            put_bytes(number, &packed, out);
        }
    }
}

impl<M: Message> Field for Option<M> {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        // given twice, a message is merged
        merge(self.get_or_insert_with(M::default), bytes)
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_bytes(number, &message.encode(), out);
        }
    }
}

/// As many are far more than anybody sends. An empty one is two bytes in the input, and fifty times as much in memory.
const MAX_REPEATED: usize = 10_000;

impl<M: Message> Field for Vec<M> {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        if self.len() >= MAX_REPEATED {
            return Err(Malformed);
        }
        self.push(M::decode(bytes)?);
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for message in self {
            put_bytes(number, &message.encode(), out);
        }
    }
}

crate::messages! {
    /// One entry of a map.
    Entry { 1 key: String, 2 value: String, }
}

impl Field for BTreeMap<String, String> {
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        let entry = Entry::decode(bytes)?;
        self.insert(entry.key, entry.value);
        Ok(())
    }
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            put_bytes(number, &Entry { key: key.clone(), value: value.clone() }.encode(), out);
        }
    }
}

/// Declares messages: `Name { 1 field: Type, … }`.
#[macro_export]
macro_rules! messages {
    ($($(#[$attribute:meta])* $name:ident { $($number:literal $field:ident: $type:ty,)* })*) => { $(
        $(#[$attribute])*
        #[derive(Debug, Default, Clone, PartialEq)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }
        impl $crate::rpc::wire::Message for $name {
            fn take(&mut self, number: u32, value: $crate::rpc::wire::Value<'_>) -> Result<(), $crate::rpc::wire::Malformed> {
                match number {
                    $($number => $crate::rpc::wire::Field::take(&mut self.$field, value),)*
                    _ => Ok(()),
                }
            }
            fn put_all(&self, out: &mut Vec<u8>) {
                $($crate::rpc::wire::Field::put(&self.$field, $number, out);)*
            }
        }
    )* };
}
