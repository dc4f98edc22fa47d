//! Values of D-Bus, of the types that unit properties have, and their encoding (D-Bus specification, "Marshaling").
//!
//! No function has side effects. Decoding has strict limits, so that no message can cause a panic, an endless loop or the
//! allocation of much memory.

use std::fmt;

use crate::error::{Error, Result};

/// The largest depth of nested values. Messages of systemd are less deep.
const MAX_DEPTH: usize = 16;
/// The largest array, in bytes (D-Bus specification).
const MAX_ARRAY: usize = 64 << 20;

/// One value. The comments name the D-Bus type and its signature.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// BYTE, `y`.
    Byte(u8),
    /// BOOLEAN, `b`.
    Bool(bool),
    /// INT16, `n`.
    I16(i16),
    /// UINT16, `q`.
    U16(u16),
    /// INT32, `i`.
    I32(i32),
    /// UINT32, `u`.
    U32(u32),
    /// INT64, `x`.
    I64(i64),
    /// UINT64, `t`.
    U64(u64),
    /// DOUBLE, `d`.
    F64(f64),
    /// STRING, `s`.
    Text(String),
    /// OBJECT_PATH, `o`.
    Path(String),
    /// SIGNATURE, `g`.
    Signature(String),
    /// VARIANT, `v`.
    Variant(Box<Value>),
    /// ARRAY, `a`: the signature of the elements, and the elements.
    Array(String, Vec<Value>),
    /// STRUCT, `(...)`: its fields.
    Struct(Vec<Value>),
}

impl Value {
    /// A STRING.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// An ARRAY; `element` is the signature of its elements.
    pub fn array(element: &str, items: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(element.to_owned(), items.into_iter().collect())
    }

    /// An ARRAY of BYTE, `ay`.
    pub fn bytes(bytes: &[u8]) -> Value {
        Value::array("y", bytes.iter().map(|b| Value::Byte(*b)))
    }

    /// The signature of the value's type.
    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::F64(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Variant(_) => "v".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", fields.iter().map(Value::signature).collect::<String>()),
        }
    }

    /// Appends the value in little-endian order to `out`, which must begin where the message begins, because of the alignment.
    pub fn write(&self, out: &mut Vec<u8>) {
        align(out, alignment(&self.signature()));
        match self {
            Value::Byte(v) => out.push(*v),
            Value::Bool(v) => out.extend(u32::from(*v).to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => {
                out.extend(length(text.len()).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Value::Signature(text) => write_signature(text, out),
            Value::Variant(value) => {
                write_signature(&value.signature(), out);
                value.write(out);
            }
            Value::Array(element, items) => {
                let at = out.len();
                out.extend([0; 4]);
                align(out, alignment(element));
                let start = out.len();
                items.iter().for_each(|item| item.write(out));
                let size = length(out.len() - start).to_le_bytes();
                if let Some(place) = out.get_mut(at..at + 4) {
                    place.copy_from_slice(&size);
                }
            }
            Value::Struct(fields) => fields.iter().for_each(|field| field.write(out)),
        }
    }
}

/// The text form of GVariant, without type annotations.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Value]| {
            items.iter().enumerate().try_for_each(|(i, item)| write!(f, "{}{item}", if i == 0 { "" } else { ", " }))
        };
        match self {
            Value::Byte(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::I16(v) => write!(f, "{v}"),
            Value::U16(v) => write!(f, "{v}"),
            Value::I32(v) => write!(f, "{v}"),
            Value::U32(v) => write!(f, "{v}"),
            Value::I64(v) => write!(f, "{v}"),
            Value::U64(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            Value::Text(text) | Value::Path(text) | Value::Signature(text) => write!(f, "'{}'", text.escape_debug()),
            Value::Variant(value) => write!(f, "<{value}>"),
            Value::Array(_, items) => f.write_str("[").and_then(|()| list(f, items)).and_then(|()| f.write_str("]")),
            Value::Struct(fields) => f.write_str("(").and_then(|()| list(f, fields)).and_then(|()| f.write_str(")")),
        }
    }
}

fn write_signature(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend(text.as_bytes());
    out.push(0);
}

/// The length of an array or string. A config is far smaller than 4 GiB, and a peer refuses a wrong length.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a' | b'h') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// A decoder of values.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], big_endian: bool) -> Reader<'a> {
        Reader { bytes, at: 0, big_endian }
    }

    /// The number of consumed bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn align(&mut self, to: usize) -> Result<()> {
        let next = self.at.next_multiple_of(to);
        self.take(next - self.at).map(drop)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).ok_or_else(garbage)?;
        let part = self.bytes.get(self.at..end).ok_or_else(garbage)?;
        self.at = end;
        Ok(part)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let mut bytes: [u8; N] = self.take(N)?.try_into().map_err(|_| garbage())?;
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.number().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Result<String> {
        let n = self.u32()? as usize;
        self.terminated(n)
    }

    pub(super) fn signature(&mut self) -> Result<String> {
        let n = usize::from(self.byte()?);
        self.terminated(n)
    }

    fn terminated(&mut self, n: usize) -> Result<String> {
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| garbage())?;
        if self.take(1)? != [0] || text.contains('\0') {
            return Err(garbage());
        }
        Ok(text.to_owned())
    }

    /// Decodes the values of `signature`.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind): malformed, or of a type that is not supported (a dictionary, a descriptor).
    pub(super) fn values(&mut self, signature: &str) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        let mut rest = signature;
        while !rest.is_empty() {
            let (one, more) = split_first(rest)?;
            values.push(self.value(one, 0)?);
            rest = more;
        }
        Ok(values)
    }

    fn value(&mut self, signature: &str, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(garbage());
        }
        Ok(match signature.as_bytes() {
            b"y" => Value::Byte(self.byte()?),
            b"b" => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(garbage()),
            },
            b"n" => Value::I16(self.number().map(i16::from_le_bytes)?),
            b"q" => Value::U16(self.number().map(u16::from_le_bytes)?),
            b"i" => Value::I32(self.number().map(i32::from_le_bytes)?),
            b"u" => Value::U32(self.u32()?),
            b"x" => Value::I64(self.number().map(i64::from_le_bytes)?),
            b"t" => Value::U64(self.number().map(u64::from_le_bytes)?),
            b"d" => Value::F64(self.number().map(f64::from_le_bytes)?),
            b"s" => Value::Text(self.text()?),
            b"o" => Value::Path(self.text()?),
            b"g" => Value::Signature(self.signature()?),
            b"v" => {
                let inner = self.signature()?;
                let (one, "") = split_first(&inner)? else { return Err(garbage()) };
                Value::Variant(Box::new(self.value(one, depth + 1)?))
            }
            [b'a', ..] => {
                let (element, "") = split_first(signature.get(1..).unwrap_or_default())? else { return Err(garbage()) };
                let size = self.u32()? as usize;
                self.align(alignment(element))?;
                let end = self.at.checked_add(size).filter(|end| size <= MAX_ARRAY && *end <= self.bytes.len()).ok_or_else(garbage)?;
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(element, depth + 1)?);
                }
                if self.at != end {
                    return Err(garbage());
                }
                Value::Array(element.to_owned(), items)
            }
            [b'(', .., b')'] => {
                self.align(8)?;
                let mut rest = signature.get(1..signature.len() - 1).unwrap_or_default();
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (one, more) = split_first(rest)?;
                    fields.push(self.value(one, depth + 1)?);
                    rest = more;
                }
                // elements without size would make an array endless
                if fields.is_empty() {
                    return Err(garbage());
                }
                Value::Struct(fields)
            }
            _ => return Err(garbage()),
        })
    }
}

/// Splits a signature after its first complete type.
///
/// # Errors
/// [`Kind::Internal`](crate::error::Kind::Internal): it begins with no complete type.
pub fn split_first(signature: &str) -> Result<(&str, &str)> {
    let mut open = 0_usize;
    for (i, c) in signature.bytes().enumerate() {
        match c {
            b'(' | b'{' => open += 1,
            b')' | b'}' => open = open.checked_sub(1).ok_or_else(garbage)?,
            // the element type follows
            b'a' => continue,
            b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' | b'h' => {}
            _ => return Err(garbage()),
        }
        if open == 0 {
            return signature.split_at_checked(i + 1).ok_or_else(garbage);
        }
    }
    Err(garbage())
}

/// The error for a malformed message.
pub fn garbage() -> Error {
    Error::new(crate::error::Kind::Internal, "the answer is not a message of D-Bus")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.write(&mut out);
        out
    }

    #[test]
    fn values_are_laid_out_as_the_specification_says() {
        for (value, signature, bytes) in [
            (Value::Byte(7), "y", &[7][..]),
            (Value::Bool(true), "b", &[1, 0, 0, 0]),
            (Value::U64(258), "t", &[2, 1, 0, 0, 0, 0, 0, 0]),
            (Value::text("ab"), "s", b"\x02\0\0\0ab\0"),
            (Value::Signature("as".into()), "g", b"\x02as\0"),
            (Value::Variant(Box::new(Value::U32(5))), "v", b"\x01u\0\0\x05\0\0\0"),
            (Value::bytes(&[1, 2]), "ay", &[2, 0, 0, 0, 1, 2]),
            // the size excludes the padding before the first element
            (Value::array("t", [Value::U64(1)]), "at", &[8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
            (Value::array("(ss)", []), "a(ss)", &[0, 0, 0, 0, 0, 0, 0, 0]),
            (Value::Struct(vec![Value::Byte(1), Value::U32(2)]), "(yu)", &[1, 0, 0, 0, 2, 0, 0, 0]),
        ] {
            assert_eq!((value.signature().as_str(), written(&value).as_slice()), (signature, bytes), "{value:?}");
        }
    }

    #[test]
    fn a_signature_is_split_into_whole_types() {
        assert_eq!(split_first("a(sa(sv))u").unwrap(), ("a(sa(sv))", "u"));
        assert_eq!(Value::Struct(vec![Value::text("a'"), Value::bytes(&[1, 2])]).to_string(), r"('a\'', [1, 2])");
        assert_eq!(split_first("aasv").unwrap(), ("aas", "v"));
        for bad in ["", "a", "(", "(s", ")", "aa", "z", "ä"] {
            assert!(split_first(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_would_take_long_or_deep_is_refused() {
        assert!(Reader::new(&b"\x01v\0".repeat(1000), false).values("v").is_err());
        let lists: Vec<u8> = (0..40_u32).rev().flat_map(|n| (n * 4).to_le_bytes()).collect();
        assert!(Reader::new(&lists, false).values(&format!("{}y", "a".repeat(40))).is_err());
        // an array longer than the message
        assert!(Reader::new(&[255, 255, 255, 255, 1], false).values("ay").is_err());
        assert!(Reader::new(&[8, 0, 0, 0, 0, 0, 0, 0], false).values("a()").is_err());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i16>().prop_map(Value::I16),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(Value::U64),
            (-1e9..1e9).prop_map(Value::F64),
            "[^\0]{0,12}".prop_map(Value::Text),
            "(/[a-z]{1,4}){1,3}".prop_map(Value::Path),
            "[ybnqiuxtdsog]{0,4}".prop_map(Value::Signature),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(|v| Value::Variant(Box::new(v))),
                (inner.clone(), 0..4_usize).prop_map(|(v, n)| Value::Array(v.signature(), vec![v; n])),
                prop::collection::vec(inner, 1..4).prop_map(Value::Struct),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec(any_value(), 0..4)) {
            let mut out = Vec::new();
            values.iter().for_each(|v| v.write(&mut out));
            let signature: String = values.iter().map(Value::signature).collect();
            let mut reader = Reader::new(&out, false);
            prop_assert_eq!(reader.values(&signature).unwrap(), values);
            prop_assert_eq!(reader.at(), out.len());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), signature in "[ybnqiuxtdsogva(){}h]{0,12}", big in any::<bool>()) {
            let _ = Reader::new(&bytes, big).values(&signature);
        }
    }
}
