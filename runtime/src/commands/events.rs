//! `events`: prints statistics and notices of a container, one JSON object a line, in runc's format.

use std::time::Duration;

use anyhow::Result;
use libcontainer::cgroup::{OomEvents, OomNotice, PressureAlarm, Threshold, Victim};
use libcontainer::container::{Container, Status};
use libcontainer::error::{self, Doing, Error, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::duration::interval;
use crate::call::Call;

#[derive(Debug, Serialize)]
struct Event<'a, T: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    /// The resource of a pressure notice: `cpu`, `memory` or `io`.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
    /// The processes that the OOM killer ended, if the kernel's log names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    victims: Vec<Victim>,
}

impl<'a, T: Serialize> Event<'a, T> {
    fn new(kind: &'a str, id: &'a str, data: Option<T>) -> Event<'a, T> {
        Event { kind, id, resource: None, data, victims: Vec::new() }
    }
}

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let every = call.args.text("interval").map_or(Ok(Duration::from_secs(5)), |text| interval("interval", text))?;
    let thresholds = call.args.each("pressure").iter().map(|text| threshold(text)).collect::<error::Result<Vec<_>>>()?;
    let container = call.container()?;
    if matches!(container.status()?, Status::Stopped) {
        return Err(Error::wrong_status(format!("container with id {} is not running", container.record().id)).into());
    }
    if call.args.on("stats") {
        print_stats(&container)?;
    } else {
        let watched = watch(&container, every, thresholds);
        // the container may stop and be deleted at any moment
        if watched.is_err() && container.status().map_or(true, |status| status == Status::Stopped) {
            return Ok(0);
        }
        watched?;
    }
    Ok(0)
}

/// Prints events until the container stops.
fn watch(container: &Container, every: Duration, thresholds: Vec<Threshold>) -> Result<()> {
    let alarms = thresholds.into_iter().map(|t| container.pressure_alarm(t)).collect::<error::Result<Vec<_>>>()?;
    let mut oom = match container.oom_events_with_victims() {
        Err(e) if e.kind() == Kind::Unsupported => {
            log::warn!("no notices of memory running out: {e}");
            None
        }
        result => Some(result?),
    };
    let mut due = now() + every;
    loop {
        let left = due.saturating_sub(now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<_> = alarms.iter().map(|alarm| PollFd::new(alarm, PollFlags::PRI)).collect();
        fds.extend(oom.iter().map(|oom| PollFd::new(oom, PollFlags::IN | PollFlags::PRI)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Ok(Err(e).doing(|| "wait for events")?),
        }
        let woken: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        for (alarm, flags) in alarms.iter().zip(&woken) {
            if flags.contains(PollFlags::ERR) {
                // the cgroup was removed, so the container is gone too
                return Ok(());
            }
            if flags.contains(PollFlags::PRI) {
                print_pressure(container, alarm)?;
            }
        }
        if let Some(oom) = oom.as_mut().filter(|_| woken.get(alarms.len()).is_some_and(|flags| !flags.is_empty()))
            && !print_oom(container, oom)?
        {
            return Ok(());
        }
        if now() >= due {
            due += every;
            if matches!(container.status()?, Status::Stopped) {
                return Ok(());
            }
            print_stats(container)?;
        }
    }
}

/// Returns `false` when no further notice can come.
fn print_oom(container: &Container, oom: &mut OomEvents) -> Result<bool> {
    match oom.read()? {
        OomNotice::Oom => {
            let id = &container.record().id;
            // exactly runc's line, because callers match it; the victims come in a line of their own
            super::print_json(&Event::<()>::new("oom", id, None))?;
            let victims = oom.victims();
            if !victims.is_empty() {
                super::print_json(&Event { victims, ..Event::<()>::new("oom_kill", id, None) })?;
            }
            Ok(true)
        }
        OomNotice::Ended => Ok(false),
        OomNotice::Nothing => Ok(true),
    }
}

fn print_pressure(container: &Container, alarm: &PressureAlarm) -> Result<()> {
    let event = Event::new("pressure", &container.record().id, Some(alarm.pressure()?));
    super::print_json(&Event { resource: Some(&alarm.threshold.resource), ..event })
}

pub(super) fn print_stats(container: &Container) -> Result<()> {
    super::print_json(&Event::new("stats", &container.record().id, Some(container.stats()?)))
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Parses `memory:some:150ms/2s`: the resource, `some` or all (`full`) processes, the stall time within a window.
fn threshold(text: &str) -> error::Result<Threshold> {
    let bad = || {
        Error::invalid(format!(
            "invalid value \"{text}\" for flag -pressure: not RESOURCE:some|full:STALL/WINDOW, as in memory:some:150ms/2s"
        ))
    };
    let (resource, rest) = text.split_once(':').ok_or_else(bad)?;
    let (kind, times) = rest.split_once(':').ok_or_else(bad)?;
    let (stall, window) = times.split_once('/').ok_or_else(bad)?;
    if !matches!(resource, "cpu" | "memory" | "io") || !matches!(kind, "some" | "full") {
        return Err(bad());
    }
    let time = |text| interval("pressure", text);
    Ok(Threshold { resource: resource.into(), full: kind == "full", stall: time(stall)?, window: time(window)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let t = threshold("memory:some:150ms/2s").unwrap();
        assert_eq!((t.resource.as_str(), t.full, t.to_string().as_str()), ("memory", false, "some 150000 2000000"));
        assert_eq!(threshold("io:full:1ms/500ms").unwrap().to_string(), "full 1000 500000");
        for text in
            ["", "memory", "memory:some", "memory:some:1s", "disk:some:1s/2s", "memory:any:1s/2s", "memory:some:x/2s", "memory:some:0s/2s"]
        {
            let line = threshold(text).unwrap_err();
            assert!(line.text().contains("pressure"), "{line}");
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let event = Event::<()>::new("oom", "web", None);
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"oom","id":"web"}"#);
        let victims = vec![Victim { pid: 7, name: "sh".into() }];
        let line = serde_json::to_string(&Event { victims, ..Event::<()>::new("oom_kill", "web", None) }).unwrap();
        assert_eq!(line, r#"{"type":"oom_kill","id":"web","victims":[{"pid":7,"name":"sh"}]}"#);
        let event = Event::new("stats", "web", Some([1]));
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"stats","id":"web","data":[1]}"#);
        let line = serde_json::to_string(&Event { resource: Some("io"), ..Event::new("pressure", "web", Some([1])) }).unwrap();
        assert_eq!(line, r#"{"type":"pressure","id":"web","resource":"io","data":[1]}"#);
    }
}
