//! `spec`: writes a config.json template: a shell on a terminal, in its own namespaces, with few capabilities.

use std::path::Path;

use anyhow::Result;
use libcontainer::error::{Doing, Error};
use libcontainer::spec;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let name = call.args.text("file").unwrap_or("config.json");
    let path = Path::new(call.args.text("bundle").unwrap_or(".")).join(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o666)) {
        Err(Errno::EXIST) => return Err(Error::invalid(format!("File {name} exists. Remove it first")).into()),
        result => result.doing(|| format!("create {}", path.display()))?,
    };
    let host = Host {
        name: call.program,
        rootless: call.args.on("rootless").then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())),
        cgroup2: rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|s| s.f_type == CGROUP2_SUPER_MAGIC),
    };
    let text = indent(&template(&host));
    std::io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes()).doing(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// From statfs(2).
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// The properties of the host and the user that the template depends on.
struct Host<'a> {
    name: &'a str,
    /// The user and the group that become root in the container.
    rootless: Option<(u32, u32)>,
    /// Whether cgroup2 is the only hierarchy: the container then gets a cgroup namespace.
    cgroup2: bool,
}

/// runc's template, key by key, because scripts edit its keys.
fn template(host: &Host<'_>) -> String {
    let caps = r#"["CAP_AUDIT_WRITE","CAP_KILL","CAP_NET_BIND_SERVICE"]"#;
    let (sys, pts_group, map, resources) = match host.rootless {
        // without group 5, because it is not mapped; sysfs is a bind mount, because a new one needs its own network namespace
        Some((uid, gid)) => (
            r#"{"destination":"/sys","type":"none","source":"/sys","options":["rbind","nosuid","noexec","nodev","ro"]}"#,
            "",
            format!(
                r#""uidMappings":[{{"containerID":0,"hostID":{uid},"size":1}}],"gidMappings":[{{"containerID":0,"hostID":{gid},"size":1}}],"#
            ),
            "",
        ),
        None => (
            r#"{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]}"#,
            r#","gid=5""#,
            String::new(),
            r#""resources":{"devices":[{"allow":false,"access":"rwm"}]},"#,
        ),
    };
    let network = if host.rootless.is_some() { "" } else { r#"{"type":"network"},"# };
    let cgroup = if host.cgroup2 { r#",{"type":"cgroup"}"# } else { "" };
    let user = if host.rootless.is_some() { r#",{"type":"user"}"# } else { "" };
    let name = host.name.replace(['"', '\\'], "");
    let version = spec::VERSION;
    format!(r#"{{"ociVersion":"{version}","process":{{"terminal":true,"user":{{"uid":0,"gid":0}},"args":["sh"],"#)
        + r#""env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","TERM=xterm"],"cwd":"/","#
        + &format!(r#""capabilities":{{"bounding":{caps},"effective":{caps},"permitted":{caps}}},"#)
        + r#""rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":1024}],"noNewPrivileges":true},"#
        + &format!(r#""root":{{"path":"rootfs","readonly":true}},"hostname":"{name}","mounts":["#)
        + r#"{"destination":"/proc","type":"proc","source":"proc"},"#
        + r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},"#
        + r#"{"destination":"/dev/pts","type":"devpts","source":"devpts","#
        + &format!(r#""options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"{pts_group}]}},"#)
        + r#"{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777","size=65536k"]},"#
        + r#"{"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},"#
        + sys
        + r#",{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","relatime","ro"]}],"#
        + r#""linux":{"#
        + &map
        + resources
        + &format!(r#""namespaces":[{{"type":"pid"}},{network}{{"type":"ipc"}},{{"type":"uts"}},{{"type":"mount"}}{cgroup}{user}],"#)
        + r#""maskedPaths":["/proc/acpi","/proc/asound","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list","#
        + r#""/proc/timer_stats","/proc/sched_debug","/sys/firmware","/proc/scsi"],"#
        + r#""readonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]}}"#
}

/// Indents compact JSON with tabs, as Go's MarshalIndent does. No string in the JSON may contain an escape.
fn indent(compact: &str) -> String {
    let mut text = String::with_capacity(2 * compact.len());
    let (mut depth, mut quoted) = (0usize, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n('\t', depth));
    };
    for c in compact.chars() {
        quoted ^= c == '"';
        if !quoted && matches!(c, '}' | ']') {
            depth = depth.saturating_sub(1);
            line(&mut text, depth);
        }
        text.push(c);
        match c {
            _ if quoted => {}
            '{' | '[' => {
                depth += 1;
                line(&mut text, depth);
            }
            ',' => line(&mut text, depth),
            ':' => text.push(' '),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::spec::Spec;

    fn read(host: &Host<'_>) -> Spec {
        let text = template(host);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let pretty: serde_json::Value = serde_json::from_str(&indent(&text)).unwrap();
        assert_eq!(value, pretty);
        Spec::from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_template_is_a_config() {
        let spec = read(&Host { name: "masu", rootless: None, cgroup2: false });
        let (process, linux) = (spec.process.unwrap(), spec.linux.unwrap());
        assert_eq!((&*spec.oci_version, &*spec.hostname, process.terminal, process.no_new_privileges), ("1.3.0", "masu", true, true));
        assert_eq!(process.args, [Some("sh".to_string())]);
        let kinds: Vec<_> = linux.namespaces.iter().map(|n| &*n.kind).collect();
        assert_eq!(kinds, ["pid", "network", "ipc", "uts", "mount"]);
        assert_eq!((spec.mounts.len(), linux.masked_paths.len(), linux.readonly_paths.len()), (7, 10, 5));
        assert_eq!(linux.resources.unwrap().devices.len(), 1);
        assert!(spec.mounts[2].options.contains(&"gid=5".to_string()));
    }

    #[test]
    fn the_rootless_one_maps_the_caller() {
        let spec = read(&Host { name: "masu", rootless: Some((1000, 100)), cgroup2: true });
        let linux = spec.linux.unwrap();
        let kinds: Vec<_> = linux.namespaces.iter().map(|n| &*n.kind).collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup", "user"]);
        assert_eq!((linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id, linux.uid_mappings[0].size), (1000, 100, 1));
        assert_eq!((&*spec.mounts[5].fs_type, &*spec.mounts[5].source), ("none", "/sys"));
        assert!(linux.resources.is_none() && !spec.mounts[2].options.iter().any(|o| o.starts_with("gid=")));
    }

    #[test]
    fn lines_are_indented_with_tabs() {
        assert_eq!(
            indent(r#"{"a":[1,{"b":"x:{,"}],"c":2}"#),
            "{\n\t\"a\": [\n\t\t1,\n\t\t{\n\t\t\t\"b\": \"x:{,\"\n\t\t}\n\t],\n\t\"c\": 2\n}"
        );
    }
}
