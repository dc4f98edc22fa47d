//! A bundle for one test: a rootfs with only the payload, and a config.json such as callers write, edited by the test. It has no
//! shell, no library, no image.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A directory with `rootfs` and, after [`Bundle::write`], `config.json`.
#[derive(Debug, Clone)]
pub struct Bundle {
    path: PathBuf,
    /// The content of `config.json`.
    pub config: Value,
}

/// The capabilities that Docker grants by default.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

impl Bundle {
    /// Makes the directory `path` with a rootfs: `/bin/payload` and its names `true`, `false` and `sleep`, `/etc/passwd` and
    /// `/etc/group`, and empty directories as mount points.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn new(path: &Path, payload: &Path) -> Result<Self> {
        let rootfs = path.join("rootfs");
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).with_context(|| format!("create {folder} in {}", rootfs.display()))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        let program = rootfs.join("bin/payload");
        fs::copy(payload, &program).with_context(|| format!("copy {}", payload.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        for name in ["true", "false", "sleep"] {
            fs::hard_link(&program, rootfs.join("bin").join(name))?;
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\n")?;
        Ok(Self { path: path.to_owned(), config: default_config() })
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the rootfs; `inside` is relative.
    pub fn rootfs(&self, inside: &str) -> PathBuf {
        self.path.join("rootfs").join(inside)
    }

    /// The program and its arguments.
    pub fn args<S: AsRef<str>>(&mut self, args: impl IntoIterator<Item = S>) -> &mut Self {
        self.config["process"]["args"] = args.into_iter().map(|arg| Value::from(arg.as_ref())).collect();
        self
    }

    /// Changes the config.
    pub fn edit(&mut self, change: impl FnOnce(&mut Value)) -> &mut Self {
        change(&mut self.config);
        self
    }

    /// Sets the value at the JSON pointer `at`, and makes the missing objects above it.
    pub fn set(&mut self, at: &str, value: Value) -> &mut Self {
        let mut here = &mut self.config;
        for part in at.split('/').skip(1) {
            here = match part.parse::<usize>() {
                Ok(index) if here.is_array() => &mut here[index],
                _ => &mut here[part],
            };
        }
        *here = value;
        self
    }

    /// Removes the value at the JSON pointer `at`.
    pub fn unset(&mut self, at: &str) -> &mut Self {
        let (parent, name) = at.rsplit_once('/').unwrap_or(("", at));
        if let Some(object) = self.config.pointer_mut(parent).and_then(Value::as_object_mut) {
            object.remove(name);
        }
        self
    }

    /// Appends to the array at the JSON pointer `at`, and makes the array if it is missing.
    pub fn push(&mut self, at: &str, value: Value) -> &mut Self {
        match self.config.pointer_mut(at).and_then(Value::as_array_mut) {
            Some(array) => array.push(value),
            None => {
                self.set(at, json!([value]));
            }
        }
        self
    }

    /// Appends a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        self.push("/mounts", json!({"destination": destination, "type": kind, "source": source, "options": options}))
    }

    /// Removes the mount at `destination`.
    pub fn unmount(&mut self, destination: &str) -> &mut Self {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != destination);
        }
        self
    }

    /// Adds a new namespace of `kind` (`None`), or the one at a path, instead of an earlier entry.
    pub fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Self {
        self.drop_namespace(kind);
        let entry = path.map_or_else(|| json!({"type": kind}), |path| json!({"type": kind, "path": path}));
        self.push("/linux/namespaces", entry)
    }

    /// Removes the namespace of `kind`, so that the container shares the caller's.
    pub fn drop_namespace(&mut self, kind: &str) -> &mut Self {
        if let Some(namespaces) = self.config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != kind);
        }
        self
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> Result<()> {
        self.write_text(&serde_json::to_vec_pretty(&self.config)?)
    }

    /// Writes any bytes as `config.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_text(&self, text: &[u8]) -> Result<()> {
        let path = self.path.join("config.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| format!("remove {}", path.display())),
            _ => fs::write(&path, text).with_context(|| format!("write {}", path.display())),
        }
    }
}

fn default_config() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": DEFAULT_CAPABILITIES, "effective": DEFAULT_CAPABILITIES, "permitted": DEFAULT_CAPABILITIES
            },
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
