//! `linux.timeOffsets`: the offsets of the clocks of a new time namespace from the host's clocks (time_namespaces(7)).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::AsFd;

use crate::error::{Doing, Error, Result};
use crate::namespaces::Namespaces;
use crate::spec::TimeOffset;
use masu_host::procfs::Procfs;
use masu_host::sys::namespace::{setns, unshare};

/// The text for `/proc/PID/timens_offsets`; empty without offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TimeOffsets(String);

impl TimeOffsets {
    /// Checks names and ranges, and that the container has a new time namespace.
    pub(crate) fn plan(offsets: &BTreeMap<String, TimeOffset>, namespaces: &Namespaces) -> Result<TimeOffsets> {
        if offsets.is_empty() {
            return Ok(TimeOffsets::default());
        }
        if !namespaces.has(libc::CLONE_NEWTIME) {
            return Err(Error::invalid(
                "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in the config",
            ));
        }
        if !namespaces.is_fresh(libc::CLONE_NEWTIME) {
            return Err(Error::invalid(
                "linux.timeOffsets: time namespace enabled, but both namespace path and time offsets specified -- you may only provide one",
            ));
        }
        let mut text = String::new();
        for (clock, TimeOffset { secs, nanosecs }) in offsets {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::invalid(format!(
                    "linux.timeOffsets: {clock:?} is neither \"monotonic\" nor \"boottime\": invalid argument"
                )));
            }
            if *nanosecs >= 1_000_000_000 {
                return Err(Error::invalid(format!(
                    "linux.timeOffsets.{clock}: {nanosecs} nanoseconds are a second or more: invalid argument"
                )));
            }
            // a write to a String cannot fail
            let _ = writeln!(text, "{clock} {secs} {nanosecs}");
        }
        Ok(TimeOffsets(text))
    }

    /// One line for each clock: name, seconds, nanoseconds.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Makes a time namespace with these offsets and enters it. It runs in init. unshare(2) makes it for later children, and
    /// while it is empty its offsets can be set. setns(2) then moves the caller itself into it, so no other process is needed.
    pub(crate) fn enter(&self, proc: &Procfs) -> Result<()> {
        unshare(libc::CLONE_NEWTIME).doing(|| "unshare the time namespace")?;
        if !self.0.is_empty() {
            let doing = || format!("failed to update /proc/self/timens_offsets to {:?}", self.0.trim_ascii_end());
            proc.write(&format!("{}/timens_offsets", proc.me()?), self.0.as_bytes()).doing(doing)?;
        }
        let namespace = proc.own_namespace("time_for_children")?;
        setns(namespace.as_fd(), libc::CLONE_NEWTIME).doing(|| "join the new time namespace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str, fresh: i32, joined: &[(i32, String)]) -> Result<TimeOffsets> {
        TimeOffsets::plan(&serde_json::from_str(json).unwrap(), &Namespaces { fresh, joined: joined.to_vec() })
    }

    #[test]
    fn offsets_are_written_a_line_each() {
        let text = plan(r#"{"monotonic":{"secs":-7,"nanosecs":5},"boottime":{"secs":9}}"#, libc::CLONE_NEWTIME, &[]).unwrap();
        assert_eq!(text.0, "boottime 9 0\nmonotonic -7 5\n");
        assert_eq!(plan("{}", 0, &[]).unwrap(), TimeOffsets::default());
    }

    #[test]
    fn bad_offsets_are_refused() {
        let path = [(libc::CLONE_NEWTIME, "/t".to_owned())];
        for (json, fresh, joined, text) in [
            (r#"{"monotonic":{"secs":1}}"#, 0, &[][..], "offsets specified, but time namespace isn't enabled"),
            (r#"{"monotonic":{"secs":1}}"#, 0, &path, "both namespace path and time offsets specified"),
            (r#"{"realtime":{"secs":1}}"#, libc::CLONE_NEWTIME, &[], "\"realtime\" is neither"),
            (r#"{"boottime":{"nanosecs":1000000000}}"#, libc::CLONE_NEWTIME, &[], "are a second or more"),
        ] {
            let e = plan(json, fresh, joined).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
        }
    }
}
