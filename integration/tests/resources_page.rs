//! Checks docs/resources.md: each row names a test that exists, and each property of `linux.resources` has a row.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The sources in which a test of `file` may be. `file` is a path of the project, or a file of `integration/tests` with its
/// modules.
fn sources(file: &str) -> String {
    let tests = root().join("integration/tests");
    let mut paths = if file.contains('/') { vec![root().join(file)] } else { vec![tests.join(format!("{file}.rs"))] };
    paths.extend(fs::read_dir(tests.join(file)).into_iter().flatten().flatten().map(|entry| entry.path()));
    paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_row_has_a_test_that_exists() {
    let page = read("docs/resources.md");
    let mut wrong = Vec::new();
    for row in rows(&page) {
        assert_eq!(row.len(), 5, "{row:?}");
        let tests: Vec<&str> = row[4].split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            wrong.push(format!("no test: {}", row[0]));
        }
        for name in tests {
            match name.split_once("::") {
                Some((file, test)) if sources(file).contains(&format!("fn {test}(")) => {}
                _ => wrong.push(format!("no test {name}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_property_has_a_row() {
    let page = read("docs/resources.md");
    let firsts: String = rows(&page).iter().map(|row| row[0].to_owned() + "\n").collect();
    // the names of the config's objects, from the parser's source
    let spec = read("libcontainer/src/spec/resources.rs");
    let (mut object, mut wrong, mut seen) = ("", Vec::new(), 0);
    let prefixes = [("Memory", "memory."), ("Cpu", "cpu."), ("Pids", "pids."), ("BlockIo", "blockIO."), ("Network", "network.")];
    for line in spec.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            object = name;
        }
        let Some(name) = line.strip_prefix('"').and_then(|rest| rest.split_once("\" =>")).map(|(name, _)| name) else { continue };
        let wanted = match prefixes.iter().find(|(of, _)| *of == object) {
            Some((_, prefix)) => format!("`{prefix}{name}`"),
            None if object == "Resources" && !prefixes.iter().any(|(_, prefix)| prefix.trim_end_matches('.') == name) => {
                format!("`{name}`")
            }
            None => continue,
        };
        seen += 1;
        if !firsts.contains(&wanted) {
            wrong.push(wanted);
        }
    }
    assert!(seen > 25, "{seen} properties");
    assert!(wrong.is_empty(), "no row of {}", wrong.join(", "));
}
