//! crun's annotations `run.oci.*`, with crun's meaning, so that configs written for crun work alike.
//!
//! They are read here, and carried out by the features that they belong to. Two are read elsewhere:
//! `run.oci.mount_context_type` in `rootfs/`, and `run.oci.systemd.subgroup` in `cgroup/systemd/`.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::findings::Findings;
use crate::hooks::Output;
use crate::seccomp::Extras;

/// The values of the annotations; by default they change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// `keep_original_groups`: the process keeps the supplementary groups of the caller, in exec too.
    pub keep_groups: bool,
    /// `pidfd_receiver`: the path of a unix socket that gets a pidfd of init.
    pub pidfd_receiver: Option<String>,
    /// `hooks.stdout`, `hooks.stderr`.
    pub hook_output: Output,
    /// `delegate-cgroup`: a cgroup below the container's own, which the program may manage.
    pub delegate_cgroup: Option<String>,
    pub(crate) seccomp: Extras,
}

/// The handlers that mean a plain process.
const PLAIN: [&str; 4] = ["", "crun", "masu", "runc"];

impl Extensions {
    /// Reads the annotations. `receiver` is the agent for seccomp notifications if no annotation names one; crun reads it
    /// from its environment.
    pub(crate) fn plan(annotations: &BTreeMap<String, String>, receiver: Option<&str>, found: &mut Findings) -> Extensions {
        let mut plan = Extensions::default();
        plan.set_receiver("RUN_OCI_SECCOMP_RECEIVER", receiver, found);
        for (key, value) in annotations.range("run.oci.".to_owned()..).take_while(|(key, _)| key.starts_with("run.oci.")) {
            let at = format!("annotations.{key}");
            let unsupported = |why: &str| Error::unsupported(format!("annotations: {key}: {why}"));
            match key.trim_start_matches("run.oci.") {
                "keep_original_groups" => plan.keep_groups = value != "0",
                "pidfd_receiver" => plan.pidfd_receiver = Some(value.clone()),
                "hooks.stdout" => plan.hook_output.stdout = Some(value.clone()),
                "hooks.stderr" => plan.hook_output.stderr = Some(value.clone()),
                "delegate-cgroup" if value.split('/').any(|part| part == "..") || value.contains('\0') => {
                    found.invalid(at, format!("annotations: {key}: invalid `..` component in delegate-cgroup {value:?}"));
                }
                "delegate-cgroup" => plan.delegate_cgroup = Some(value.trim_matches('/').to_owned()).filter(|path| !path.is_empty()),
                "seccomp.receiver" => plan.set_receiver(key, Some(value), found),
                "seccomp_fail_unknown_syscall" => plan.seccomp.fail_unknown = value != "0",
                "seccomp_bpf_data" => _ = found.at(at, plan.seccomp.set_program(value)),
                "seccomp.plugins" => found.wrong(at, unsupported("plugins of seccomp are libraries, and masu loads none")),
                "systemd.force_cgroup_v1" => found.wrong(at, unsupported("a hierarchy of cgroup v1 on a host of v2 is not supported")),
                "handler" => plan.check_handler(value, annotations, found),
                _ => {}
            }
        }
        plan
    }

    fn set_receiver(&mut self, name: &str, path: Option<&str>, found: &mut Findings) {
        let Some(path) = path else { return };
        if !path.starts_with('/') {
            found.invalid(name, format!("the seccomp receiver {path:?} is not an absolute path"));
        }
        self.seccomp.receiver = Some(path.to_owned());
    }

    /// Refuses the handlers that are other runtimes, such as a virtual machine or an engine for WebAssembly. The first
    /// container of a pod is accepted with any handler, because it is always a process.
    fn check_handler(&self, name: &str, annotations: &BTreeMap<String, String>, found: &mut Findings) {
        let sandbox = annotations.get("io.kubernetes.cri.container-type").is_some_and(|kind| kind == "sandbox");
        if !sandbox && !PLAIN.contains(&name) {
            let text = format!("annotations: run.oci.handler: handler {name:?} is not supported: masu runs containers as processes");
            found.wrong("annotations.run.oci.handler", Error::unsupported(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(list: &[(&str, &str)]) -> Result<Extensions, String> {
        let annotations = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut found = Findings::new();
        let plan = Extensions::plan(&annotations, None, &mut found);
        found.unless_wrong(plan).map_err(|e| e.to_string())
    }

    #[test]
    fn each_is_read() {
        let plan = planned(&[
            ("run.oci.keep_original_groups", "1"),
            ("run.oci.pidfd_receiver", "/p"),
            ("run.oci.hooks.stdout", "/o"),
            ("run.oci.delegate-cgroup", "/a/b/"),
            ("run.oci.seccomp.receiver", "/s"),
            ("run.oci.seccomp_fail_unknown_syscall", "yes"),
            ("run.oci.systemd.subgroup", "x"),
            ("run.oci.handler", "crun"),
            ("run.ocx", "handler"),
        ])
        .unwrap();
        assert!(plan.keep_groups && plan.seccomp.fail_unknown);
        assert_eq!((plan.pidfd_receiver.as_deref(), plan.delegate_cgroup.as_deref()), (Some("/p"), Some("a/b")));
        assert_eq!((plan.hook_output.stdout.as_deref(), plan.hook_output.stderr.as_deref()), (Some("/o"), None));
        assert_eq!(plan.seccomp.receiver.as_deref(), Some("/s"));
        let off = [("run.oci.keep_original_groups", "0"), ("run.oci.seccomp_fail_unknown_syscall", "0"), ("run.oci.delegate-cgroup", "")];
        assert_eq!(planned(&off).unwrap(), Extensions::default());
        assert_eq!(planned(&[]).unwrap(), Extensions::default());
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for (key, value, text) in [
            ("handler", "krun", "handler \"krun\" is not supported"),
            ("handler", "wasm", "handler \"wasm\" is not supported"),
            ("seccomp.plugins", "/x.so", "run.oci.seccomp.plugins: plugins of seccomp"),
            ("seccomp.receiver", "x", "the seccomp receiver \"x\" is not an absolute path"),
            ("seccomp_bpf_data", "x", "run.oci.seccomp_bpf_data: it is not base64"),
            ("systemd.force_cgroup_v1", "/sys/fs/cgroup", "cgroup v1 on a host of v2"),
            ("delegate-cgroup", "a/../b", "invalid `..` component in delegate-cgroup"),
        ] {
            let e = planned(&[(&format!("run.oci.{key}"), value)]).unwrap_err();
            assert!(e.contains(text), "{key}: {e}");
        }
        let sandbox = [("run.oci.handler", "wasm"), ("io.kubernetes.cri.container-type", "sandbox")];
        planned(&sandbox).unwrap();
    }
}
