//! What the containers of a pod share, as Kubernetes says it (its CRI, PodSandboxConfig): namespaces, sysctls, and files.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::error::{Doing, Error, Kind, Result};
use libcontainer::namespaces::{KINDS, Sysctls, flag};
use masu_host::procfs::Procfs;
use masu_host::sys::namespace::{setns, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountFlags;
use serde_json::{Value, json};

use crate::rootfs::mount;
use crate::rpc::messages::{Any, Dns, PodConfig};
use crate::rpc::wire::Message;

/// The type of the options that we know.
const CONFIG: &str = "runtime.v1.PodSandboxConfig";
/// A mode of a namespace; see the message PodNamespaces.
const POD: i32 = 0;
const HOST: i32 = 2;
/// Where each file of the sandbox's bundle is seen by containers.
const FILES: [(&str, &str); 4] =
    [("resolv.conf", "/etc/resolv.conf"), ("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), (SHM, "/dev/shm")];
const SHM: &str = "shm";
/// As containerd's own pods have it, in bytes.
const SHM_SIZE: u64 = 64 << 20;
/// What containerd gives its own pods: everybody may listen at low ports and send ICMP echos, in a network of the pod's own.
const NETWORK_DEFAULTS: [(&str, &str); 2] = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// What a pod is to be.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Flags of the namespaces that are made.
    fresh: i32,
    /// The network, where it is not the host's.
    network: Option<PathBuf>,
    /// Whether its containers have one pid namespace.
    pub(crate) shares_pids: bool,
    hostname: String,
    sysctls: Sysctls,
    dns: Option<Dns>,
    /// The pod's cgroup, if it was told.
    pub(crate) cgroup: String,
}

impl Plan {
    /// `options` may be absent: a pod with its own ipc and uts namespaces.
    pub(crate) fn new(options: Option<&Any>, netns: &str) -> Result<Plan> {
        let known = options.filter(|any| any.type_url.rsplit('/').next() == Some(CONFIG));
        let malformed = |_| Error::invalid(format!("the options of type {CONFIG} are malformed"));
        let config = known.map(|any| PodConfig::decode(&any.value)).transpose().map_err(malformed)?;
        let is_told = config.is_some();
        let config = config.unwrap_or_default();
        let linux = config.linux.unwrap_or_default();
        let modes = linux.security.and_then(|s| s.namespaces).unwrap_or_default();
        if modes.user.is_some_and(|user| user.mode != HOST) {
            return Err(Error::unsupported("a pod without a pause container cannot have a user namespace"));
        }
        let network = (modes.network != HOST && !netns.is_empty()).then(|| PathBuf::from(netns));
        let mut plan = Plan { shares_pids: is_told && modes.pid == POD, hostname: config.hostname, ..Plan::default() };
        if modes.ipc != HOST {
            plan.fresh |= flag("ipc");
        }
        if modes.network != HOST {
            plan.fresh |= flag("uts");
        }
        let own = plan.fresh | network.as_ref().map_or(0, |_| flag("network"));
        let mut sysctls = linux.sysctls;
        if network.is_some() {
            for (key, value) in NETWORK_DEFAULTS {
                sysctls.entry(key.into()).or_insert_with(|| value.into());
            }
        }
        plan.sysctls = Sysctls::of_namespaces(&sysctls, own)?;
        plan.dns = config.dns;
        plan.cgroup = linux.cgroup_parent;
        plan.network = network;
        Ok(plan)
    }

    /// Leads this process into the pod's namespaces, which so last as long as it stays there; those that it was in before.
    pub(crate) fn enter(&self) -> Result<Namespaces> {
        let proc = Procfs::open()?;
        let network = self.network.as_ref().map(|path| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open the network of the pod {}", path.display()))
        });
        let network = network.transpose()?;
        let before = Namespaces::current(&proc)?;
        let inside = || -> Result<()> {
            unshare(self.fresh).doing(|| "make the namespaces of the pod")?;
            if let Some(fd) = &network {
                setns(fd.as_fd(), flag("network")).doing(|| "join the network of the pod")?;
            }
            if self.fresh & flag("uts") != 0 && !self.hostname.is_empty() {
                rustix::system::sethostname(self.hostname.as_bytes()).doing(|| format!("sethostname {:?}", self.hostname))?;
            }
            self.sysctls.apply(&proc)
        };
        match inside() {
            Ok(()) => Ok(before),
            Err(e) => {
                before.join()?;
                Err(e)
            }
        }
    }

    /// Writes what containers see in /etc, and makes the memory that they share, in the sandbox's bundle.
    pub(crate) fn make_files(&self, bundle: &Path) -> Result<()> {
        let resolv = match &self.dns {
            Some(dns) => resolv_conf(dns),
            None => read_or_empty("/etc/resolv.conf")?,
        };
        write(&bundle.join("resolv.conf"), &resolv)?;
        write(&bundle.join("hosts"), &read_or_empty("/etc/hosts")?)?;
        let own = rustix::system::uname();
        let hostname = if self.hostname.is_empty() { own.nodename().to_bytes() } else { self.hostname.as_bytes() };
        write(&bundle.join("hostname"), &[hostname, b"\n"].concat())?;
        if self.fresh & flag("ipc") == 0 {
            return Ok(());
        }
        let shm = bundle.join(SHM);
        let doing = || format!("make {}", shm.display());
        rustix::fs::mkdirat(CWD, &shm, Mode::from_raw_mode(0o700)).doing(doing)?;
        let data = std::ffi::CString::new(format!("mode=1777,size={SHM_SIZE}")).unwrap_or_default();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("shm", &shm, "tmpfs", flags, Some(data.as_c_str())).doing(doing)
    }
}

fn read_or_empty(path: &str) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.doing(|| format!("read {path}")),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).doing(|| format!("write {}", path.display()))
}

fn resolv_conf(dns: &Dns) -> Vec<u8> {
    let mut text = String::new();
    // in containerd's order
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    text.extend(dns.servers.iter().map(|server| format!("nameserver {server}\n")));
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text.into_bytes()
}

/// Gives a container the files of its pod, unless its config has something there: containerd leaves that to who makes the pod.
pub(crate) fn add_mounts(bundle: &Path, pod: &Path) -> Result<()> {
    let path = bundle.join("config.json");
    let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&bytes).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    let there: Vec<_> = FILES.iter().map(|(file, at)| (pod.join(file), *at)).filter(|(file, _)| file.exists()).collect();
    mount_in(&mut config, &there);
    let text = serde_json::to_vec(&config).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    write(&path, &text)
}

fn mount_in(config: &mut Value, files: &[(PathBuf, &str)]) {
    let Some(mounts) = config.as_object_mut().map(|c| c.entry("mounts").or_insert_with(|| json!([]))) else { return };
    if mounts.is_null() {
        *mounts = json!([]);
    }
    let Some(mounts) = mounts.as_array_mut() else { return };
    for (file, at) in files {
        // that is a container's own memory, which every config has by default
        mounts.retain(|m| !(*at == "/dev/shm" && m["destination"] == *at && m["type"] == "tmpfs"));
        if !mounts.iter().any(|m| m["destination"] == *at) {
            mounts.push(json!({"destination": at, "type": "bind", "source": file, "options": ["rbind", "rprivate", "rw"]}));
        }
    }
}

/// Takes off what is mounted in the bundle of a sandbox, which containerd then removes. In another bundle there is nothing.
pub(crate) fn remove_files(bundle: &Path) -> Result<()> {
    mount::unmount(&bundle.join(SHM))
}

/// Namespaces that this process was in.
#[derive(Debug)]
pub(crate) struct Namespaces(Vec<(OwnedFd, i32)>);

impl Namespaces {
    fn current(proc: &Procfs) -> Result<Namespaces> {
        let open = |kind: &libcontainer::namespaces::Kind| Ok((proc.own_namespace(kind.file)?, kind.flag));
        let left = KINDS.iter().filter(|kind| ["ipc", "uts", "network"].contains(&kind.name));
        Ok(Namespaces(left.map(open).collect::<Result<_>>()?))
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(fd, _)| fd.as_fd())
    }

    /// Goes back there.
    pub(crate) fn join(&self) -> Result<()> {
        self.0.iter().try_for_each(|(fd, flag)| setns(fd.as_fd(), *flag)).doing(|| "leave the namespaces of the pod")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::messages::{PodLinux, PodNamespaces, PodSecurity, PodUser};

    fn any(namespaces: PodNamespaces, sysctls: &[(&str, &str)]) -> Any {
        let security = Some(PodSecurity { namespaces: Some(namespaces) });
        let sysctls = sysctls.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let linux = Some(PodLinux { cgroup_parent: "/pod".into(), security, sysctls });
        Any { type_url: CONFIG.into(), value: PodConfig { hostname: "h".into(), dns: None, linux }.encode() }
    }

    #[test]
    fn a_pod_has_the_namespaces_that_its_modes_say() {
        let plan = Plan::new(Some(&any(PodNamespaces::default(), &[])), "/run/netns/x").unwrap();
        assert_eq!(plan.fresh, flag("ipc") | flag("uts"));
        assert_eq!((plan.network.is_some(), plan.shares_pids, &*plan.cgroup), (true, true, "/pod"));
        let host = PodNamespaces { network: HOST, pid: 1, ipc: HOST, user: None };
        let plan = Plan::new(Some(&any(host, &[])), "").unwrap();
        assert_eq!((plan.fresh, plan.network.is_some(), plan.shares_pids), (0, false, false));
        // who says nothing
        let plan = Plan::new(None, "").unwrap();
        assert_eq!((plan.fresh, plan.network.is_some(), plan.shares_pids), (flag("ipc") | flag("uts"), false, false));
    }

    #[test]
    fn what_a_pod_cannot_have_is_refused() {
        let user = PodNamespaces { user: Some(PodUser::default()), ..PodNamespaces::default() };
        assert_eq!(Plan::new(Some(&any(user, &[])), "/n").unwrap_err().kind(), Kind::Unsupported);
        let host = || PodNamespaces { network: HOST, ..PodNamespaces::default() };
        Plan::new(Some(&any(host(), &[("net.ipv4.ip_forward", "1")])), "").unwrap_err();
        Plan::new(Some(&any(host(), &[("kernel.panic", "1")])), "").unwrap_err();
        Plan::new(Some(&any(host(), &[("kernel.shmmax", "1")])), "").unwrap();
        Plan::new(Some(&Any { type_url: CONFIG.into(), value: vec![0x42, 0xff] }), "").unwrap_err();
    }

    #[test]
    fn containers_get_the_files_that_they_have_not() {
        let files = [(PathBuf::from("/b/hosts"), "/etc/hosts"), (PathBuf::from("/b/shm"), "/dev/shm")];
        let mut config = json!({"mounts": [{"destination": "/dev/shm", "type": "tmpfs"}, {"destination": "/etc/hosts", "type": "bind", "source": "/k"}]});
        mount_in(&mut config, &files);
        let bind = json!({"destination": "/dev/shm", "type": "bind", "source": "/b/shm", "options": ["rbind", "rprivate", "rw"]});
        assert_eq!(config["mounts"], json!([{"destination": "/etc/hosts", "type": "bind", "source": "/k"}, bind]));
        for mut other in [json!({}), json!({"mounts": null})] {
            mount_in(&mut other, &files);
            assert_eq!(other["mounts"].as_array().unwrap().len(), 2);
        }
        // the config's own fault, which is told where it is read
        mount_in(&mut json!(7), &files);
        mount_in(&mut json!({"mounts": 7}), &files);
    }

    #[test]
    fn resolv_conf_is_what_the_pod_says() {
        let dns = Dns { servers: vec!["10.0.0.1".into()], searches: vec!["a".into(), "b".into()], options: vec!["ndots:5".into()] };
        assert_eq!(resolv_conf(&dns), b"search a b\nnameserver 10.0.0.1\noptions ndots:5\n");
    }
}
