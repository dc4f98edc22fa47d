//! The plan of a container: each feature's plan in order, then the checks that span features.
//!
//! A plan is what the kernel will be told. Making a plan has no side effects and needs no privilege, so a bad config fails
//! before there is anything to clean up. The child follows the plan, and does not read the config.

use std::collections::BTreeMap;
use std::ffi::CString;

use crate::cgroup::{CgroupPlan, Driver, Instance, Layout};
use crate::error::{Error, Kind, Result};
use crate::extensions::Extensions;
use crate::findings::Findings;
use crate::hooks::Hooks;
use crate::intel_rdt::IntelRdt;
use crate::namespaces::Namespaces;
use crate::namespaces::UserNamespace;
use crate::namespaces::net_devices::NetDevices;
use crate::namespaces::sysctl::Sysctls;
use crate::namespaces::time_offsets::TimeOffsets;
use crate::process::ProcessPlan;
use crate::process::cpu_affinity::CpuAffinity;
use crate::process::memory_policy;
use crate::process::personality;
use crate::rootfs::{MountPlan, Operation, RootfsPlan};
use crate::seccomp;
use crate::spec::{self, Spec, State};

/// The longest host and domain name (sethostname(2)).
const MAX_HOSTNAME: usize = 64;

/// The options of the caller, besides config.json.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choices {
    /// The instance of systemd that makes the cgroup, if one does.
    pub(crate) systemd: Option<Instance>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// The config may lack `process`. The container can be created then, but not started.
    pub process_optional: bool,
    pub listen_fds: u32,
    pub preserve_fds: u32,
    /// The directory of the host to bind at /run/notify. It has the socket that NOTIFY_SOCKET will name.
    pub notify_dir: Option<String>,
    /// The agent for seccomp notifications if the config names none.
    pub seccomp_receiver: Option<String>,
}

/// The plan of a container.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub id: String,
    pub bundle: String,
    pub annotations: BTreeMap<String, String>,
    pub namespaces: Namespaces,
    pub time_offsets: TimeOffsets,
    pub net_devices: NetDevices,
    pub intel_rdt: Option<IntelRdt>,
    pub user_namespace: Option<UserNamespace>,
    /// Whether the container may manage the cgroups below its own. It may if it has a user namespace, a new cgroup namespace
    /// and a writable mount of its cgroup.
    pub delegates_cgroup: bool,
    pub cgroup: CgroupPlan,
    pub rootfs: RootfsPlan,
    pub hostname: String,
    pub domainname: String,
    pub sysctls: Sysctls,
    pub keyring: Option<CString>,
    pub hooks: Hooks,
    pub extensions: Extensions,
    pub process: ProcessPlan,
}

impl Plan {
    /// Plans container `id` of the config `spec` in the bundle `bundle` (an absolute path). Moves the annotations out of
    /// `spec` without a copy, because they may be a megabyte. If `found` has an error, the plan is incomplete.
    pub(crate) fn for_create(id: &str, bundle: &str, spec: &mut Spec, layout: &Layout, choices: &Choices, found: &mut Findings) -> Plan {
        check_version(&spec.oci_version, found);
        let mut plan = Plan {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            hostname: spec.hostname.clone(),
            domainname: spec.domainname.clone(),
            ..Plan::default()
        };
        if spec.root.is_none() {
            found.invalid("root", "root: root must be specified");
        }
        plan.extensions = Extensions::plan(&spec.annotations, choices.seccomp_receiver.as_deref(), found);
        if plan.extensions.delegate_cgroup.is_some() && !layout.is_v2() {
            let text = "annotations: run.oci.delegate-cgroup: delegate-cgroup not supported on cgroup v1";
            found.wrong("annotations.run.oci.delegate-cgroup", Error::unsupported(text));
        }
        let mut filter = None;
        if let Some(linux) = &spec.linux {
            plan.namespaces = Namespaces::plan(&linux.namespaces, found);
            // without `process`, init runs as root
            let root = spec::User::default();
            let user = spec.process.as_ref().map_or(&root, |process| &process.user);
            plan.user_namespace = UserNamespace::plan(linux, &plan.namespaces, user, found);
            plan.time_offsets = found.at("linux.timeOffsets", TimeOffsets::plan(&linux.time_offsets, &plan.namespaces)).unwrap_or_default();
            plan.net_devices = NetDevices::plan(&linux.net_devices, &plan.namespaces, found);
            plan.intel_rdt = linux.intel_rdt.as_ref().and_then(|rdt| found.at("linux.intelRdt", IntelRdt::plan(rdt, id)));
            check_names(spec, &plan.namespaces, found);
            plan.sysctls = Sysctls::plan(&linux.sysctl, &plan.namespaces, &spec.domainname, found);
            let driver = choices.systemd.as_ref().map_or(Driver::Files, |systemd| Driver::Systemd(systemd, &spec.annotations));
            plan.cgroup = CgroupPlan::plan(layout, id, &linux.cgroups_path, linux.resources.as_ref(), driver, found);
            let path = spec.root.as_ref().and_then(|root| found.at("root.path", rootfs_path(root, bundle))).unwrap_or_default();
            let ids = plan.user_namespace.as_ref().map(|user| &user.maps);
            let paths = plan.cgroup.paths();
            plan.rootfs = RootfsPlan::plan(spec, &path, bundle, &plan.namespaces, ids, paths, found);
            plan.rootfs.pivot = !choices.no_pivot;
            plan.delegates_cgroup =
                plan.user_namespace.is_some() && plan.namespaces.is_fresh(libc::CLONE_NEWCGROUP) && plan.rootfs.has_writable_cgroup();
            filter = seccomp::plan(linux.seccomp.as_ref(), &plan.extensions.seccomp, found);
        } else {
            found.invalid("linux", "linux: unable to restrict sys entries without a private MNT namespace");
        }
        if spec.annotations.contains_key("") {
            found.invalid("annotations", "annotations: a key is empty");
        }
        if !choices.no_new_keyring {
            plan.keyring = found.at("", keyring(id));
        }
        plan.hooks = Hooks::plan(&spec.hooks, found);
        if spec.process.is_none() && !choices.process_optional {
            found.invalid("process", "process: process property must not be empty");
        }
        plan.process = ProcessPlan::for_init(spec.process.as_ref(), filter, choices.listen_fds, choices.preserve_fds, found);
        plan.process.in_user_namespace = plan.user_namespace.is_some();
        plan.process.keep_groups = plan.extensions.keep_groups;
        // the config's CPU affinity is for an exec
        plan.process.cpu_affinity = CpuAffinity::default();
        if let Some(linux) = &spec.linux {
            plan.process.personality = linux.personality.as_ref().and_then(|p| personality::plan(p, found));
            let policy = linux.memory_policy.as_ref();
            plan.process.memory_policy = policy.and_then(|p| found.at("linux.memoryPolicy", memory_policy::plan(p)));
            plan.process.note_cpuset(linux.resources.as_ref());
        }
        if let Some(dir) = &choices.notify_dir {
            plan.add_notify(dir);
        }
        if let Some(propagation) = plan.rootfs.propagation
            && choices.no_pivot
            && propagation & libc::MS_PRIVATE != 0
        {
            found.invalid("linux.rootfsPropagation", "linux.rootfsPropagation: private is not possible without pivot_root");
        }
        plan.annotations = std::mem::take(&mut spec.annotations);
        plan
    }

    /// Whether hooks or an agent read the state while the container is made, or after that fails.
    pub(crate) fn tells_state(&self) -> bool {
        self.hooks.meet() || !self.hooks.poststop.is_empty() || self.process.filter.as_ref().is_some_and(|filter| filter.listener.is_some())
    }

    /// The state in the form for hooks and agents.
    pub(crate) fn state(&self, pid: i32, status: &str) -> State {
        State {
            oci_version: spec::VERSION.to_owned(),
            id: self.id.clone(),
            pid,
            status: status.to_owned(),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// The state as one line of JSON.
    pub(crate) fn state_json(&self, pid: i32, status: &str) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.state(pid, status)).map_err(|e| Error::new(Kind::Internal, e.to_string()))
    }

    /// Binds the directory of the sd_notify(3) socket at a fixed path of the container.
    fn add_notify(&mut self, dir: &str) {
        self.rootfs.operations.push(Operation::Mount(MountPlan::bind("/run/notify", dir)));
        self.process.env.set("NOTIFY_SOCKET", "/run/notify/notify.sock");
    }
}

/// The name of the container's session keyring.
pub(crate) fn keyring(id: &str) -> Result<CString> {
    CString::new(format!("_ses.{id}")).map_err(|_| Error::invalid("container id holds a NUL byte"))
}

/// Warns of an unknown version, but refuses none: a newer minor version only adds (spec.md). A runtime that refused it would
/// fail each config on the day of a release.
fn check_version(version: &str, found: &mut Findings) {
    if !version.starts_with("1.") {
        let text = format!("ociVersion {version:?} is not a version 1; the config is read as {}", spec::VERSION);
        found.warn("ociVersion", text);
    }
}

fn check_names(spec: &Spec, namespaces: &Namespaces, found: &mut Findings) {
    for (key, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if name.is_empty() {
            continue;
        }
        if !namespaces.has(libc::CLONE_NEWUTS) {
            found.invalid(key, format!("{key}: unable to set {key} without a private UTS namespace"));
        }
        if name.len() > MAX_HOSTNAME || name.contains('\0') {
            let text = format!("set{key}: {name:?} is longer than {MAX_HOSTNAME} bytes or holds a NUL byte: invalid argument");
            found.invalid(key, text);
        }
    }
}

fn rootfs_path(root: &spec::Root, bundle: &str) -> Result<String> {
    if root.path.is_empty() {
        return Err(Error::invalid("root.path: the path of the rootfs is missing"));
    }
    if root.path.contains('\0') {
        return Err(Error::invalid(format!("root.path: invalid rootfs: {:?} holds a NUL byte: invalid argument", root.path)));
    }
    let path = if root.path.starts_with('/') { root.path.clone() } else { format!("{bundle}/{}", root.path) };
    match masu_host::beneath::clean(&path) {
        path if path == "/" => Err(Error::invalid("root.path: the host's root cannot be a container's")),
        path => Ok(path),
    }
}
