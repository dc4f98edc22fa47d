//! `events`: statistics and out-of-memory events of a container, one JSON object a line (runc's form).

use std::time::Duration;

use anyhow::Result;
use libcontainer::cgroup::OomNotice;
use libcontainer::container::{Container, Status};
use libcontainer::error::{self, Doing, Error, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::call::Call;

#[derive(Debug, Serialize)]
struct Event<'a, T: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let interval = call.args.text("interval").map_or(Ok(Duration::from_secs(5)), interval)?;
    let container = call.container()?;
    if matches!(container.status()?, Status::Stopped) {
        return Err(Error::wrong_status(format!("container with id {} is not running", container.record().id)).into());
    }
    if call.args.on("stats") {
        print_stats(&container)?;
    } else {
        watch(&container, interval)?;
    }
    Ok(0)
}

/// Until the container stops.
fn watch(container: &Container, interval: Duration) -> Result<()> {
    let mut oom = match container.oom_events() {
        Err(e) if e.kind() == Kind::Unsupported => {
            log::warn!("no notices of memory running out: {e}");
            None
        }
        result => Some(result?),
    };
    let mut due = now() + interval;
    loop {
        let left = due.saturating_sub(now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<_> = oom.iter().map(|oom| PollFd::new(oom, PollFlags::IN | PollFlags::PRI)).collect();
        let ready = match poll(&mut fds, Some(&timeout)) {
            Ok(n) => n > 0,
            Err(Errno::INTR) => continue,
            Err(e) => return Ok(Err(e).doing(|| "wait for events")?),
        };
        if let Some(oom) = oom.as_mut().filter(|_| ready) {
            match oom.read()? {
                OomNotice::Oom => super::print_json(&Event::<()> { kind: "oom", id: &container.record().id, data: None })?,
                OomNotice::Ended => return Ok(()),
                OomNotice::Nothing => {}
            }
        }
        if now() >= due {
            due += interval;
            if matches!(container.status()?, Status::Stopped) {
                return Ok(());
            }
            print_stats(container)?;
        }
    }
}

fn print_stats(container: &Container) -> Result<()> {
    super::print_json(&Event { kind: "stats", id: &container.record().id, data: Some(container.stats()?) })
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn interval(text: &str) -> error::Result<Duration> {
    let nanoseconds = duration(text).ok_or_else(|| Error::invalid(format!("invalid value \"{text}\" for flag -interval: no duration")))?;
    match u64::try_from(nanoseconds) {
        Ok(n) if n > 0 => Ok(Duration::from_nanos(n)),
        _ => Err(Error::invalid("duration interval must be greater than 0")),
    }
}

/// `1h2m3.5s`, `100ms`, `-1s`, `0`: nanoseconds, as Go's time.ParseDuration reads them.
fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let number: f64 = number.parse().ok()?;
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        sum += number * UNITS.iter().find(|(name, _)| *name == unit)?.1;
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    (sum < 9e18).then_some((sign * sum) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, n) in [
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1m30s", 90_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("7ns", 7),
            ("0", 0),
            ("-1s", -1_000_000_000),
            ("+2s", 2_000_000_000),
        ] {
            assert_eq!(duration(text), Some(n), "{text}");
        }
        for text in ["", "5", "s", "5x", "5 s", ".s", "1..5s", "-", "5s3", "9999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(interval("0s").unwrap_err().text(), "duration interval must be greater than 0");
        assert_eq!(interval("-1s").unwrap_err().text(), "duration interval must be greater than 0");
        assert_eq!(interval("5").unwrap_err().text(), "invalid value \"5\" for flag -interval: no duration");
    }

    #[test]
    fn an_event_is_one_line() {
        let event = Event::<()> { kind: "oom", id: "web", data: None };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"oom","id":"web"}"#);
        let event = Event { kind: "stats", id: "web", data: Some([1]) };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"stats","id":"web","data":[1]}"#);
    }
}
