//! `process.capabilities`: the five capability sets (capabilities(7)).

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Doing, Result};
use crate::findings::Findings;
use crate::spec;

/// The names by number, from 0 (linux/capability.h). The last one is of kernel 5.9.
pub(crate) const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The sets as bit masks, bit n for capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

impl Sets {
    /// Turns names into masks. Unknown names are a warning, as in runc, because config.md says that they should not fail.
    pub(crate) fn plan(spec: &spec::Capabilities, found: &mut Findings) -> Sets {
        let mut unknown = Vec::new();
        let mut mask = |names: &[String]| {
            names.iter().fold(0, |mask, name| match NAMES.iter().position(|n| n == name) {
                Some(n) => mask | 1 << n,
                None => {
                    if !unknown.contains(name) {
                        unknown.push(name.clone());
                    }
                    mask
                }
            })
        };
        let sets = Sets {
            bounding: mask(&spec.bounding),
            effective: mask(&spec.effective),
            inheritable: mask(&spec.inheritable),
            permitted: mask(&spec.permitted),
            ambient: mask(&spec.ambient),
        };
        if !unknown.is_empty() {
            let text = format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" "));
            found.warn("process.capabilities", text);
        }
        sets
    }

    /// Drops all capabilities but `bounding` from the bounding set. It needs CAP_SETPCAP, so it runs before the ids change.
    pub(crate) fn apply_bounding(&self) -> Result<()> {
        for n in (0..64).filter(|n| self.bounding & (1 << n) == 0) {
            match rustix::thread::remove_capability_from_bounding_set(bit(n)) {
                Ok(()) => {}
                // the kernel's numbers have no gaps, so the first unknown one is the end
                Err(Errno::INVAL) => break,
                Err(e) => return Err(e).doing(|| format!("drop {} from the bounding set", name(n))),
            }
        }
        Ok(())
    }

    /// Sets the other four sets. It returns the ambient capabilities that could not be raised, because they are not inheritable
    /// or not permitted. runc only warns of them.
    pub(crate) fn apply(&self) -> Result<u64> {
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective),
            permitted: CapabilitySet::from_bits_retain(self.permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        };
        rustix::thread::set_capabilities(None, sets).doing(|| "unable to apply caps: can't apply capabilities")?;
        match rustix::thread::clear_ambient_capability_set() {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e).doing(|| "unable to apply caps: clear the ambient set"),
        }
        let mut refused = 0;
        for n in (0..NAMES.len()).filter(|n| self.ambient & (1 << n) != 0) {
            if rustix::thread::configure_capability_in_ambient_set(bit(n), true).is_err() {
                refused |= 1 << n;
            }
        }
        Ok(refused)
    }
}

fn bit(n: usize) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << n)
}

/// The name of capability `n`.
pub(crate) fn name(n: usize) -> &'static str {
    NAMES.get(n).copied().unwrap_or("unknown capability")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_the_kernel() {
        for (n, name) in NAMES.iter().enumerate() {
            let known = CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap()).unwrap();
            assert_eq!(known.bits(), 1 << n, "{name}");
        }
    }

    #[test]
    fn unknown_names_warn_once() {
        let spec: spec::Capabilities = serde_json::from_str(r#"{"bounding":["CAP_KILL","KILL"],"effective":["KILL","cap_kill"]}"#).unwrap();
        let mut found = Findings::new();
        assert_eq!(Sets::plan(&spec, &mut found), Sets { bounding: 1 << 5, ..Sets::default() });
        let texts: Vec<_> = found.list().iter().map(|f| f.text.as_str()).collect();
        assert_eq!(texts, ["ignoring unknown or unavailable capabilities: [KILL cap_kill]"]);
    }
}
