//! `--dry-run`: prints the plan of a container. It shows what the kernel would be told, not what config.json says.
//!
//! `describe.rs` turns a plan into a [`Page`], a tree of words. [`Page::text`] lays it out for people, and its `Serialize`
//! writes it as JSON.

mod describe;

use serde::{Serialize, Serializer};

use crate::outline::Outline;

/// The widest line, in bytes; a longer word has a line of its own.
const WIDTH: usize = 120;

/// A plan, ready to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page(Outline);

impl Page {
    /// The page as text for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Outline::Map(entries) = &self.0 {
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

/// Writes a line for each key and its value. A longer value is indented below its key, and an empty one is left out.
fn lay_out(entries: &[(&'static str, Outline)], depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let width = entries.iter().filter(|(_, value)| !value.is_empty()).map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
        match value {
            Outline::Map(inner) => {
                out.push_str(&format!("{indent}{key}\n"));
                lay_out(inner, depth + 1, out);
            }
            Outline::List(list) => {
                out.push_str(&format!("{indent}{key}\n"));
                for item in list {
                    out.push_str(&format!("{indent}  {}\n", line(item)));
                }
            }
            Outline::Words(words) if words.iter().map(|word| word.len() + 1).sum::<usize>() + indent.len() + width > WIDTH => {
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
fn line(value: &Outline) -> String {
    match value {
        Outline::Nothing => String::new(),
        Outline::Text(text) if text.contains(char::is_control) => format!("{text:?}"),
        Outline::Text(text) => text.clone(),
        Outline::Number(n) => n.to_string(),
        Outline::Negative(n) => n.to_string(),
        Outline::Switch(on) => if *on { "yes" } else { "no" }.to_owned(),
        Outline::Words(words) => words.join(" "),
        Outline::List(list) => list.iter().map(line).collect::<Vec<_>>().join(", "),
        // the first value names the item; a value that is off or empty is left out
        Outline::Map(entries) => {
            let mut parts = Vec::new();
            for (i, (key, value)) in entries.iter().enumerate() {
                match value {
                    Outline::Switch(false) => {}
                    Outline::Switch(true) => parts.push((*key).to_owned()),
                    value if value.is_empty() => {}
                    Outline::Words(words) => parts.push(format!("{key} {}", words.join(","))),
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
        let words = |list: &[&str]| Outline::Words(list.iter().map(|w| (*w).to_owned()).collect());
        let long: Vec<String> = (0..30).map(|n| format!("word{n:02}")).collect();
        let page = Page(Outline::Map(vec![
            ("id", Outline::Text("web".into())),
            (
                "process",
                Outline::Map(vec![
                    ("arguments", words(&["a", "b"])),
                    ("score", Outline::Negative(-5)),
                    ("none", Outline::Words(Vec::new())),
                ]),
            ),
            (
                "mounts",
                Outline::List(vec![Outline::Map(vec![
                    ("target", Outline::Text("/proc".into())),
                    ("read-only", Outline::Switch(true)),
                    ("recursive", Outline::Switch(false)),
                    ("attributes", words(&["nosuid", "nodev"])),
                    ("source", Outline::Text(String::new())),
                ])]),
            ),
            ("long", Outline::Words(long)),
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
    }
}
