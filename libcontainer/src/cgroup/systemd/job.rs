//! A scope is made, changed, stopped: calls of systemd's manager, and the jobs that they queue.
//!
//! Runs in the runtime. org.freedesktop.systemd1(5), "The Manager Object".

use super::properties::Property;
use super::{Scope, Unit};
use crate::error::{Doing, Error, Kind, Result};
use masu_host::dbus::Value;
use masu_host::dbus::{Bus, Failure};

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// A property that this systemd does not know, or does not let be set on such a unit.
const READ_ONLY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";
const INVALID: &str = "org.freedesktop.DBus.Error.InvalidArgs";

/// Makes the scope around process `pid`. `is_inside` tells whether the process is in the scope's cgroup: that is how it is
/// known after systemd was restarted in the midst of it.
///
/// # Errors
/// systemd's own words. A unit of that name which failed is cleared, and it is tried once more.
pub(in crate::cgroup) fn start(bus: &mut Bus, scope: &Scope, pid: i32, is_inside: &dyn Fn() -> Result<bool>) -> Result<()> {
    let name = &scope.unit.name;
    bus.begin();
    start_once_more(bus, scope, pid, is_inside).doing(|| format!("unable to start unit {name:?}"))
}

fn start_once_more(bus: &mut Bus, scope: &Scope, pid: i32, is_inside: &dyn Fn() -> Result<bool>) -> Result<()> {
    let name = &scope.unit.name;
    let mut properties = scope.properties.clone();
    let pids = Value::array("u", [Value::U32(pid.cast_unsigned())]);
    properties.push(Property::required("PIDs", pids));
    let (mut cleared, mut interrupted) = (false, false);
    loop {
        match start_with(bus, name, &properties, &|| is_inside().unwrap_or(false)) {
            Ok(result) if result == "done" => return Ok(()),
            Ok(result) => {
                let _ = bus.call("ResetFailedUnit", &[Value::text(&**name)]);
                // runc's words
                return Err(Error::new(Kind::Os, format!("error creating systemd unit `{name}`: got `{result}`")));
            }
            Err(Failure::Closed) => {
                interrupted = true;
                bus.reconnect()?;
                if is_inside()? {
                    return Ok(());
                }
            }
            Err(Failure::Refused(error, _)) if error == UNIT_EXISTS && is_inside()? => return Ok(()),
            // a systemd that executed itself anew may still be about the job that it was given before, or have it fail, as it
            // has forgotten for which process it was
            Err(Failure::Refused(error, _)) if error == UNIT_EXISTS && (!cleared || interrupted && bus.pause()) => {
                cleared = true;
                let _ = bus.call("ResetFailedUnit", &[Value::text(&**name)]);
            }
            Err(Failure::Refused(error, text)) => drop_unknown(&mut properties, error, text)?,
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Returns how the job ended.
fn start_with(bus: &mut Bus, name: &str, properties: &[Property], is_done: &dyn Fn() -> bool) -> Result<String, Failure> {
    bus.watch_jobs(name)?;
    let arguments = [
        Value::text(name),
        Value::text("replace"),
        Value::array("(sv)", properties.iter().map(Property::argument)),
        Value::array("(sa(sv))", []),
    ];
    let job = bus.call("StartTransientUnit", &arguments)?.first_text()?;
    bus.wait_job(&job, is_done)
}

/// Changes limits of a unit that runs, until it ends or the machine is booted anew.
pub(in crate::cgroup) fn set(bus: &mut Bus, unit: &Unit, properties: &[Property]) -> Result<()> {
    let doing = || format!("unable to set properties of unit {:?}", unit.name);
    let mut properties = properties.to_vec();
    bus.begin();
    while !properties.is_empty() {
        let list = Value::array("(sv)", properties.iter().map(Property::argument));
        match bus.call("SetUnitProperties", &[Value::text(&*unit.name), Value::Bool(true), list]) {
            Ok(_) => break,
            Err(Failure::Closed) => bus.reconnect().doing(doing)?,
            Err(Failure::Refused(error, text)) => drop_unknown(&mut properties, error, text).doing(doing)?,
            Err(failure) => return Err(Error::from(failure).context(doing())),
        }
    }
    Ok(())
}

/// Stops a unit whose processes are dead, and waits until it is gone. One that is gone is fine. `is_gone` tells whether its
/// directory is.
pub(in crate::cgroup) fn stop(bus: &mut Bus, unit: &Unit, is_gone: &dyn Fn() -> bool) -> Result<()> {
    bus.begin();
    loop {
        match stop_once(bus, &unit.name, is_gone) {
            Ok(()) => return Ok(()),
            Err(Failure::Refused(error, _)) if error == NO_SUCH_UNIT => return Ok(()),
            Err(Failure::Closed) => bus.reconnect()?,
            Err(failure) => return Err(Error::from(failure).context(format!("unable to stop unit {:?}", unit.name))),
        }
    }
}

fn stop_once(bus: &mut Bus, name: &str, is_gone: &dyn Fn() -> bool) -> Result<(), Failure> {
    bus.watch_jobs(name)?;
    // one that had failed would else stay as a failed unit
    bus.tell("ResetFailedUnit", &[Value::text(name)])?;
    let job = bus.call("StopUnit", &[Value::text(name), Value::text("replace")])?.first_text()?;
    let result = bus.wait_job(&job, is_gone)?;
    if result != "done" {
        log::warn!("error removing unit `{name}`: got `{result}`");
        bus.call("ResetFailedUnit", &[Value::text(name)])?;
    }
    Ok(())
}

/// Leaves out the limit that this systemd refuses as unknown or as out of range: an older one knows fewer, and what is written
/// to the file is the kernel's to judge.
fn drop_unknown(properties: &mut Vec<Property>, error: String, text: String) -> Result<()> {
    if error == READ_ONLY || error == INVALID {
        let names = |p: &Property| {
            text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == p.name || word.strip_suffix('=') == Some(&p.name))
        };
        if let Some(i) = properties.iter().position(|p| !p.required && names(p)) {
            let property = properties.remove(i);
            log::debug!("systemd does not take {}: {text}; it is written to its file", property.name);
            return Ok(());
        }
    }
    Err(Failure::Refused(error, text).into())
}
