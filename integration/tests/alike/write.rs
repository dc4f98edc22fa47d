//! Writes each choice into a bundle.

use std::fs;

use anyhow::Result;
use integration::{Bundle, cgroups};
use rustix::process::getrlimit;
use serde_json::{Value, json};

use super::{CALLS, Config, Files, Filter, LIMITS, Linux, MASKABLE, PATHS, Process};

impl Config {
    /// Writes all choices into `bundle`. `id` is part of the names that must be unique on the host.
    pub(crate) fn apply(&self, bundle: &mut Bundle, id: &str) -> Result<()> {
        let volume = bundle.path().join("volume");
        fs::create_dir_all(volume.join("inner"))?;
        fs::write(volume.join("file"), "of the host\n")?;
        std::os::unix::fs::symlink("../etc", bundle.rootfs("srv/link")).or_else(|_| {
            fs::create_dir_all(bundle.rootfs("srv"))?;
            std::os::unix::fs::symlink("../etc", bundle.rootfs("srv/link"))
        })?;
        self.linux.apply(bundle, id);
        self.files.apply(bundle);
        self.process.apply(bundle, &self.linux);
        bundle.args(self.args());
        Ok(())
    }

    /// The steps of the payload: the report, then attempts whose results are not in a report.
    fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = vec!["/bin/payload".into(), "report".into()];
        let mut step = |words: &[&str]| {
            args.push("then".into());
            args.extend(words.iter().map(|word| (*word).to_owned()));
        };
        let paths: Vec<&str> = PATHS.iter().chain(&MASKABLE).copied().chain(self.files.devices.iter().map(|d| d.path)).collect();
        step(&[&["stat"], paths.as_slice()].concat());
        step(&[&["try-open"], paths.as_slice()].concat());
        for path in ["/new", "/tmp/new", "/mnt/a/new", "/proc/sys/kernel/msgmax", "/sys/fs/cgroup/new", "/dev/new", "/etc/passwd"] {
            step(&["try-write", path]);
        }
        for (kind, major, minor) in
            [("c", "1", "3"), ("c", "10", "229"), ("b", "7", "0"), ("c", "5", "1"), ("c", "10", "200"), ("c", "7", "1")]
        {
            step(&["mknod", kind, major, minor, "/dev/made"]);
        }
        for (_, key, _) in &self.linux.sysctls {
            let path = format!("/proc/sys/{}", if key.contains('/') { (*key).to_owned() } else { key.replace('.', "/") });
            step(&["read", &path]);
        }
        for (name, arguments) in CALLS {
            step(&[&["call", name], arguments].concat());
        }
        args
    }
}

impl Process {
    fn apply(&self, bundle: &mut Bundle, linux: &Linux) {
        let (uid, gid, groups, umask) = &self.user;
        bundle.set("/process/user", json!({"uid": uid, "gid": gid, "additionalGids": groups}));
        if let Some(umask) = umask {
            bundle.set("/process/user/umask", json!(umask));
        }
        if let Some(c) = &self.capabilities {
            bundle.set(
                "/process/capabilities",
                json!({"bounding": c.bounding, "permitted": c.permitted, "effective": c.effective, "inheritable": c.inheritable, "ambient": c.ambient}),
            );
        }
        bundle.set("/process/noNewPrivileges", json!(self.no_new_privileges)).set("/process/cwd", json!(self.cwd));
        for (name, soft) in &self.limits {
            let hard = LIMITS.iter().find(|(other, _)| other == name).and_then(|(_, resource)| getrlimit(*resource).maximum);
            // the program needs this much to start
            let least = match *name {
                "RLIMIT_NOFILE" => 64,
                "RLIMIT_STACK" => 1 << 20,
                "RLIMIT_CPU" => 60,
                "RLIMIT_FSIZE" => 1 << 24,
                _ => 0,
            };
            let soft = (*soft).max(least);
            bundle.push("/process/rlimits", json!({"type": name, "soft": soft, "hard": hard.unwrap_or(soft).max(soft)}));
        }
        if let Some(score) = self.oom_score {
            bundle.set("/process/oomScoreAdj", json!(score));
        }
        for variable in &self.env {
            bundle.push("/process/env", json!(variable));
        }
        let (host, domain) = self.names;
        bundle.unset("/hostname");
        if linux.namespaces.contains(&"uts") {
            if let Some(host) = host {
                bundle.set("/hostname", json!(host));
            }
            if let Some(domain) = domain {
                bundle.set("/domainname", json!(domain));
            }
        }
        if !self.annotations.is_empty() {
            bundle.set("/annotations", Value::Object(self.annotations.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect()));
        }
    }
}

impl Files {
    fn apply(&self, bundle: &mut Bundle) {
        bundle.set("/root/readonly", json!(self.read_only));
        for point in &self.without {
            bundle.unmount(point);
        }
        if let Some(options) = &self.cgroup {
            bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", options);
        }
        for mount in &self.mounts {
            match mount.source {
                Some(source) => bundle.mount(mount.destination, "none", source, &mount.options),
                None => bundle.mount(mount.destination, "tmpfs", "tmpfs", &mount.options),
            };
        }
        bundle.set("/linux/maskedPaths", json!(self.masked)).set("/linux/readonlyPaths", json!(self.read_only_paths));
        for device in &self.devices {
            let (kind, major, minor) = device.node;
            let mut entry = json!({"path": device.path, "type": kind, "major": major, "minor": minor});
            if let Some(mode) = device.mode {
                entry["fileMode"] = json!(mode);
            }
            if let Some((uid, gid)) = device.owner {
                (entry["uid"], entry["gid"]) = (json!(uid), json!(gid));
            }
            bundle.push("/linux/devices", entry);
        }
        if let Some(propagation) = self.propagation {
            bundle.set("/linux/rootfsPropagation", json!(propagation));
        }
    }
}

impl Linux {
    fn apply(&self, bundle: &mut Bundle, id: &str) {
        for kind in ["network", "ipc", "uts", "pid"] {
            if !self.namespaces.contains(&kind) {
                bundle.drop_namespace(kind);
            }
        }
        if self.namespaces.contains(&"cgroup") {
            bundle.namespace("cgroup", None);
        }
        for (namespace, key, value) in &self.sysctls {
            if self.namespaces.contains(namespace) {
                let mut all = bundle.config["linux"]["sysctl"].as_object().cloned().unwrap_or_default();
                all.insert((*key).to_owned(), json!(value));
                bundle.set("/linux/sysctl", Value::Object(all));
            }
        }
        for (at, value) in &self.resources {
            if cgroups::has(at.split('/').next().unwrap_or_default()) {
                bundle.set(&format!("/linux/resources/{at}"), json!(value));
            }
        }
        for (allow, kind, major, minor, access) in &self.rules {
            let mut rule = json!({"allow": allow, "type": kind, "access": access});
            for (name, number) in [("major", major), ("minor", minor)] {
                if let Some(number) = number {
                    rule[name] = json!(number);
                }
            }
            bundle.push("/linux/resources/devices", rule);
        }
        if let Some(path) = self.cgroups_path {
            bundle.set("/linux/cgroupsPath", json!(path.replace("ID", id)));
        }
        if let Some(filter) = &self.filter {
            bundle.set("/linux/seccomp", filter.json());
        }
        if self.personality {
            bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
        }
    }
}

impl Filter {
    fn json(&self) -> Value {
        let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []});
        if self.dockers {
            let docker: Value = serde_json::from_str(include_str!("../../../bundles/docker-default/config.json")).unwrap_or_default();
            filter = docker["linux"]["seccomp"].clone();
        } else if let Some(list) = filter["syscalls"].as_array_mut() {
            for (name, action, errno, argument) in &self.rules {
                let mut rule = json!({"names": [name], "action": action});
                if let Some(errno) = errno.filter(|_| *action == "SCMP_ACT_ERRNO") {
                    rule["errnoRet"] = json!(errno);
                }
                if let Some((index, value, op)) = argument {
                    rule["args"] = json!([{"index": index, "value": value, "op": op}]);
                }
                list.push(rule);
            }
        }
        if let Some(flags) = &self.flags {
            filter["flags"] = json!(flags);
        }
        filter
    }
}
