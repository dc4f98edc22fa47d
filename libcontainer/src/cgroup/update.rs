//! New limits for a running container.
//!
//! Runs in the runtime.

use super::settings::{self, Dir};
use super::{Cgroup, file, resources};
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::spec::{Memory, Resources};

impl Cgroup {
    /// Writes `resources`, which are [`merge`](super::merge)d already. Device rules stay as they are, for other programs may
    /// have changed them.
    ///
    /// # Errors
    /// As for creating; with `checkBeforeUpdate` on v2 also a memory limit that is not above what is in use. Then nothing
    /// is changed: values written before the one that was refused are put back.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let unified = self.is_unified();
        let mut found = Findings::new();
        let settings = if unified { resources::v2(resources, &mut found) } else { resources::v1(resources, &mut found) };
        let settings = found.unless_wrong(settings)?;
        if let Some(dir) = self.find("memory").filter(|d| d.v2) {
            check_memory(dir, &resources.memory)?;
        }
        settings::write_or_restore(&settings, &|controller| self.find(controller))
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
            return Err(Error::invalid(format!("rejecting {what} limit {limit} <= usage {usage}")));
        }
    }
    Ok(())
}
