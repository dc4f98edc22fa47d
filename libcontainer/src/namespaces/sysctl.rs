//! `linux.sysctl`: only sysctls that belong to a namespace of the container (sysctl(5), namespaces(7)).

use std::collections::BTreeMap;

use crate::error::{Doing, Error, Result};
use crate::findings::Findings;
use crate::namespaces::Namespaces;
use masu_host::procfs::Procfs;

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Files below /proc and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sysctls(Vec<(String, String)>);

impl Sysctls {
    /// Checks that each key belongs to a namespace of the container's own, and turns the keys into paths.
    pub(crate) fn plan(map: &BTreeMap<String, String>, namespaces: &Namespaces, domainname: &str, found: &mut Findings) -> Sysctls {
        let plan = map.iter().filter_map(|(key, value)| {
            let planned = check(key, value, namespaces, domainname).map(|path| (path, value.clone()));
            found.at(format_args!("linux.sysctl[{key:?}]"), planned)
        });
        Sysctls(plan.collect())
    }

    /// The plan for existing namespaces, such as those of a pod. `own` are the flags (`CLONE_NEW*`) of those that are not the
    /// host's.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind::InvalidSpec) if a key belongs to none of these namespaces.
    pub fn of_namespaces(map: &BTreeMap<String, String>, own: i32) -> Result<Sysctls> {
        let mut found = Findings::new();
        let plan = Sysctls::plan(map, &Namespaces { fresh: own, joined: Vec::new() }, "", &mut found);
        found.unless_wrong(plan)
    }

    /// The files below /proc and their values.
    pub(crate) fn list(&self) -> &[(String, String)] {
        &self.0
    }

    /// Whether there are no sysctls.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes the values. The caller is in the container's namespaces, and `proc` is not the container's own procfs.
    ///
    /// # Errors
    /// The errno of openat2(2) or write(2), with the key and value.
    pub fn apply(&self, proc: &Procfs) -> Result<()> {
        for (path, value) in &self.0 {
            proc.write(path, value.as_bytes())
                .doing(|| format!("failed to write sysctl {} = {value:?}", path.trim_start_matches("sys/").replace('/', ".")))?;
        }
        Ok(())
    }
}

/// The path of the key below /proc, if it belongs to the container's own namespaces.
fn check(key: &str, value: &str, namespaces: &Namespaces, domainname: &str) -> Result<String> {
    let dotted = dotted(key);
    let parts: Vec<&str> = dotted.split('.').collect();
    let path = file(key);
    if parts.len() < 2 || path.split('/').any(|p| p.is_empty() || p == "." || p == "..") || key.contains('\0') || value.contains('\0') {
        return Err(Error::invalid(format!("linux.sysctl: {key:?} is not a name of a sysctl")));
    }
    let own = |flag| namespaces.has(flag);
    if IPC.contains(&&*dotted) || dotted.starts_with("fs.mqueue.") {
        if !own(libc::CLONE_NEWIPC) {
            return Err(Error::invalid(format!("linux.sysctl: sysctl {key:?} is not allowed in the hosts ipc namespace")));
        }
    } else if dotted.starts_with("net.") {
        if !own(libc::CLONE_NEWNET) {
            return Err(Error::invalid(format!("linux.sysctl: sysctl {key:?} not allowed in host network namespace")));
        }
    } else if dotted.starts_with("user.") {
        // without a user namespace these are limits of the host, as in runc
        if !own(libc::CLONE_NEWUSER) {
            return Err(Error::invalid(format!("linux.sysctl: setting ucounts without a user namespace not allowed: {key:?}")));
        }
    } else if dotted == "kernel.domainname" {
        if !own(libc::CLONE_NEWUTS) {
            return Err(Error::invalid(format!("linux.sysctl: sysctl {key:?} is not allowed in the hosts uts namespace")));
        }
        if !domainname.is_empty() {
            return Err(Error::invalid(format!("linux.sysctl: sysctl {key:?} conflicts with the OCI \"domainname\" field")));
        }
    } else if dotted == "kernel.hostname" {
        return Err(Error::invalid(format!("linux.sysctl: sysctl {key:?} is not allowed as it conflicts with the OCI \"hostname\" field")));
    } else {
        return Err(Error::invalid(format!("linux.sysctl: sysctl {key:?} is not in a separate kernel namespace")));
    }
    Ok(path)
}

/// The key with dots as separators. As in sysctl(8), the first separator decides: if it is a slash, dots are parts of names
/// (`net/ipv4/conf/eno2.100/x`).
fn dotted(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(i) if key.as_bytes()[i] == b'/' => key
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// The path of the key below /proc: `sys/...`.
fn file(key: &str) -> String {
    let dotted = dotted(key);
    let path: String = dotted
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    format!("sys/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(key: &str, fresh: i32) -> Result<Sysctls> {
        let namespaces = Namespaces { fresh, joined: Vec::new() };
        let mut found = Findings::new();
        let plan = Sysctls::plan(&BTreeMap::from([(key.to_owned(), "1".to_owned())]), &namespaces, "", &mut found);
        found.unless_wrong(plan)
    }

    #[test]
    fn either_separator_names_the_same_file() {
        for key in ["net.ipv4.ip_forward", "net/ipv4/ip_forward"] {
            assert_eq!(plan(key, libc::CLONE_NEWNET).unwrap().0[0].0, "sys/net/ipv4/ip_forward");
        }
        assert_eq!(plan("net/ipv4/conf/eno2.100/rp_filter", libc::CLONE_NEWNET).unwrap().0[0].0, "sys/net/ipv4/conf/eno2.100/rp_filter");
        assert_eq!(plan("net.ipv4.conf.eno2/100.rp_filter", libc::CLONE_NEWNET).unwrap().0[0].0, "sys/net/ipv4/conf/eno2.100/rp_filter");
    }

    #[test]
    fn what_belongs_to_the_host_is_refused() {
        for (key, fresh, text) in [
            ("vm.swappiness", libc::CLONE_NEWNET, "is not in a separate kernel namespace"),
            ("kernel.shmmax", libc::CLONE_NEWNET, "is not allowed in the hosts ipc namespace"),
            ("net.ipv4.ip_forward", libc::CLONE_NEWIPC, "not allowed in host network namespace"),
            ("user.max_user_namespaces", libc::CLONE_NEWNET, "setting ucounts without a user namespace not allowed"),
            ("kernel.hostname", libc::CLONE_NEWUTS, "conflicts with the OCI \"hostname\" field"),
            ("net.ipv4/../../kernel/core_pattern", libc::CLONE_NEWNET, "is not a name of a sysctl"),
            ("net/../kernel/core_pattern", libc::CLONE_NEWNET, "is not a name of a sysctl"),
            ("net..ipv4", libc::CLONE_NEWNET, "is not a name of a sysctl"),
        ] {
            let e = plan(key, fresh).unwrap_err();
            assert!(e.to_string().contains(text), "{key}: {e}");
        }
    }
}
