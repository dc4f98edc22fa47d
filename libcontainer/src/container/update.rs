//! update: new limits for a container that exists.

use super::{Container, Status, lock};
use crate::cgroup::merge;
use crate::error::{Error, Result};
use crate::intel_rdt;
use crate::spec::Resources;

impl Container {
    /// Applies `resources` over those that the container has; what is absent stays as it is, and devices are never touched.
    /// On failure the old values are put back.
    pub fn update(&mut self, resources: &Resources) -> Result<()> {
        let _lock = lock::exclusive(self.dir.fd())?;
        if self.status()? == Status::Stopped {
            return Err(Error::wrong_status("container not running"));
        }
        let mut defaults = self.dir.defaults()?;
        let merged = merge(&defaults.resources, resources);
        self.cgroup()?.update(&merged)?;
        defaults.resources = merged;
        self.dir.write_defaults(&defaults)
    }

    /// [`Container::update`], and before it the container's share of the cache and of memory bandwidth: lines of its
    /// schemata, empty for none. All or nothing.
    pub fn update_with_intel_rdt(&mut self, resources: &Resources, cache: &str, bandwidth: &str) -> Result<()> {
        let group = self.record.intel_rdt.clone();
        let before = intel_rdt::update(group.as_ref(), &self.proc, cache, bandwidth)?;
        self.update(resources).inspect_err(|_| {
            if let Some(Err(e)) = group.map(|group| group.put_back(&before)) {
                log::warn!("setting back the Intel RDT configuration failed: {e}");
            }
        })
    }
}
