//! The floors of ARCHITECTURE.md: a room (a file or directory at the top of `src`) uses only rooms of its own floor or below. No
//! room uses itself through others.
//!
//! Each `crate::ROOM` outside comments and test modules counts. In a published package only the library is checked.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it is a test as a whole")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The floors of the library, the lowest first. masu-host is below them; the command and the shim are above.
const FLOORS: [&[&str]; 6] = [
    &["findings", "outline", "spec"],
    &["cgroup", "extensions", "hooks", "intel_rdt", "namespaces", "process", "rootfs", "seccomp"],
    &["plan"],
    &["launch"],
    &["check", "dry_run", "features"],
    &["container"],
];
/// Names at the top of a crate that are not rooms.
const NO_ROOMS: [&str; 2] = ["error", "is_emulated"];

/// For each room the rooms that it uses, each with the first place of use.
type Edges = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn the_library_has_floors() {
    let edges = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let mut wrong = circles(&edges);
    for (room, used) in &edges {
        let Some(own) = floor(room) else {
            wrong.push(format!("{room} has no floor: give it one in FLOORS"));
            continue;
        };
        for (other, place) in used {
            match floor(other) {
                Some(floor) if floor <= own => {}
                Some(floor) => wrong.push(format!("{place}: {room} (floor {own}) must not use {other} (floor {floor})")),
                None => wrong.push(format!("{place}: {other} has no floor")),
            }
        }
    }
    report("libcontainer", &edges, &wrong);
}

#[test]
fn the_callers_have_no_circles() {
    for caller in ["host", "../runtime", "../shim"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(caller).join("src");
        if source.is_dir() {
            let edges = read(&source);
            report(caller.trim_start_matches("../"), &edges, &circles(&edges));
        }
    }
}

/// Prints the numbers, and fails with one line for each fault.
fn report(name: &str, edges: &Edges, wrong: &[String]) {
    println!("{name}: {} rooms, {} edges, {} faults", edges.len(), edges.values().map(BTreeMap::len).sum::<usize>(), wrong.len());
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

/// Reads the edges of the crate with its sources in `source`.
fn read(source: &Path) -> Edges {
    let mut files = Vec::new();
    list(source, &mut files);
    let mut edges = Edges::new();
    for (name, text) in &files {
        let room = name.split(['/', '.']).next().unwrap_or_default();
        if !matches!(room, "lib" | "main") {
            edges.entry(room.to_owned()).or_default().extend(uses(name, text));
        }
    }
    let rooms: BTreeSet<String> = edges.keys().cloned().collect();
    for (room, used) in &mut edges {
        used.retain(|other, _| other != room && (rooms.contains(other) || !NO_ROOMS.contains(&other.as_str())));
    }
    edges
}

/// Lists the sources below `folder` with their relative paths, without files of tests.
fn list(folder: &Path, files: &mut Vec<(String, String)>) {
    fn walk(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{prefix}{name}");
            match entry.file_type().unwrap().is_dir() {
                true if name != "tests" => walk(&entry.path(), &format!("{path}/"), files),
                false if name.ends_with(".rs") && name != "tests.rs" => files.push((path, fs::read_to_string(entry.path()).unwrap())),
                _ => {}
            }
        }
    }
    walk(folder, "", files);
}

/// The names after `crate::` in one file, each with its first line.
fn uses(name: &str, text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    for (i, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default();
        for (at, _) in line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_')) {
            let rest = &line[at + "crate::".len()..];
            // `use crate::{a, b::c}` has several names
            let names = rest.strip_prefix('{').map_or(vec![rest], |list| list.split(['}']).next().unwrap_or_default().split(',').collect());
            for part in names {
                let word: String = part.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !word.is_empty() && word.starts_with(|c: char| c.is_lowercase()) {
                    found.entry(word).or_insert_with(|| format!("{name}:{}", i + 1));
                }
            }
        }
    }
    found
}

/// One line for each room that reaches itself.
fn circles(edges: &Edges) -> Vec<String> {
    let mut wrong = Vec::new();
    for start in edges.keys() {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<(&str, String)> = vec![(start, start.clone())];
        while let Some((room, way)) = todo.pop() {
            for (next, place) in edges.get(room).into_iter().flatten() {
                let way = format!("{way} -> {next} ({place})");
                if next == start {
                    wrong.push(format!("circle: {way}"));
                } else if seen.insert(next.as_str()) {
                    todo.push((next, way));
                }
            }
        }
    }
    wrong
}

#[test]
fn circles_and_lists_are_found() {
    let text = "use crate::{b, c::d};\n// crate::no\nlet x = crate::e::f(); masu_crate::g();\n#[cfg(test)]\nmod tests { use crate::h; }";
    let found = uses("a.rs", text);
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["b", "c", "e"]);
    assert_eq!(found["e"], "a.rs:3");
    let edge = |to: &str| BTreeMap::from([(to.to_owned(), "x.rs:1".to_owned())]);
    let edges = Edges::from([("a".into(), edge("b")), ("b".into(), edge("c")), ("c".into(), edge("a")), ("d".into(), edge("a"))]);
    assert_eq!(circles(&edges).len(), 3);
}
