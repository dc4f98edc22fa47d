//! update: new limits, device rules, nodes and mounts for a container that exists; all of them or none.

use super::live::LivePlan;
use super::{Container, Status};
use crate::cgroup::{merge, merge_rules};
use crate::error::{Error, Result};
use crate::intel_rdt;
use crate::spec::{LiveChanges, Resources};

impl Container {
    /// Applies `resources` over those that the container has; what is absent stays as it is. On failure the old values are
    /// put back. Device rules are changed where `resources` has any; see [`Container::update_live`].
    pub fn update(&mut self, resources: &Resources) -> Result<()> {
        self.update_live(resources, &LiveChanges::default())
    }

    /// The same, and changes mounts and device nodes of the running container.
    ///
    /// Device rules are played after those in force; a list that begins with a rule for all devices replaces them. A list
    /// that is the config's own is no change: engines send it along with new limits. A node, `changes.devices[i]` with a
    /// path, is made or removed as `resources.devices[i]` allows or denies it.
    pub fn update_live(&mut self, resources: &Resources, changes: &LiveChanges) -> Result<()> {
        let dir = self.dir.lock()?;
        if matches!(self.status()?, Status::Stopped | Status::Creating) {
            return Err(Error::wrong_status("container not running"));
        }

        // plan
        let mut defaults = dir.defaults()?;
        let live = LivePlan::plan(changes, &resources.devices, &self.record)?;
        let limits = Resources { devices: Vec::new(), ..resources.clone() };
        // mounts or rules alone write no limit that somebody else may have changed
        let limits = (limits != Resources::default() || (live.is_empty() && resources.devices.is_empty()))
            .then(|| merge(&defaults.resources, &limits));
        let rules = (!resources.devices.is_empty() && resources.devices != defaults.resources.devices).then(|| {
            let old = defaults.devices.clone().unwrap_or_else(|| defaults.resources.devices.clone());
            let new = merge_rules(&old, &resources.devices);
            (old, new)
        });
        let live = if live.is_empty() { None } else { Some(self.prepare(live)?) };

        // apply
        let cgroup = self.cgroup()?;
        let before = defaults.clone();
        let undo = cgroup.change(
            limits.as_ref().map(|new| (&before.resources, new)),
            rules.as_ref().map(|(old, new)| (old.as_slice(), new.as_slice())),
        )?;
        let changed = limits.is_some() || rules.is_some();
        defaults.resources = limits.unwrap_or(defaults.resources);
        defaults.devices = rules.map(|(_, new)| new).or(defaults.devices);
        let written = if changed { dir.write_defaults(&defaults) } else { Ok(()) };
        let done = written.and_then(|()| live.map_or(Ok(()), |live| live.apply(&self.proc)));
        if done.is_err() {
            cgroup.take_back(&undo);
            if changed {
                // the error to report is the one that brought us here
                let _ = dir.write_defaults(&before);
            }
        }
        done
    }

    /// [`Container::update_live`], and before it the container's share of the cache and of memory bandwidth: lines of its
    /// schemata, empty for none. All or nothing.
    pub fn update_with_intel_rdt(&mut self, resources: &Resources, changes: &LiveChanges, cache: &str, bandwidth: &str) -> Result<()> {
        let group = self.record.intel_rdt.clone();
        let before = intel_rdt::update(group.as_ref(), &self.proc, cache, bandwidth)?;
        self.update_live(resources, changes).inspect_err(|_| {
            if let Some(Err(e)) = group.map(|group| group.put_back(&before)) {
                log::warn!("setting back the Intel RDT configuration failed: {e}");
            }
        })
    }
}
