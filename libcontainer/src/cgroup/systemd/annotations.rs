//! The annotations `org.systemd.property.NAME`: properties of the unit from the config, in GVariant's text format.
//!
//! Pure. runc's docs/systemd.md, "Auxiliary properties"; glib's "GVariant Text Format". Tuples are not read, as in runc, nor
//! dictionaries, because no property of a scope is one.

use std::collections::BTreeMap;

use super::properties::Property;
use crate::findings::Findings;
use masu_host::dbus::{Value, split_first};

const PREFIX: &str = "org.systemd.property.";
/// The deepest nesting of lists.
const MAX_DEPTH: usize = 8;

/// Reads all these annotations, in the order of their names.
pub(super) fn plan(annotations: &BTreeMap<String, String>, found: &mut Findings) -> Vec<Property> {
    let all = annotations.range(PREFIX.to_owned()..).map_while(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value)));
    let mut properties = Vec::new();
    for (key, name, value) in all {
        let at = format!("annotations.{key}");
        if let Some(why) = bad_name(name) {
            found.invalid(at, format!("annotation {key} name incorrect: {why}"));
            continue;
        }
        let property = parse(value).and_then(|value| in_microseconds(name, value));
        match property {
            Ok((name, value)) => properties.push(Property::required(name, value)),
            Err(why) => {
                let value: String = value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
                found.invalid(at, format!("annotation {key}={value} value parse error: {why}"));
            }
        }
    }
    properties
}

fn bad_name(name: &str) -> Option<&'static str> {
    match name {
        name if name.len() < 3 => Some("too short"),
        name if !name.bytes().all(|b| b.is_ascii_alphabetic()) => Some("contains non-alphabetic character"),
        _ => None,
    }
}

/// Names in unit files end in `Sec`, names of properties in `USec`. Converts such a name, and its value to microseconds.
fn in_microseconds(name: &str, value: Value) -> Result<(String, Value), String> {
    let Some(start) = name.strip_suffix("Sec").filter(|start| start.ends_with(|c: char| c.is_ascii_lowercase())) else {
        return Ok((name.to_owned(), value));
    };
    let seconds = match value {
        Value::Byte(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::U64(n) => Some(n),
        Value::I16(n) => u64::try_from(n).ok(),
        Value::I32(n) => u64::try_from(n).ok(),
        Value::I64(n) => u64::try_from(n).ok(),
        Value::F64(n) if n >= 0.0 && n < u64::MAX as f64 / 1e6 => return Ok((format!("{start}USec"), Value::U64((n * 1e6) as u64))),
        _ => return Err("not a number".into()),
    };
    let microseconds = seconds.and_then(|n| n.checked_mul(1_000_000)).ok_or("out of range")?;
    Ok((format!("{start}USec"), Value::U64(microseconds)))
}

/// A value as it is written, before the types of its numbers are known.
#[derive(Debug)]
enum Literal {
    Bool(bool),
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Literal>),
    Variant(Box<Literal>),
    /// A value after its type: `uint64 5`, `@as []`.
    Typed(String, Box<Literal>),
}

fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text };
    let node = parser.node(0)?;
    parser.skip_space();
    if !parser.rest.is_empty() {
        return Err(format!("unexpected {} after the value", start(parser.rest)));
    }
    let signature = node.infer().ok_or("its type cannot be told")?;
    node.value(&signature)
}

impl Literal {
    /// The type of the value: the written one, else GVariant's default. `None` for an empty list.
    fn infer(&self) -> Option<String> {
        Some(match self {
            Literal::Bool(_) => "b".into(),
            Literal::Number(text) if is_real(text) => "d".into(),
            Literal::Number(_) => "i".into(),
            Literal::Text(_) => "s".into(),
            Literal::Bytes(_) => "ay".into(),
            Literal::Variant(_) => "v".into(),
            Literal::Typed(signature, _) => signature.clone(),
            Literal::List(items) => {
                // an item with a written type decides the type of all items
                let item = items.iter().find(|item| item.is_typed()).or(items.iter().find(|item| item.infer().as_deref() == Some("d")));
                format!("a{}", item.or(items.iter().find(|item| item.infer().is_some()))?.infer()?)
            }
        })
    }

    fn is_typed(&self) -> bool {
        match self {
            Literal::Typed(..) => true,
            Literal::List(items) => items.iter().any(Literal::is_typed),
            _ => false,
        }
    }

    /// Converts the literal to a value of type `signature`.
    fn value(self, signature: &str) -> Result<Value, String> {
        let wrong = |what: &str| Err(format!("can't parse {what} as type {signature:?}"));
        match (self, signature) {
            (Literal::Typed(own, node), signature) if own == signature => node.value(signature),
            (Literal::Typed(own, _), _) => wrong(&format!("a value of type {own:?}")),
            (Literal::Bool(value), "b") => Ok(Value::Bool(value)),
            (Literal::Bool(value), _) => wrong(&value.to_string()),
            (Literal::Number(text), signature) => number(&text, signature).ok_or(()).or_else(|()| wrong(&text)),
            (Literal::Text(text), "s") => Ok(Value::Text(text)),
            (Literal::Text(text), "o") => Ok(Value::Path(text)),
            (Literal::Text(text), "g") => Ok(Value::Signature(text)),
            (Literal::Text(text), _) => wrong(&format!("{text:?}")),
            (Literal::Bytes(bytes), "ay") => Ok(Value::bytes(&bytes)),
            (Literal::Bytes(_), _) => wrong("a byte string"),
            (Literal::Variant(node), "v") => {
                let inner = node.infer().ok_or("its type cannot be told")?;
                node.value(&inner).map(|value| Value::Variant(Box::new(value)))
            }
            (Literal::Variant(_), _) => wrong("a variant"),
            (Literal::List(items), signature) => match signature.strip_prefix('a') {
                Some(element) => {
                    let items: Result<Vec<Value>, String> = items.into_iter().map(|item| item.value(element)).collect();
                    Ok(Value::array(element, items?))
                }
                None => wrong("a list"),
            },
        }
    }
}

fn is_real(number: &str) -> bool {
    number.contains(['.', 'e']) && !number.contains('x')
}

/// `text` as a number of type `signature`; hexadecimal and octal as in C.
fn number(text: &str, signature: &str) -> Option<Value> {
    if signature == "d" {
        return text.parse().ok().filter(|n: &f64| n.is_finite()).map(Value::F64);
    }
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (digits, base) = match digits.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits.get(1..)?, 8),
        None => (digits, 10),
    };
    // from_str_radix would accept a second sign
    let n = if digits.starts_with(['+', '-']) { None } else { i128::from_str_radix(digits, base).ok() }?.checked_mul(sign)?;
    Some(match signature {
        "y" => Value::Byte(n.try_into().ok()?),
        "n" => Value::I16(n.try_into().ok()?),
        "q" => Value::U16(n.try_into().ok()?),
        "i" => Value::I32(n.try_into().ok()?),
        "u" => Value::U32(n.try_into().ok()?),
        "x" => Value::I64(n.try_into().ok()?),
        "t" => Value::U64(n.try_into().ok()?),
        _ => return None,
    })
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn skip(&mut self, start: &str) -> bool {
        self.skip_space();
        self.rest.strip_prefix(start).inspect(|rest| self.rest = rest).is_some()
    }

    fn node(&mut self, depth: usize) -> Result<Literal, String> {
        if depth > MAX_DEPTH {
            return Err("too many lists within lists".into());
        }
        if self.skip("[") {
            return self.list(depth);
        }
        if self.skip("<") {
            let inner = self.node(depth + 1)?;
            return if self.skip(">") { Ok(Literal::Variant(Box::new(inner))) } else { Err("a variant has no end".into()) };
        }
        if self.rest.starts_with("b'") || self.rest.starts_with("b\"") {
            self.rest = self.rest.get(1..).unwrap_or_default();
            return self.quoted().map(|text| Literal::Bytes([text.as_bytes(), b"\0"].concat()));
        }
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(Literal::Text);
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || "[]<>,'\"".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let signature = match word {
            "" if rest.is_empty() => return Err("unexpected end".into()),
            "" => return Err(format!("unexpected {}", start(rest))),
            "true" => return Ok(Literal::Bool(true)),
            "false" => return Ok(Literal::Bool(false)),
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            word if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => return Ok(Literal::Number(word.to_owned())),
            word => word
                .strip_prefix('@')
                .filter(|s| matches!(split_first(s), Ok((_, ""))))
                .ok_or_else(|| format!("unexpected {}", start(word)))?,
        };
        match self.node(depth + 1)? {
            Literal::Typed(..) => Err("unexpected type annotation".into()),
            node => Ok(Literal::Typed(signature.to_owned(), Box::new(node))),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Literal, String> {
        let mut items = Vec::new();
        if self.skip("]") {
            return Ok(Literal::List(items));
        }
        loop {
            items.push(self.node(depth + 1)?);
            if self.skip("]") {
                return Ok(Literal::List(items));
            }
            if !self.skip(",") {
                return Err(format!("unexpected {} in a list", start(self.rest)));
            }
        }
    }

    /// Reads a text up to the closing quote. A backslash escapes the next character: as in C, or literally.
    fn quoted(&mut self) -> Result<String, String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        loop {
            let c = chars.next().ok_or("a text has no end")?;
            if Some(c) == quote {
                break;
            }
            text.push(if c == '\\' { escaped(&mut chars)? } else { c });
        }
        self.rest = chars.as_str();
        Ok(text)
    }
}

/// The start of a text, for an error.
fn start(text: &str) -> String {
    format!("{:?}", text.chars().take(20).collect::<String>())
}

fn escaped(chars: &mut std::str::Chars<'_>) -> Result<char, String> {
    let digits = match chars.next().ok_or("a text has no end")? {
        'a' => return Ok('\x07'),
        'b' => return Ok('\x08'),
        'f' => return Ok('\x0c'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\x0b'),
        'u' => 4,
        'U' => 8,
        c => return Ok(c),
    };
    let text = chars.as_str().get(..digits).ok_or("a character's number is too short")?;
    *chars = chars.as_str().get(digits..).unwrap_or_default().chars();
    let number = u32::from_str_radix(text, 16).ok().filter(|n| *n != 0);
    number.and_then(char::from_u32).ok_or_else(|| format!("{text:?} is not the number of a character"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planned(name: &str, value: &str) -> Result<(String, Value), String> {
        let annotations = [(format!("{PREFIX}{name}"), value.to_owned()), ("org.systemd.propertz".into(), "x".into())].into();
        let mut found = Findings::new();
        let mut properties = plan(&annotations, &mut found);
        found.unless_wrong(()).map_err(|e| e.to_string())?;
        assert_eq!(properties.len(), 1);
        let Property { name, value, .. } = properties.remove(0);
        Ok((name, value))
    }

    #[test]
    fn values_are_read_as_glib_writes_them() {
        let texts = |list: &[&str]| Value::array("s", list.iter().map(|s| Value::text(*s)));
        for (text, value) in [
            ("true", Value::Bool(true)),
            (" boolean false ", Value::Bool(false)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            ("\"a'b\"", Value::text("a'b")),
            (r"'a\'b\n\u0041\\'", Value::text("a'b\nA\\")),
            ("5", Value::I32(5)),
            ("-0x10", Value::I32(-16)),
            ("uint64 0777", Value::U64(511)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("int64 -9223372036854775808", Value::I64(i64::MIN)),
            ("byte 255", Value::Byte(255)),
            ("1.5", Value::F64(1.5)),
            ("double 2", Value::F64(2.0)),
            ("['a.service', 'b.service']", texts(&["a.service", "b.service"])),
            ("@as []", texts(&[])),
            ("@as ['x']", texts(&["x"])),
            ("[byte 1, 2]", Value::bytes(&[1, 2])),
            ("[1, 2.5]", Value::array("d", [Value::F64(1.0), Value::F64(2.5)])),
            ("b'ab'", Value::bytes(b"ab\0")),
            ("objectpath '/a'", Value::Path("/a".into())),
            ("signature 'as'", Value::Signature("as".into())),
            ("<uint32 1>", Value::Variant(Box::new(Value::U32(1)))),
            ("[['a'], []]", Value::array("as", [texts(&["a"]), texts(&[])])),
        ] {
            assert_eq!(planned("Name", text).unwrap(), ("Name".into(), value), "{text}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        for (name, text, is, value) in [
            ("TimeoutStopSec", "uint64 5", "TimeoutStopUSec", 5_000_000),
            ("TimeoutStopSec", "2", "TimeoutStopUSec", 2_000_000),
            ("TimeoutStopSec", "0.25", "TimeoutStopUSec", 250_000),
            ("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec", 7),
        ] {
            assert_eq!(planned(name, text).unwrap(), (is.into(), Value::U64(value)), "{name} {text}");
        }
        for (text, why) in [("'5'", "not a number"), ("-1", "out of range"), ("uint64 18446744073709551615", "out of range")] {
            assert!(planned("TimeoutStopSec", text).unwrap_err().ends_with(why), "{text}");
        }
    }

    #[test]
    fn what_is_no_property_is_refused() {
        let deep = "[".repeat(100_000);
        for (name, text, why) in [
            ("Ab", "1", "annotation org.systemd.property.Ab name incorrect: too short"),
            ("A_b", "1", "annotation org.systemd.property.A_b name incorrect: contains non-alphabetic character"),
            ("Abc", "", "annotation org.systemd.property.Abc= value parse error: unexpected end"),
            ("Abc", "uint32 -1", "can't parse -1 as type \"u\""),
            ("Abc", "int32 2147483648", "can't parse 2147483648 as type \"i\""),
            ("Abc", "uint32 'x'", "can't parse \"x\" as type \"u\""),
            ("Abc", "maybe", "unexpected \"maybe\""),
            ("Abc", "'x", "a text has no end"),
            ("Abc", "'x' y", "unexpected \"y\" after the value"),
            ("Abc", "[", "unexpected end"),
            ("Abc", "[1 2]", "unexpected \"2]\" in a list"),
            ("Abc", "[]", "its type cannot be told"),
            ("Abc", "[1, 'x']", "can't parse"),
            ("Abc", "@a []", "unexpected \"@a\""),
            ("Abc", "uint32 uint32 1", "unexpected type annotation"),
            ("Abc", "('a', 1)", "unexpected \"(\""),
            ("Abc", "'\\u12'", "a character's number is too short"),
            ("Abc", &deep, "too many lists within lists"),
        ] {
            let e = planned(name, text).unwrap_err();
            assert!(e.contains(why) && !e.contains('\n'), "{text:.20}: {e:.200}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]<>b'\"@asu6,. \\\\x0-9-]{0,24}|.{0,24}") {
            let _ = parse(&text);
        }
    }
}
