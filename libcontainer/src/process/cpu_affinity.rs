//! On which CPUs a process runs (sched_setaffinity(2)): `process.execCPUAffinity` for one that is executed in a container,
//! and for all others those of the cpuset, whatever the caller of the runtime is bound to.

use rustix::io::Errno;

use crate::error::{Doing, Result};
use crate::spec;
use masu_host::mask::Mask;
use masu_host::sys::scheduling::{affinity, set_affinity};

/// More CPUs than any kernel is built for, in words.
const ALL: [u64; 128] = [u64::MAX; 128];

/// Before and after the move into the container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CpuAffinity {
    /// Until then; the process is not cloned into the cgroup then, but moved.
    pub initial: Option<Mask>,
    pub finally: Final,
}

/// From the move on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Final {
    /// All CPUs of the cpuset: the mask of whoever called us (a kubelet pinned to two CPUs) is not the container's.
    #[default]
    All,
    /// What the kernel makes of the initial one.
    Left,
    Those(Mask),
}

impl CpuAffinity {
    /// An exec's.
    pub(crate) fn plan(affinity: &spec::CpuAffinity) -> Result<CpuAffinity> {
        let initial = Mask::parse(&affinity.initial).doing(|| "process.execCPUAffinity.initial: bad CPUAffinity.Initial")?;
        let finally = Mask::parse(&affinity.finally).doing(|| "process.execCPUAffinity.final: bad CPUAffinity.Final")?;
        let finally = match finally {
            Some(cpus) => Final::Those(cpus),
            None if initial.is_some() => Final::Left,
            None => Final::All,
        };
        Ok(CpuAffinity { initial, finally })
    }

    /// Takes on the final one, in the container's cgroup.
    pub(crate) fn apply(&self) -> Result<()> {
        match &self.finally {
            Final::Left => Ok(()),
            Final::Those(cpus) => set_affinity(cpus.words()).doing(|| "error setting final CPU affinity"),
            // the kernel takes of it what the cpuset allows
            Final::All => match set_affinity(&ALL) {
                // a cpuset without CPUs of ours, or a sandbox around us: then it stays as it was
                Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::NOSYS) => Ok(()),
                Err(e) => Err(e).doing(|| "reset the CPU affinity"),
            },
        }
    }
}

/// We run on other CPUs for a moment, so that a child is born there. Holds those that we had.
#[derive(Debug)]
pub(crate) struct Bound(Vec<u64>);

impl Bound {
    /// Goes there; back when it is dropped.
    pub(crate) fn to(cpus: &Mask) -> Result<Bound> {
        let own = Bound(affinity().doing(|| "find the own CPU affinity")?);
        set_affinity(cpus.words()).doing(|| "error setting initial CPU affinity")?;
        // in the words of runc's first stage, which its tests look for
        log::debug!("nsexec: affinity: 0x{:x}", cpus.words().first().unwrap_or(&0));
        Ok(own)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // the kernel took them from us, so it takes them back
        let _ = set_affinity(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(initial: &str, finally: &str) -> Result<CpuAffinity, String> {
        let json = serde_json::json!({"initial": initial, "final": finally});
        CpuAffinity::plan(&serde_json::from_value(json).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_asked_for_is_all_or_left() {
        let mask = |list| Mask::parse(list).unwrap().unwrap();
        assert_eq!(planned("", "").unwrap(), CpuAffinity::default());
        assert_eq!(planned("0-1", "").unwrap(), CpuAffinity { initial: Some(mask("0-1")), finally: Final::Left });
        assert_eq!(planned("", "3").unwrap(), CpuAffinity { initial: None, finally: Final::Those(mask("3")) });
    }

    #[test]
    fn bad_lists_are_refused() {
        assert!(planned("a", "").unwrap_err().starts_with("process.execCPUAffinity.initial: bad CPUAffinity.Initial: parsing \"a\""));
        assert!(planned("0", "2-1").unwrap_err().ends_with("bad CPUAffinity.Final: invalid range: 2-1"));
    }
}
