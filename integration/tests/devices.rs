//! Device nodes, the symbolic links of /dev, and the devices that the rules allow.

use std::fmt;

use anyhow::{Context, Result, ensure};
use integration::check;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

#[test]
fn default_devices_and_links() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let report = t.report(&mut bundle)?;
        let dev = &report["dev"];
        for (name, numbers) in [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")] {
            assert_eq!(dev[name], format!("c {numbers} 666 0:0"), "{name}");
        }
        for (name, target) in
            [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
        {
            assert_eq!(dev[name], format!("link {target}"), "{name}");
        }
        ensure!(dev["ptmx"] == "link pts/ptmx" || dev["ptmx"] == "link /dev/pts/ptmx", "{}", dev["ptmx"]);
        Ok(())
    });
}

#[test]
fn devices_of_the_config() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set(
            "/linux/devices",
            json!([
                {"path": "/dev/own/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/plain", "type": "c", "major": 1, "minor": 5},
                {"path": "/dev/blk", "type": "b", "major": 7, "minor": 9, "fileMode": 0o600},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
                {"path": "/outside", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
            ]),
        );
        bundle.args(["/bin/payload", "stat", "/dev/own/fuse", "/dev/plain", "/dev/blk", "/dev/pipe", "/outside"]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("/dev/own/fuse c 10:229 640 5:6"));
        ensure!(lines.next().is_some_and(|line| line.starts_with("/dev/plain c 1:5 ")), "{seen}");
        assert_eq!(lines.next(), Some("/dev/blk b 7:9 600 0:0"));
        assert_eq!(lines.next(), Some("/dev/pipe fifo 622 0:0"));
        assert_eq!(lines.next(), Some("/outside c 1:3 666 0:0"));
        Ok(())
    });
}

/// One rule of a list, or one access. `None` matches any number.
#[derive(Debug, Clone, Copy)]
struct Rule {
    allow: bool,
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
    access: &'static str,
}

impl Rule {
    fn json(self) -> Value {
        let mut rule = json!({"allow": self.allow, "access": self.access});
        if self.kind != 'a' {
            rule["type"] = json!(self.kind.to_string());
            rule["major"] = self.major.map_or(Value::Null, |n| json!(n));
            rule["minor"] = self.minor.map_or(Value::Null, |n| json!(n));
        }
        rule
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let sign = if self.allow { '+' } else { '-' };
        write!(f, "{sign}{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

const fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: &'static str) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// The rules that runtimes add to every list, as far as they concern the devices of this test.
const ALWAYS: [Rule; 3] = [allow('c', None, None, "m"), allow('b', None, None, "m"), allow('c', Some(10), Some(200), "rwm")];

/// The plain algorithm of cgroup v1 (security/device_cgroup.c): a default and exceptions to it. A rule adds an exception, or adds
/// or removes letters of one. If the default is to deny, one single exception must allow the whole access.
fn allowed(rules: &[Rule], kind: char, (major, minor): (u32, u32), access: &str) -> bool {
    let mut default = false;
    let mut exceptions: Vec<(char, Option<u32>, Option<u32>, String)> = Vec::new();
    for rule in rules.iter().chain(&ALWAYS) {
        if rule.kind == 'a' {
            (default, exceptions) = (rule.allow, Vec::new());
            continue;
        }
        let known = exceptions.iter_mut().find(|e| (e.0, e.1, e.2) == (rule.kind, rule.major, rule.minor));
        match (rule.allow == default, known) {
            (true, Some(e)) => e.3.retain(|letter| !rule.access.contains(letter)),
            (true, None) => {}
            (false, Some(e)) => e.3.push_str(rule.access),
            (false, None) => exceptions.push((rule.kind, rule.major, rule.minor, rule.access.to_owned())),
        }
    }
    let mut of = exceptions.iter().filter(|e| e.0 == kind && e.1.is_none_or(|n| n == major) && e.2.is_none_or(|n| n == minor));
    match default {
        true => !of.any(|e| access.chars().any(|letter| e.3.contains(letter))),
        false => of.any(|e| access.chars().all(|letter| e.3.contains(letter))),
    }
}

/// Device numbers without a driver, and one that is in every list. Most have a known major number, because for an unknown one the
/// kernel requests a module at each open.
const DEVICES: [(char, u32, u32); 6] = [('c', 1, 2), ('c', 1, 6), ('c', 1, 10), ('c', 10, 200), ('b', 241, 0), ('b', 241, 1)];

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let number = |list: &'static [u32]| prop::option::weighted(0.8, prop::sample::select(list));
    let kind = prop::sample::select(vec!['c', 'c', 'c', 'c', 'b', 'b', 'b', 'a']);
    let access = prop::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm"]);
    let rule = (any::<bool>(), kind, number(&[1, 10, 241]), number(&[0, 1, 2, 6, 10, 200]), access);
    let rule = rule.prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access });
    prop::collection::vec(rule, 0..7)
}

#[test]
fn random_rule_lists_are_in_force_as_cgroup_v1_has_them() {
    check(|t| {
        let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
        let (lists, mut ran) = (25, 0);
        for _ in 0..lists {
            let rules = any_rules().new_tree(&mut runner).map_err(|e| anyhow::anyhow!("{e}"))?.current();
            let told = rules.iter().map(Rule::to_string).collect::<Vec<_>>().join(", ");
            let mut bundle = t.bundle()?;
            bundle.set("/linux/resources/devices", Value::Array(rules.iter().map(|rule| rule.json()).collect()));
            let mut args = vec!["/bin/payload".to_owned()];
            for (kind, major, minor) in DEVICES {
                args.extend(
                    [&format!("access {kind} {major} {minor} /dev/node then")].iter().flat_map(|s| s.split(' ')).map(str::to_owned),
                );
            }
            bundle.args(args.iter().map(String::as_str).chain(["true"]));
            let output = t.run(&bundle)?;
            // a list that v1 cannot represent is refused, with the rule's text
            if !output.status.success() && output.stderr.contains("cannot punch hole in existing wildcard rule") {
                continue;
            }
            let seen = output.ok()?.stdout;
            ran += 1;
            let checked = check_access(&rules, &seen).with_context(|| format!("[{told}]"));
            if checked.is_err()
                && t.differs("crun", "adds no rules where the list begins by allowing all, and takes those of v2 in another order")
            {
                return Ok(());
            }
            checked?;
        }
        ensure!(ran > lists / 2, "only {ran} of {lists} lists are carried out");
        Ok(())
    });
}

fn check_access(rules: &[Rule], seen: &str) -> Result<()> {
    for (kind, major, minor) in DEVICES {
        for access in ["m", "r", "w", "rw"] {
            let start = format!("{kind} {major}:{minor} {access} ");
            let Some(answer) = seen.lines().find_map(|line| line.strip_prefix(&start)) else {
                ensure!(!allowed(rules, kind, (major, minor), "m"), "{start}was not tried: {seen}");
                continue;
            };
            let expected = allowed(rules, kind, (major, minor), access);
            ensure!((answer != "EPERM") == expected, "{start}is {answer}, and v1 says {expected}");
        }
    }
    Ok(())
}
