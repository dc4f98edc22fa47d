//! `--dry-run`: the plan of a container, printed. It is what the kernel would be told, not what config.json says.
//!
//! A plan becomes a tree of words ([`Page`], made in `describe.rs`), which is laid out as a page to read ([`Page::text`])
//! or written as JSON (it is `Serialize`).

mod describe;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The widest line, in characters; a longer word stands on a line of its own.
const WIDTH: usize = 120;

/// A part of the print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// Nothing of the kind: `null`, and no line on the page.
    Nothing,
    Text(String),
    Number(u64),
    Negative(i64),
    Switch(bool),
    /// Words that stand beside each other.
    Words(Vec<String>),
    /// Parts that stand below each other.
    List(Vec<Node>),
    Map(Vec<(&'static str, Node)>),
}

/// A plan, printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page(Node);

impl Page {
    /// As a page for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Node::Map(entries) = &self.0 {
            lay_out(entries, 0, &mut out);
        }
        out
    }
}

impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Nothing => serializer.serialize_none(),
            Node::Text(text) => serializer.serialize_str(text),
            Node::Number(n) => serializer.serialize_u64(*n),
            Node::Negative(n) => serializer.serialize_i64(*n),
            Node::Switch(on) => serializer.serialize_bool(*on),
            Node::Words(words) => serializer.collect_seq(words),
            Node::List(list) => serializer.collect_seq(list),
            Node::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(&name(key), value)?;
                }
                map.end()
            }
        }
    }
}

/// The key of an object of JSON: `no new privileges` is `noNewPrivileges`.
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

impl Node {
    fn is_empty(&self) -> bool {
        match self {
            Node::Nothing => true,
            Node::Text(text) => text.is_empty(),
            Node::Words(words) => words.is_empty(),
            Node::List(list) => list.is_empty(),
            Node::Map(entries) => entries.iter().all(|(_, value)| value.is_empty()),
            Node::Number(_) | Node::Negative(_) | Node::Switch(_) => false,
        }
    }
}

/// A key and its value a line, with what is longer indented below its key. What is empty is left out.
fn lay_out(entries: &[(&'static str, Node)], depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let width = entries.iter().filter(|(_, value)| !value.is_empty()).map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
        match value {
            Node::Map(inner) => {
                out.push_str(&format!("{indent}{key}\n"));
                lay_out(inner, depth + 1, out);
            }
            Node::List(list) => {
                out.push_str(&format!("{indent}{key}\n"));
                for item in list {
                    out.push_str(&format!("{indent}  {}\n", line(item)));
                }
            }
            Node::Words(words) if words.iter().map(|word| word.len() + 1).sum::<usize>() + indent.len() + width > WIDTH => {
                let mut text = format!("{indent}{key:width$} ");
                let margin = text.len();
                let mut column = margin;
                for word in words {
                    if column + 1 + word.len() > WIDTH && column > margin {
                        text.push_str(&format!("\n{}", " ".repeat(margin)));
                        column = margin;
                    }
                    text.push_str(&format!(" {word}"));
                    column += 1 + word.len();
                }
                out.push_str(&format!("{text}\n"));
            }
            value => out.push_str(&format!("{indent}{key:width$}  {}\n", line(value))),
        }
    }
}

/// A value on one line.
fn line(value: &Node) -> String {
    match value {
        Node::Nothing => String::new(),
        Node::Text(text) if text.contains(char::is_control) => format!("{text:?}"),
        Node::Text(text) => text.clone(),
        Node::Number(n) => n.to_string(),
        Node::Negative(n) => n.to_string(),
        Node::Switch(on) => if *on { "yes" } else { "no" }.to_owned(),
        Node::Words(words) => words.join(" "),
        Node::List(list) => list.iter().map(line).collect::<Vec<_>>().join(", "),
        // the first names it; what is off, empty or nothing is left out
        Node::Map(entries) => {
            let mut parts = Vec::new();
            for (i, (key, value)) in entries.iter().enumerate() {
                match value {
                    Node::Switch(false) => {}
                    Node::Switch(true) => parts.push((*key).to_owned()),
                    value if value.is_empty() => {}
                    Node::Words(words) => parts.push(format!("{key} {}", words.join(","))),
                    value if i == 0 => parts.push(line(value)),
                    value => parts.push(format!("{key} {}", line(value))),
                }
            }
            parts.join("  ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_and_its_json() {
        let words = |list: &[&str]| Node::Words(list.iter().map(|w| (*w).to_owned()).collect());
        let long: Vec<String> = (0..30).map(|n| format!("word{n:02}")).collect();
        let page = Page(Node::Map(vec![
            ("id", Node::Text("web".into())),
            (
                "process",
                Node::Map(vec![("arguments", words(&["a", "b"])), ("score", Node::Negative(-5)), ("none", Node::Words(Vec::new()))]),
            ),
            (
                "mounts",
                Node::List(vec![Node::Map(vec![
                    ("target", Node::Text("/proc".into())),
                    ("read-only", Node::Switch(true)),
                    ("recursive", Node::Switch(false)),
                    ("attributes", words(&["nosuid", "nodev"])),
                    ("source", Node::Text(String::new())),
                ])]),
            ),
            ("long", Node::Words(long)),
        ]));
        let text = page.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..6],
            ["id       web", "process", "  arguments  a b", "  score      -5", "mounts", "  /proc  read-only  attributes nosuid,nodev",]
        );
        assert!(lines[6].starts_with("long     word00 word01") && lines[7].starts_with("         word"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
        let json = serde_json::to_value(&page).unwrap();
        assert_eq!(json["mounts"][0]["readOnly"], true);
        assert_eq!(json["process"]["score"], -5);
        assert_eq!((name("no new privileges"), name("/dev/core")), ("noNewPrivileges".into(), "devCore".into()));
    }
}
