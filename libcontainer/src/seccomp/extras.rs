//! The additions of crun's annotations `run.oci.seccomp...` to a profile.

use super::{AT, Filter, Instruction, Listener, plan_for, profile, raw, syscalls};
use crate::error::Error;
use crate::findings::{Findings, Item};
use crate::seccomp::Arch;
use crate::spec::Seccomp;
use masu_host::sys::seccomp::FLAG_NEW_LISTENER;

/// The values of the annotations; by default they add nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// The agent for a profile that names none.
    pub(crate) receiver: Option<String>,
    /// Whether the name of a call that no architecture has is an error.
    pub(crate) fail_unknown: bool,
    /// The program that replaces the profile.
    pub(crate) program: Option<Vec<Instruction>>,
}

/// Calls of architectures without a table in this program or in the crate `syscalls`.
const ELSEWHERE: &[&str] = &[
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "atomic_barrier",
    "atomic_cmpxchg_32",
    "bdflush",
    "breakpoint",
    "cachectl",
    "cacheflush",
    "get_tls",
    "getpagesize",
    "kern_features",
    "multiplexer",
    "or1k_atomic",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "riscv_flush_icache",
    "riscv_hwprobe",
    "rtas",
    "s390_guarded_storage",
    "s390_pci_mmio_read",
    "s390_pci_mmio_write",
    "s390_runtime_instr",
    "s390_sthyi",
    "set_tls",
    "spu_create",
    "spu_run",
    "subpage_prot",
    "swapcontext",
    "switch_endian",
    "sync_file_range2",
    "sys_debug_setcontext",
    "sysmips",
    "timerfd",
    "uretprobe",
    "usr26",
    "usr32",
    "utrap_install",
];

impl Extras {
    /// Decodes and checks the program of the annotation.
    pub(crate) fn set_program(&mut self, base64: &str) -> crate::error::Result<()> {
        self.program = Some(raw::program(base64)?);
        Ok(())
    }
}

/// Compiles the profile with the additions of the annotations.
pub(crate) fn plan(spec: Option<&Seccomp>, extras: &Extras, found: &mut Findings) -> Option<Filter> {
    if let Some(program) = &extras.program {
        let flags = profile::flags(spec.and_then(|spec| spec.flags.as_deref()), found);
        let named = spec.filter(|spec| !spec.listener_path.is_empty());
        let path = named.map(|spec| spec.listener_path.clone()).or_else(|| extras.receiver.clone());
        let metadata = spec.map(|spec| spec.listener_metadata.clone()).unwrap_or_default();
        let listener = path.map(|path| Listener { path, metadata });
        let flags = if listener.is_some() { flags | FLAG_NEW_LISTENER } else { flags };
        return Some(Filter { program: program.clone(), flags, listener });
    }
    let spec = spec?;
    if extras.fail_unknown {
        refuse_unknown(spec, found);
    }
    match &extras.receiver {
        Some(path) if spec.listener_path.is_empty() => {
            let named = Seccomp { listener_path: path.clone(), ..spec.clone() };
            plan_for(&named, Arch::NATIVE, found)
        }
        _ => plan_for(spec, Arch::NATIVE, found),
    }
}

fn refuse_unknown(spec: &Seccomp, found: &mut Findings) {
    let known = |name: &str| {
        Arch::ALL.iter().any(|arch| syscalls::number(*arch, name).is_some())
            || syscalls::multiplexed(name).is_some()
            || ELSEWHERE.contains(&name)
    };
    for (i, rule) in spec.syscalls.iter().enumerate() {
        for name in rule.names.iter().filter(|name| !known(name)) {
            let text = format!("unknown seccomp syscall {name:?} (run.oci.seccomp_fail_unknown_syscall)");
            found.wrong(Item("linux.seccomp.syscalls", i), Error::invalid(text).context(AT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(spec: serde_json::Value, extras: &Extras) -> Result<Option<Filter>, String> {
        let spec: Option<Seccomp> = serde_json::from_value(spec).unwrap();
        let mut found = Findings::new();
        let filter = plan(spec.as_ref(), extras, &mut found);
        found.unless_wrong(filter).map_err(|e| e.to_string())
    }

    #[test]
    fn unknown_names_are_refused_on_request_only() {
        let spec = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpid", "s390_sthyi", "recv"], "action": "SCMP_ACT_ERRNO"}, {"names": ["nosuch"], "action": "SCMP_ACT_ERRNO"},
        ]});
        assert!(planned(spec.clone(), &Extras::default()).unwrap().is_some());
        let e = planned(spec, &Extras { fail_unknown: true, ..Extras::default() }).unwrap_err();
        assert_eq!(e, "linux.seccomp: unknown seccomp syscall \"nosuch\" (run.oci.seccomp_fail_unknown_syscall)");
    }

    #[test]
    fn a_receiver_is_asked_where_the_profile_names_nobody() {
        let extras = Extras { receiver: Some("/r".into()), ..Extras::default() };
        let spec = |more: serde_json::Value| {
            let mut spec =
                serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let path = |more| planned(spec(more), &extras).unwrap().unwrap().listener.unwrap().path;
        assert_eq!(path(serde_json::json!({})), "/r");
        assert_eq!(path(serde_json::json!({"listenerPath": "/l"})), "/l");
        // no rule asks an agent, so there is none
        let quiet = planned(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"}), &extras).unwrap().unwrap();
        assert_eq!(quiet.listener, None);
    }

    #[test]
    fn a_program_stands_in_for_the_profile() {
        let mut extras = Extras::default();
        extras.set_program(if cfg!(target_endian = "little") { "BgAAAAAA/38=" } else { "AAYAAH//AAA=" }).unwrap();
        for spec in [serde_json::Value::Null, serde_json::json!({"defaultAction": "SCMP_ACT_KILL"})] {
            let filter = planned(spec, &extras).unwrap().unwrap();
            assert_eq!((filter.program.len(), filter.program[0].k, filter.listener), (1, 0x7fff_0000, None));
        }
        extras.receiver = Some("/r".into());
        let filter = planned(serde_json::json!({"flags": []}), &extras).unwrap().unwrap();
        assert_eq!((filter.flags, filter.listener.unwrap().path.as_str()), (FLAG_NEW_LISTENER, "/r"));
    }
}
