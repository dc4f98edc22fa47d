//! The intended differences from peers.

use serde_json::{Value, json};

/// The peer (`*` for all), the parts that a line must all contain, and the reason.
pub(crate) const KNOWN: &[(&str, &[&str], &str)] = &[
    ("*", &[r#" super: ["rw"], under the peer ["ro"]"#], "read-only is a flag of the mount, and not of the file system too"),
    (
        "*",
        &[
            r#" mounts /sys/fs/cgroup options: ["nodev","noexec","nosuid","relatime","ro"], under the peer ["nodev","noexec","nosuid","relatime","rw"]"#,
        ],
        "of a read-only cgroup v1 mount the folder of the hierarchies is read-only too",
    ),
    ("*", &[" mounts /", r#""ro"], under the peer"#, r#""rw"]"#], "what is mounted below a read-only path is read-only too"),
    ("*", &[r#" propagation: ["shared"], under the peer []"#], "the peer forgets the propagation of a mount that has other attributes too"),
    (
        "*",
        &[r#" propagation: ["unbindable"], under the peer []"#],
        "the peer forgets the propagation of a mount that has other attributes too",
    ),
    ("crun", &[" cgroup devices.list", r#""c 5:1 rwm""#], "crun allows /dev/console to everybody"),
    ("crun", &[r#"/dev/made EPERM", under the peer "/dev/made ok""#], "crun allows /dev/console to everybody"),
    ("crun", &[" dev core: null"], "crun makes /dev/core where there is no /proc/kcore to lead to"),
    ("crun", &[" mounts /sys/fs/cgroup"], "crun names and sizes the mounts of cgroup v1 otherwise"),
    ("crun", &[" env: ", r#""HOME="#, r#", under the peer "#, r#""HOME=","#], "crun leaves an empty HOME empty"),
    ("crun", &["create: ", "mount_setattr", ": Invalid argument"], "crun gives the kernel a mode of access times that it refuses"),
    ("crun", &[" dir 1777 0:0\", under", " dir 555 0:0\""], "crun's masks are a folder of mode 555, runc's and ours a tmpfs"),
    ("crun", &["/mnt/a/b ok", r#"under the peer "/mnt/a/b EACCES""#], "crun gives mount points of files another mode"),
    ("crun", &["file 0 644 0:0\", under", "file 0 700 0:0\""], "crun gives mount points of files another mode"),
    (
        "crun",
        &["create: ", "read-only: invalid argument"],
        "what is unbindable cannot be bound read-only; crun forgets that it is unbindable",
    ),
    (
        "crun",
        &[" mounts /", r#""ro"], under the peer"#, r#""relatime","ro"]"#],
        "crun forgets the mode of access times of a read-only path",
    ),
    ("*", &[" mounts /", r#" and 1: "a mask"#], "the mask lies upon a shared mount's copy; peers forget that it is shared"),
    ("crun", &["dir 755 0:0\", under", "dir 1755 0:0\""], "crun makes mount points sticky"),
    (
        "crun",
        &[r#""/sys/fs/cgroup/new EACCES", under the peer "/sys/fs/cgroup/new ok""#],
        "anybody may write to crun's folder of hierarchies",
    ),
    ("crun", &[" mounts /", "nosymfollow"], "crun adds nosymfollow to some mounts that are read-only"),
    ("crun", &[" mounts /", r#"under the peer "a mask"#], "crun masks first and then makes paths, and masks, read-only"),
    ("crun", &[" mounts /", " and ", ": null, under the peer {"], "crun masks first and then makes paths, and masks, read-only"),
    ("crun", &[" mounts /", r#""ro""#, "under the peer null"], "crun masks first and then makes paths, and masks, read-only"),
    ("*", &[r#" mounts /sys/fs/cgroup source: "none""#], "without a cgroup namespace of v2 the host's mount is bound, with its source"),
    ("runc", &[" signals ignored: "], "signals that the caller ignores are reset, also those that the C library keeps for itself"),
    ("runc", &[" env: ", r#""HOME=/"#, r#""HOME=","#], "a line of passwd without fields is for runc a user 0 without a home"),
    ("crun", &["create: ", "openat2", "Not a directory"], "crun minds a masked path that leads through a file"),
    ("crun", &[" mounts /", " and 1 options: ", r#""ro"]"#], "crun masks first and then makes paths, and masks, read-only"),
    ("*", &[r#""/etc/passwd EROFS", under the peer "/etc/passwd ok""#], "what is mounted below a read-only path is read-only too"),
    (
        "runc",
        &[" mounts /", " and ", r#""propagation":["shared"]"#, "under the peer null"],
        "what is mounted upon a shared mount comes to its copy below; runc forgets that it is shared",
    ),
    ("runc<1.4", &["create: ", "can't mask path", "not a directory"], "runc minds a masked path that leads through a file"),
    ("crun", &["create: ", "read-only file system"], "crun makes mounts read-only last, so mount points can be made in them"),
    ("crun", &[" mounts /", " and ", "under the peer null"], "crun's read-only path is without what is mounted below it"),
    (
        "crun",
        &[r#""/etc/passwd c 1:3"#, r#"under the peer "/etc/passwd file"#],
        "crun masks first, and loses the mask of what is unbindable when a path above it is made read-only",
    ),
    (
        "crun",
        &[r#""/etc/passwd ok", under the peer "/etc/passwd EROFS""#],
        "crun masks first, and loses the mask of what is unbindable when a path above it is made read-only",
    ),
    (
        "crun",
        &[r#""/tmp/inside ok", under the peer "/tmp/inside EACCES""#],
        "crun's read-only path is without what is unbindable below it: there is the mount point, of another mode",
    ),
    ("runc<1.4", &["create: ", "set_personality: "], "the personality is set under the filter"),
    ("*", &["/sys/fs/cgroup/new EROFS"], "of a read-only cgroup v1 mount the folder of the hierarchies is read-only too"),
];

/// Any mask of a directory counts as the same, because each is an empty read-only tmpfs. masu's has only one inode, is shared by
/// all masks, and is nosuid, nodev and noexec too.
pub(crate) fn masks(seen: &mut Value) {
    let Some(Value::Object(mounts)) = seen.pointer_mut("/report/mounts") else { return };
    for mount in mounts.values_mut() {
        let has = |list: &str, word: &str| mount[list].as_array().is_some_and(|words| words.iter().any(|own| own == word));
        let small = has("super", "nr_inodes=1") || has("super", "size=0k");
        let small = small || mount["super"] == json!(["ro"]);
        let shared = mount["root"].as_str().is_some_and(|root| root.ends_with("/.empty-directory"));
        if mount["type"] == "tmpfs" && (small || shared) && (has("options", "ro") || has("super", "ro")) {
            *mount = json!("a mask");
        }
        // crun mounts the host's node read-only, masu and runc the container's own
        if mount["root"] == "/null" {
            *mount = json!("a mask of a file");
        }
    }
    // mounts at the same mount point are sorted by content
    let mut all: Vec<(String, Value)> = std::mem::take(mounts)
        .into_iter()
        .map(|(name, mount)| (name.split(" and ").next().unwrap_or_default().to_owned(), mount))
        .collect();
    all.sort_by_key(|(point, mount)| (point.clone(), mount.to_string()));
    for (point, mount) in all {
        let others = mounts.keys().filter(|name| name.split(" and ").next() == Some(&point)).count();
        mounts.insert(if others == 0 { point } else { format!("{point} and {others}") }, mount);
    }
}

/// If the peer's own program crashes under the config's limits or filter, there is nothing to compare.
pub(crate) fn crashed(said: &str) -> Option<&'static str> {
    said.contains("goroutine 1 [").then_some("runc's Go runtime crashes under the config's filter or limits")
}
