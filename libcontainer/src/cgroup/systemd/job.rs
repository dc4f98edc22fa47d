//! Makes, changes and stops a scope: calls systemd's manager, and waits for the queued jobs.
//!
//! Runs in the runtime. org.freedesktop.systemd1(5), "The Manager Object".

use super::properties::Property;
use super::{Scope, Unit};
use crate::error::{Doing, Error, Kind, Result};
use masu_host::dbus::Value;
use masu_host::dbus::{Bus, Failure};

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// The error for a property that this systemd does not know, or does not set on such a unit.
const READ_ONLY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";
const INVALID: &str = "org.freedesktop.DBus.Error.InvalidArgs";

/// Makes the scope around process `pid`. `is_inside` tells whether the process is in the scope's cgroup, because nothing else
/// tells it after a restart of systemd.
///
/// # Errors
/// systemd's text. A failed unit of that name is reset, and the call repeated once.
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
                // runc's text
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
            // after re-executing itself, systemd may still run the earlier job, or let it fail because it has forgotten the
            // process
            Err(Failure::Refused(error, _)) if error == UNIT_EXISTS && (!cleared || interrupted && bus.pause()) => {
                cleared = true;
                let _ = bus.call("ResetFailedUnit", &[Value::text(&**name)]);
            }
            Err(Failure::Refused(error, text)) => drop_unknown(&mut properties, error, text)?,
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Returns the result of the job.
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

/// Changes properties of a running unit, until it ends or the machine is rebooted.
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

/// Stops a unit whose processes are dead, and waits until it is gone. A unit that does not exist is no error. `is_gone` tells
/// whether the directory of the unit is gone.
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
    // otherwise a failed unit would stay as such
    bus.tell("ResetFailedUnit", &[Value::text(name)])?;
    let job = bus.call("StopUnit", &[Value::text(name), Value::text("replace")])?.first_text()?;
    let result = bus.wait_job(&job, is_gone)?;
    if result != "done" {
        log::warn!("error removing unit `{name}`: got `{result}`");
        bus.call("ResetFailedUnit", &[Value::text(name)])?;
    }
    Ok(())
}

/// Drops the limit that systemd refuses as unknown or out of range: older versions know fewer limits, and the kernel judges
/// the value in the file.
///
/// # Errors
/// The refusal, if it names no limit.
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
