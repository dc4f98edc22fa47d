//! The environment of a process (`process.env`). It is checked, and of equal names the last one wins.
//!
//! Some callers give ten thousand variables: a cluster sets several for each service. So the time is linear, and the text is
//! one piece of memory.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::findings::{Findings, Item};

/// Without PATH no directory is searched, as in Go.
const PATH: &str = "PATH";

/// The environment for execve(2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// Each variable ends with a NUL byte.
    text: Vec<u8>,
    /// HOME must be added in the container, from its passwd(5).
    pub home_is_missing: bool,
    /// The value of PATH, for an executable without a slash.
    pub search_path: Option<String>,
}

impl Environment {
    /// Checks the variables `list`, `NAME=value` each, and keeps the last one of each name, at its own position. It announces
    /// `listen_fds` descriptors after stderr.
    pub(super) fn plan(list: &[String], listen_fds: u32, found: &mut Findings) -> Environment {
        let size = list.iter().map(|entry| entry.len() + 1).sum();
        let mut environment = Environment { text: Vec::with_capacity(size), home_is_missing: true, search_path: None };
        let last = last_of_each(list);
        for (i, entry) in list.iter().enumerate() {
            // the value may be a secret, so only the name is printed
            let why = match entry.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    if last[i] {
                        environment.take(i, key, value, listen_fds, found);
                    }
                    continue;
                }
                Some(_) => "the name is empty",
                None => "missing '='",
            };
            found.invalid(Item("process.env", i), format!("process.env: invalid environment variable: {why}"));
        }
        if listen_fds > 0 {
            environment.push("LISTEN_FDS", &listen_fds.to_string());
            environment.push("LISTEN_PID", "1");
        }
        environment
    }

    fn take(&mut self, i: usize, key: &str, value: &str, listen_fds: u32, found: &mut Findings) {
        match key {
            PATH => self.search_path = Some(value.to_owned()),
            "HOME" if value.is_empty() => return,
            "HOME" => self.home_is_missing = false,
            "LISTEN_FDS" | "LISTEN_PID" if listen_fds > 0 => return,
            _ => {}
        }
        if key.contains('\0') || value.contains('\0') {
            let text = format!("process.env: invalid environment variable: {key:?} holds a NUL byte");
            found.invalid(Item("process.env", i), text);
            return;
        }
        self.push(key, value);
    }

    /// Sets one variable. Neither part may have a NUL byte.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let others = self.iter().filter(|entry| entry.to_bytes().split(|&b| b == b'=').next() != Some(key.as_bytes()));
        self.text = others.flat_map(CStr::to_bytes_with_nul).copied().collect();
        self.push(key, value);
    }

    fn push(&mut self, key: &str, value: &str) {
        for part in [key, "=", value, "\0"] {
            self.text.extend_from_slice(part.as_bytes());
        }
    }

    /// The variables, each as `NAME=value`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CStr> {
        let mut rest = self.text.as_slice();
        std::iter::from_fn(move || {
            let entry = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[entry.count_bytes() + 1..];
            Some(entry)
        })
    }
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// Whether each variable is the last one of its name. It fills a hash table from the end. The hash needs no random seed, because
/// names that collide slow down only the container of the same config.
fn last_of_each(list: &[String]) -> Vec<bool> {
    // a slot has an index of the list plus 1; 0 is a free slot
    let mut slots = vec![0; (list.len() * 2).next_power_of_two()];
    let mask = slots.len() - 1;
    let mut last = vec![false; list.len()];
    for (i, entry) in list.iter().enumerate().rev() {
        let name_of_entry = name(entry);
        let mut hasher = DefaultHasher::new();
        name_of_entry.hash(&mut hasher);
        let mut slot = hasher.finish() as usize & mask;
        last[i] = loop {
            match slots[slot] {
                0 => {
                    slots[slot] = i + 1;
                    break true;
                }
                other if name(&list[other - 1]) == name_of_entry => break false,
                _ => slot = (slot + 1) & mask,
            }
        };
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(list: &[&str], listen_fds: u32) -> Environment {
        let list: Vec<String> = list.iter().map(|entry| (*entry).to_owned()).collect();
        let mut found = Findings::new();
        let environment = Environment::plan(&list, listen_fds, &mut found);
        found.unless_wrong(environment).unwrap()
    }

    #[test]
    fn the_last_variable_wins() {
        let environment = plan(&["A=1", "B=2", "A=3=4", "HOME=", "PATH=/x"], 0);
        assert_eq!(environment.iter().collect::<Vec<_>>(), [c"B=2", c"A=3=4", c"PATH=/x"]);
        assert!(environment.home_is_missing);
        assert_eq!(environment.search_path.as_deref(), Some("/x"));
        assert_eq!(plan(&[], 0).iter().count(), 0);
    }

    #[test]
    fn descriptors_are_announced_by_us_alone() {
        let environment = plan(&["LISTEN_PID=9", "A=", "LISTEN_FDS=9"], 2);
        assert_eq!(environment.iter().collect::<Vec<_>>(), [c"A=", c"LISTEN_FDS=2", c"LISTEN_PID=1"]);
        assert_eq!(plan(&["LISTEN_FDS=9"], 0).iter().collect::<Vec<_>>(), [c"LISTEN_FDS=9"]);
    }

    #[test]
    fn one_is_set_in_the_place_of_another() {
        let mut environment = plan(&["A=1", "AB=2", "C=3"], 0);
        environment.set("A", "4");
        assert_eq!(environment.iter().collect::<Vec<_>>(), [c"AB=2", c"C=3", c"A=4"]);
    }

    #[test]
    fn ten_thousand_of_few_names() {
        let list: Vec<String> = (0..10_000).map(|i| format!("V{}={i}", i % 100)).collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let environment = plan(&list, 0);
        assert_eq!(environment.iter().count(), 100);
        assert_eq!(environment.iter().next(), Some(c"V0=9900"));
    }
}
