//! `linux.memoryPolicy`: the NUMA nodes that memory comes from (set_mempolicy(2)).

use crate::error::{Doing, Error, Result};
use crate::spec;
use masu_host::mask::Mask;

/// The modes by number (linux/mempolicy.h).
pub(crate) const MODES: [&str; 7] =
    ["MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"];

/// The flags by bit, from bit 13.
pub(crate) const FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

const FIRST_FLAG: usize = 13;

/// The mode with the flags, and the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    pub mode: u32,
    pub nodes: Option<Mask>,
}

/// Checks the policy as runc does.
pub(crate) fn plan(policy: &spec::MemoryPolicy) -> Result<MemoryPolicy> {
    let invalid = |text: String| Error::invalid(format!("linux.memoryPolicy: {text}"));
    let name = policy.mode.as_str();
    let number = MODES.iter().position(|mode| *mode == name).ok_or_else(|| invalid(format!("invalid memory policy mode {name:?}")))?;
    let nodes = Mask::parse(&policy.nodes).map_err(|e| invalid(format!("invalid memory policy nodes {:?}: {e}", policy.nodes)))?;
    let mut mode = number as u32;
    for flag in &policy.flags {
        let bit = FLAGS.iter().position(|name| name == flag).ok_or_else(|| invalid(format!("invalid memory policy flag {flag:?}")))?;
        mode |= 1 << (FIRST_FLAG + bit);
    }
    let count = nodes.as_ref().map_or(0, Mask::count);
    match name {
        "MPOL_DEFAULT" | "MPOL_LOCAL" if count != 0 => Err(invalid(format!("memory policy mode requires 0 nodes but got {count}"))),
        // without nodes the kernel prefers the nearest one
        "MPOL_DEFAULT" | "MPOL_LOCAL" | "MPOL_PREFERRED" => Ok(MemoryPolicy { mode, nodes }),
        _ if count == 0 => Err(invalid("memory policy mode requires at least one node but got 0".into())),
        _ => Ok(MemoryPolicy { mode, nodes }),
    }
}

/// Sets the policy, which execve(2) keeps. It runs before the seccomp filter, which may forbid the call.
pub(crate) fn apply(policy: &MemoryPolicy) -> Result<()> {
    let nodes = policy.nodes.as_ref().map_or(&[][..], Mask::words);
    masu_host::sys::scheduling::set_memory_policy(policy.mode, nodes).doing(|| "set_mempolicy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(mode: &str, nodes: &str, flags: &[&str]) -> Result<MemoryPolicy, String> {
        let json = serde_json::json!({"mode": mode, "nodes": nodes, "flags": flags});
        plan(&serde_json::from_value(json).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn by_number() {
        let policy = planned("MPOL_BIND", "0,2", &["MPOL_F_STATIC_NODES"]).unwrap();
        assert_eq!((policy.mode, policy.nodes.unwrap().words()), (2 | 1 << 15, &[5][..]));
        assert_eq!(planned("MPOL_PREFERRED", "", &["MPOL_F_RELATIVE_NODES"]).unwrap(), MemoryPolicy { mode: 1 | 1 << 14, nodes: None });
        assert_eq!(planned("MPOL_WEIGHTED_INTERLEAVE", "0", &["MPOL_F_NUMA_BALANCING"]).unwrap().mode, 6 | 1 << 13);
        assert_eq!(planned("MPOL_DEFAULT", "", &[]).unwrap().mode, 0);
    }

    #[test]
    fn bad_ones_are_refused() {
        for (mode, nodes, flags, text) in [
            ("", "0", &[][..], "invalid memory policy mode \"\""),
            ("INTERLEAVE", "0", &[], "invalid memory policy mode \"INTERLEAVE\""),
            ("MPOL_BIND", "0-9876543210", &[], "invalid memory policy nodes \"0-9876543210\": values larger than"),
            ("MPOL_BIND", "", &[], "requires at least one node but got 0"),
            ("MPOL_LOCAL", "1", &[], "memory policy mode requires 0 nodes but got 1"),
            ("MPOL_DEFAULT", "0-7", &[], "memory policy mode requires 0 nodes but got 8"),
            ("MPOL_BIND", "0", &["MPOL_F_RELATIVE_NODES", "badflag"], "invalid memory policy flag \"badflag\""),
        ] {
            let e = planned(mode, nodes, flags).unwrap_err();
            assert!(e.contains(text), "{mode}: {e}");
        }
    }
}
