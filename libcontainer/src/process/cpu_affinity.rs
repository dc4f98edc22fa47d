//! The CPU affinity of a process (sched_setaffinity(2)). `process.execCPUAffinity` is for a process of exec. All other processes
//! get the CPUs of their cpuset, whatever the affinity of the runtime's caller.

use rustix::io::Errno;

use crate::error::{Doing, Result};
use crate::spec;
use masu_host::mask::Mask;
use masu_host::sys::scheduling::{affinity, set_affinity};

/// A mask of more CPUs than any kernel supports.
const ALL: [u64; 128] = [u64::MAX; 128];

/// The affinity before and after the move into the container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CpuAffinity {
    /// The affinity until the move. With it, the process is moved into the cgroup instead of cloned into it.
    pub initial: Option<Mask>,
    pub finally: Final,
}

/// The affinity after the move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Final {
    /// All CPUs of the cpuset, because the caller's affinity (a kubelet pinned to two CPUs) is not the container's.
    #[default]
    All,
    /// Unchanged: the kernel derives it from the initial affinity.
    Left,
    Those(Mask),
}

impl CpuAffinity {
    /// The affinity of a process of exec.
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

    /// Sets the final affinity. The caller is in the container's cgroup.
    pub(crate) fn apply(&self) -> Result<()> {
        match &self.finally {
            Final::Left => Ok(()),
            Final::Those(cpus) => set_affinity(cpus.words()).doing(|| "error setting final CPU affinity"),
            // the kernel ignores CPUs outside the cpuset
            Final::All => match set_affinity(&ALL) {
                // no CPU of the cpuset can be used, or a sandbox forbids the call: the affinity stays
                Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::NOSYS) => Ok(()),
                Err(e) => Err(e).doing(|| "reset the CPU affinity"),
            },
        }
    }
}

/// Binds the caller to other CPUs until the drop, so that a child starts there. It holds the caller's own CPUs.
#[derive(Debug)]
pub(crate) struct Bound(Vec<u64>);

impl Bound {
    /// Binds the caller to `cpus`.
    pub(crate) fn to(cpus: &Mask) -> Result<Bound> {
        let own = Bound(affinity().doing(|| "find the own CPU affinity")?);
        set_affinity(cpus.words()).doing(|| "error setting initial CPU affinity")?;
        // the text of runc's first stage, which runc's tests look for
        log::debug!("nsexec: affinity: 0x{:x}", cpus.words().first().unwrap_or(&0));
        Ok(own)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // the kernel had these CPUs before, so it accepts them
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
