//! update: new limits for a container that exists.

use super::{Container, Status, lock};
use crate::cgroup::merge;
use crate::error::{Error, Result};
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
}
