//! A description of a plan: a tree of named values. Each plan describes itself in this form, and `--dry-run` prints it as a
//! page or as JSON.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// A part of the description of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outline {
    /// No value: `null` in JSON, and no line on the page.
    Nothing,
    Text(String),
    Number(u64),
    Negative(i64),
    Switch(bool),
    /// Words on one line.
    Words(Vec<String>),
    /// Parts below each other.
    List(Vec<Outline>),
    Map(Vec<(&'static str, Outline)>),
}

impl Serialize for Outline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Outline::Nothing => serializer.serialize_none(),
            Outline::Text(text) => serializer.serialize_str(text),
            Outline::Number(n) => serializer.serialize_u64(*n),
            Outline::Negative(n) => serializer.serialize_i64(*n),
            Outline::Switch(on) => serializer.serialize_bool(*on),
            Outline::Words(words) => serializer.collect_seq(words),
            Outline::List(list) => serializer.collect_seq(list),
            Outline::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(&name(key), value)?;
                }
                map.end()
            }
        }
    }
}

/// The key in JSON: `no new privileges` becomes `noNewPrivileges`.
fn name(key: &str) -> String {
    let mut parts = key.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(1);
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
    }
    name
}

impl Outline {
    /// Whether there is nothing to print.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Outline::Nothing => true,
            Outline::Text(text) => text.is_empty(),
            Outline::Words(words) => words.is_empty(),
            Outline::List(list) => list.is_empty(),
            Outline::Map(entries) => entries.iter().all(|(_, value)| value.is_empty()),
            Outline::Number(_) | Outline::Negative(_) | Outline::Switch(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_json_are_in_camel_case() {
        assert_eq!((name("no new privileges"), name("/dev/core")), ("noNewPrivileges".into(), "devCore".into()));
    }
}
