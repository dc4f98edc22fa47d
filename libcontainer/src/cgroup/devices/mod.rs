//! The devices that a container may make, read and write: the rules of config.json as lines for v1 or as a program for v2.
//!
//! Pure; runs in the runtime. config-linux.md, "Allowed Device List"; admin-guide/cgroup-v1/devices.rst. v1 defines the
//! meaning of the rules and of their order, so they are first applied here, one after the other. As in runc, a rule that v1
//! would silently ignore (a hole in a wildcard rule) is an error. GHSA-g54h-m393-cpwq: runc took a list of allowed devices
//! for a list of denied ones.

mod program;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::error::{Error, Result};
use crate::findings::{Findings, Item};
use crate::spec::DeviceRule;
use masu_host::sys::bpf::Instruction;

/// Bits of the kernel for the access of a rule (linux/bpf.h, BPF_DEVCG_ACC_*).
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// A kind of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// Devices and the access to them. `None` stands for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

/// Whether access is allowed by default, and the exceptions. No two exceptions have the same devices. Those of the config
/// come first, in its order, because `devices.list` shows this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) allow: bool,
    pub(super) exceptions: Vec<Exception>,
}

/// The access that every container has, as in runc: make any node, and use the harmless devices, terminals and /dev/net/tun
/// (too many programs rely on it).
const DEFAULTS: [Exception; 11] = [
    Exception { kind: Kind::Char, major: None, minor: None, access: MKNOD },
    Exception { kind: Kind::Block, major: None, minor: None, access: MKNOD },
    char(1, Some(3)),    // null
    char(1, Some(8)),    // random
    char(1, Some(7)),    // full
    char(5, Some(0)),    // tty
    char(1, Some(5)),    // zero
    char(1, Some(9)),    // urandom
    char(136, None),     // pts/*
    char(5, Some(2)),    // ptmx
    char(10, Some(200)), // net/tun
];

const fn char(major: u32, minor: Option<u32>) -> Exception {
    Exception { kind: Kind::Char, major: Some(major), minor, access: ALL }
}

impl Devices {
    /// Applies `rules` and then the defaults, starting with no access allowed.
    ///
    /// # Errors
    /// A rule of an unknown type or access, or one that v1 cannot carry out.
    pub(super) fn plan(rules: &[DeviceRule], found: &mut Findings) -> Devices {
        let mut devices = Devices { allow: false, exceptions: Vec::with_capacity(rules.len() + DEFAULTS.len()) };
        for (i, rule) in rules.iter().enumerate() {
            let at = Item("linux.resources.devices", i);
            found.at(at, devices.play(rule, i).map_err(|error| error.context(at)));
        }
        for exception in DEFAULTS {
            found.at("linux.resources.devices", devices.apply(exception, true));
        }
        devices
    }

    fn play(&mut self, rule: &DeviceRule, i: usize) -> Result<()> {
        let access = access(rule, i)?;
        let kind = match rule.kind.as_str() {
            // all devices and all access: the rest of the rule is ignored
            "" | "a" => {
                self.allow = rule.allow;
                self.exceptions.clear();
                return Ok(());
            }
            "b" => Kind::Block,
            "c" => Kind::Char,
            other => return Err(Error::invalid(format!("invalid cgroup device type {other:?}"))),
        };
        let exception = Exception { kind, major: number("major", rule.major, i)?, minor: number("minor", rule.minor, i)?, access };
        self.apply(exception, rule.allow)
    }

    /// The lines for `devices.allow` (`true`) or `devices.deny` that bring a v1 cgroup from any state into this one.
    pub(super) fn v1_lines(&self) -> impl Iterator<Item = (bool, String)> {
        let all = std::iter::once((self.allow, "a".to_owned()));
        all.chain(self.exceptions.iter().map(|e| (!self.allow, e.to_string())))
    }

    /// The lines that bring a v1 cgroup from this state into that of `to`. While the default is the same, no access is denied
    /// meanwhile that both states allow, and access that other programs allowed stays.
    pub(super) fn v1_changes(&self, to: &Devices) -> Vec<(bool, String)> {
        if self.allow != to.allow {
            return to.v1_lines().collect();
        }
        let missing = |from: &Devices, of: &Devices, allowed: bool| -> Vec<(bool, String)> {
            let rest = |e: &Exception| {
                let had = of.exceptions.iter().find(|x| x.same_devices(e)).map_or(0, |x| x.access);
                Exception { access: e.access & !had, ..*e }
            };
            from.exceptions.iter().map(rest).filter(|e| e.access != 0).map(|e| (allowed, e.to_string())).collect()
        };
        let (new, old) = (missing(to, self, !to.allow), missing(self, to, to.allow));
        if to.allow { [old, new].concat() } else { [new, old].concat() }
    }

    /// The program for v2. `None`: all access is allowed.
    ///
    /// # Errors
    /// If the rules do not fit into one program.
    pub(super) fn program(&self) -> Result<Option<Vec<Instruction>>> {
        if self.allow && self.exceptions.is_empty() { Ok(None) } else { program::compile(self).map(Some) }
    }

    fn apply(&mut self, e: Exception, allow: bool) -> Result<()> {
        if allow == self.allow {
            return self.remove(e);
        }
        self.add(e);
        Ok(())
    }

    fn add(&mut self, e: Exception) {
        match self.exceptions.iter_mut().find(|x| x.same_devices(&e)) {
            Some(x) => x.access |= e.access,
            None => self.exceptions.push(e),
        }
    }

    fn remove(&mut self, e: Exception) -> Result<()> {
        let wider = |x: &&Exception| x.kind == e.kind && !x.same_devices(&e) && x.covers(&e) && x.access & e.access != 0;
        if let Some(wide) = self.exceptions.iter().find(wider) {
            let doing = if self.allow { "unable to remove 'deny' exception" } else { "unable to remove 'allow' exception" };
            return Err(Error::invalid(format!(
                "{doing}: requested rule [{e}] not supported by devices cgroupv1 (cannot punch hole in existing wildcard rule [{wide}])"
            )));
        }
        if let Some(x) = self.exceptions.iter_mut().find(|x| x.same_devices(&e)) {
            x.access &= !e.access;
        }
        self.exceptions.retain(|x| x.access != 0);
        Ok(())
    }
}

impl Exception {
    fn same_devices(&self, other: &Exception) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn covers(&self, other: &Exception) -> bool {
        (self.major.is_none() || self.major == other.major) && (self.minor.is_none() || self.minor == other.minor)
    }
}

/// The form of the kernel's lists: `c 1:3 rwm`.
impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.kind == Kind::Char { "c " } else { "b " })?;
        for (number, end) in [(self.major, ":"), (self.minor, " ")] {
            match number {
                Some(n) => write!(f, "{n}{end}")?,
                None => write!(f, "*{end}")?,
            }
        }
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

fn access(rule: &DeviceRule, i: usize) -> Result<u8> {
    if rule.access.is_empty() {
        return Err(Error::invalid(format!("device access at {i} field cannot be empty")));
    }
    rule.access.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        // some callers write `a` for all access in a rule that denies; a rule that allows needs the letters
        'a' if !rule.allow => Ok(READ | WRITE | MKNOD),
        _ => Err(Error::invalid(format!("invalid cgroup device access {:?} at {i}", rule.access))),
    })
}

fn number(what: &str, n: Option<i64>, i: usize) -> Result<Option<u32>> {
    match n {
        // Go programs write -1 for "any"
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| Error::invalid(format!("invalid {what} {n} of cgroup device rule at {i}"))),
    }
}
