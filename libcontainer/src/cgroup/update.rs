//! New limits for a running container.
//!
//! Runs in the runtime.

use super::devices::Devices;
use super::resources::{self, Setting};
use super::settings::{self, Before, Dir};
use super::systemd::{self, Change};
use super::v2::Swap;
use super::{Cgroup, file, v1, v2};
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::spec::{DeviceRule, Memory, Resources};

/// How to take an update back.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    limits: Before,
    devices: Option<Rules>,
    unit: Option<Change>,
}

/// The device rules before and after, and on v2 the programs.
#[derive(Debug)]
struct Rules {
    from: Devices,
    to: Devices,
    swap: Option<Swap>,
}

/// The rules after an update with `new`: those that begin with one for all devices stand for themselves, others come after
/// the `old` ones, of which those for the same devices and access are forgotten.
pub(crate) fn merge_rules(old: &[DeviceRule], new: &[DeviceRule]) -> Vec<DeviceRule> {
    let mut rules = Vec::with_capacity(old.len() + new.len());
    if !new.first().is_some_and(|r| matches!(r.kind.as_str(), "" | "a")) {
        let same = |a: &DeviceRule, b: &DeviceRule| (&a.kind, a.major, a.minor, &a.access) == (&b.kind, b.major, b.minor, &b.access);
        rules.extend(old.iter().filter(|r| !new.iter().any(|n| same(r, n))).cloned());
    }
    rules.extend_from_slice(new);
    rules
}

impl Cgroup {
    /// `change` of limits alone.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        self.change(Some((&Resources::default(), resources)), None).map(drop)
    }

    /// Writes the second of `limits`, which is [`merge`](super::merge)d already, except device rules; and changes the device
    /// rules from the first to the second list of `rules`, in one step on v2. On v1 what other programs allowed stays allowed.
    /// A unit's systemd is told before: what it does not know is the limit that it would write again.
    ///
    /// # Errors
    /// As for creating; with `checkBeforeUpdate` on v2 also a memory limit that is not above what is in use. Then nothing
    /// is changed: values written before the one that was refused are put back.
    pub(crate) fn change(&self, limits: Option<(&Resources, &Resources)>, rules: Option<(&[DeviceRule], &[DeviceRule])>) -> Result<Undo> {
        let mut found = Findings::new();
        let devices = rules.map(|(from, to)| (Devices::plan(from, &mut Findings::new()), Devices::plan(to, &mut found)));
        let settings = limits.map(|(_, new)| self.plan_limits(new, &mut found));
        let (settings, devices) = found.unless_wrong((settings, devices))?;
        let devices = devices.filter(|(from, to)| from != to);
        if let Some(dir) = self.find("memory").filter(|d| d.v2)
            && let Some((_, new)) = limits
        {
            check_memory(dir, &new.memory)?;
        }
        let find = |controller: &str| self.find(controller);
        // systemd writes the same files: what they say is read before it is told
        let mut undo = Undo { limits: settings::before(settings.as_deref().unwrap_or_default(), &find), ..Undo::default() };
        if let Some(unit) = &self.unit {
            undo.unit = Some(unit.change(limits, devices.as_ref().map(|(from, to)| (from, to)))?);
        }
        let done = self.write(settings.as_deref(), devices, &mut undo);
        if let Err(e) = done {
            self.take_back(&undo);
            return Err(e);
        }
        Ok(undo)
    }

    fn plan_limits(&self, resources: &Resources, found: &mut Findings) -> Vec<Setting> {
        match &self.unit {
            Some(_) => resources::v2(&systemd::countable(resources), found),
            None if self.is_unified() => resources::v2(resources, found),
            None => resources::v1(resources, found),
        }
    }

    fn write(&self, settings: Option<&[Setting]>, devices: Option<(Devices, Devices)>, undo: &mut Undo) -> Result<()> {
        if let Some(settings) = settings {
            settings::write(settings, &|controller| self.find(controller))?;
        }
        if let Some((from, to)) = devices {
            let swap = self.change_devices(&from, &to)?;
            undo.devices = Some(Rules { from, to, swap });
        }
        Ok(())
    }

    /// Undoes an update; best effort, for there is an error to report already.
    pub(crate) fn take_back(&self, undo: &Undo) {
        if let Some(Rules { from, to, swap }) = &undo.devices
            && let Some(dir) = self.find("devices")
        {
            let _ = match swap {
                Some(swap) => swap.undo(dir),
                None => v1::change_devices(dir, to, from),
            };
        }
        if let Some(change) = &undo.unit {
            change.undo();
        }
        undo.limits.restore(&|controller| self.find(controller));
    }

    fn change_devices(&self, from: &Devices, to: &Devices) -> Result<Option<Swap>> {
        match self.find("devices") {
            Some(dir) if dir.v2 => v2::change_devices(dir, from, to).map(Some),
            Some(dir) => v1::change_devices(dir, from, to).map(|()| None),
            None => Err(Error::unsupported("linux.resources.devices: the container has no cgroup for devices")),
        }
    }
}

/// v2 would kill processes until the rest fits; v1 refuses by itself.
fn check_memory(dir: Dir<'_>, memory: &Memory) -> Result<()> {
    let Some(usage) = memory
        .check_before_update
        .filter(|check| *check)
        .and_then(|_| file::read_short(dir.fd, "memory.current").ok()?.trim().parse::<u64>().ok())
    else {
        return Ok(());
    };
    for (what, limit) in [("memory+swap", memory.swap), ("memory", memory.limit)] {
        if let Some(limit) = limit.filter(|l| *l > 0)
            && limit.cast_unsigned() <= usage
        {
            let at = if what == "memory" { "limit" } else { "swap" };
            return Err(Error::invalid(format!("linux.resources.memory.{at}: rejecting {what} limit {limit} <= usage {usage}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_added_or_stand_for_themselves() {
        let rule = |text: &str| -> DeviceRule { serde_json::from_str(text).unwrap() };
        let none = rule(r#"{"allow":false,"access":"rwm"}"#);
        let tun = |allow| rule(&format!(r#"{{"allow":{allow},"type":"c","major":10,"minor":200,"access":"rwm"}}"#));
        let fuse = rule(r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}"#);
        let old = [none.clone(), tun(true)];
        assert_eq!(merge_rules(&old, std::slice::from_ref(&fuse)), [none.clone(), tun(true), fuse.clone()]);
        assert_eq!(
            merge_rules(&old, &[tun(false), fuse.clone()]),
            [none.clone(), tun(false), fuse.clone()],
            "the list does not grow for ever"
        );
        assert_eq!(merge_rules(&old, &[none.clone(), fuse.clone()]), [none, fuse]);
    }
}
