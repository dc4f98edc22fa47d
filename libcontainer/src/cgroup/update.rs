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

/// The old values, to undo an update.
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

/// The device rules after an update with `new`. A list that begins with a rule for all devices replaces the old one. Another
/// list is added to the `old` rules, without old rules for the same devices and access.
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
    /// Writes new limits; the device rules stay.
    ///
    /// # Errors
    /// As for [`Cgroup::create`]; also a memory limit that is not above the usage, with `checkBeforeUpdate` on v2. Then all
    /// old values are restored.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        self.change(Some((&Resources::default(), resources)), None).map(drop)
    }

    /// Changes limits and device rules; each pair has the old and the new state. The new limits are already
    /// [`merge`](super::merge)d, and their device rules are ignored. On v2, device rules change in one step. On v1, access
    /// that other programs allowed stays. systemd is told first, because it would write its old limits again.
    ///
    /// # Errors
    /// As for [`Cgroup::update`].
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
        // reads the files before systemd is told, because systemd writes them too
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

    /// Undoes an update; best effort, because the caller already has an error to report.
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

/// Refuses a limit that is not above the usage, because v2 would kill processes until the rest fits. v1 refuses it itself.
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
