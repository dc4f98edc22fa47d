//! Everything that callers prepare around the bundles of `bundles/`, which Docker, podman and Kubernetes wrote. The bundles are
//! adapted to this machine: the sources of bind mounts and the namespaces of a pod are made, and limits that this machine's
//! cgroups lack are removed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::cgroups;

/// The prefix of paths in the bundles that a caller would prepare.
const PREPARED: &str = "/run/bench/";

/// The files and namespaces that callers' bundles refer to. Dropping this removes the namespaces, but not the files.
#[derive(Debug)]
pub struct Surroundings {
    folder: PathBuf,
    payload: PathBuf,
    pod: Child,
}

impl Surroundings {
    /// Makes the files in `folder`. A sleeping `payload` keeps the namespaces of the pod.
    ///
    /// # Errors
    /// A file cannot be made, or unshare(1) does not run.
    pub fn new(folder: &Path, payload: &Path) -> Result<Self> {
        let files = folder.join("files");
        fs::create_dir_all(files.join("shm"))?;
        fs::create_dir_all(files.join("sa"))?;
        for (name, text) in [
            ("resolv.conf", "nameserver 127.0.0.1\n"),
            ("hostname", "host\n"),
            ("hosts", "127.0.0.1 localhost\n"),
            (".containerenv", ""),
            ("termination-log", ""),
        ] {
            fs::write(files.join(name), text)?;
        }
        let mut pod = Command::new("unshare");
        pod.args(["--net", "--ipc", "--uts"]).arg(payload).args(["deaf", "USR1", "then", "sleep"]);
        let mut pod = pod.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run unshare for the namespaces of a pod")?;
        // the payload prints `ready` when it is in the namespaces
        let mut word = [0; 6];
        pod.stdout.take().context("the output of unshare")?.read_exact(&mut word).context("wait for the namespaces of a pod")?;
        Ok(Self { folder: folder.to_owned(), payload: payload.to_owned(), pod })
    }

    /// Makes the bundle `name` at `path`. `name` is a directory of `bundles/`, or any directory with a config.json.
    ///
    /// # Errors
    /// There is no such bundle, or a file cannot be made.
    pub fn bundle(&self, name: &str, path: &Path) -> Result<Bundle> {
        let config = source(name).join("config.json");
        let text = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
        let config: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", config.display()))?;
        let mut bundle = Bundle::new(path, &self.payload)?;
        bundle.config = self.fit(config)?;
        give(&bundle)?;
        Ok(bundle)
    }

    fn fit(&self, mut config: Value) -> Result<Value> {
        self.rewrite(&mut config);
        config["root"]["path"] = json!("rootfs");
        // crun before 1.14.3 refuses every newer version
        config["ociVersion"] = json!("1.0.2");
        let own_score: i64 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
        let process = config["process"].as_object_mut().context("a process in the config")?;
        if process.get("oomScoreAdj").and_then(Value::as_i64).is_some_and(|score| score < own_score) {
            process.remove("oomScoreAdj");
        }
        // a terminal would need a relay, and raising a limit above ours needs a privilege
        process.insert("terminal".to_owned(), json!(false));
        process.remove("rlimits");
        let linux = config["linux"].as_object_mut().context("linux in the config")?;
        linux.remove("cgroupsPath");
        if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
            for (name, controller) in
                [("cpu", "cpu"), ("memory", "memory"), ("pids", "pids"), ("blockIO", if cgroups::unified() { "io" } else { "blkio" })]
            {
                if !cgroups::has(controller) {
                    resources.remove(name);
                }
            }
            resources.remove("unified");
        }
        Ok(config)
    }

    /// Replaces the prefix of prepared paths in every string.
    fn rewrite(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(kind) = text.strip_prefix(PREPARED).and_then(|rest| rest.strip_prefix("ns/")) {
                    *text = format!("/proc/{}/ns/{kind}", self.pod.id());
                } else if let Some(rest) = text.strip_prefix(PREPARED) {
                    *text = self.folder.join(rest).to_string_lossy().into_owned();
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.rewrite(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.rewrite(value)),
            _ => {}
        }
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let _ = self.pod.kill();
        let _ = self.pod.wait();
    }
}

/// The directory of the bundle `name`.
fn source(name: &str) -> PathBuf {
    let given = Path::new(name);
    if given.join("config.json").exists() { given.to_owned() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles").join(name) }
}

/// Changes the owner of the rootfs to the user that the user namespace maps to root, as callers do.
fn give(bundle: &Bundle) -> Result<()> {
    let mapped = |what: &str| {
        let maps = bundle.config["linux"][what].as_array()?;
        let root = maps.iter().find(|map| map["containerID"] == 0)?;
        root["hostID"].as_u64().and_then(|id| u32::try_from(id).ok())
    };
    let (Some(uid), Some(gid)) = (mapped("uidMappings"), mapped("gidMappings")) else { return Ok(()) };
    for folder in ["", "bin", "dev", "etc", "proc", "sys", "tmp"] {
        chown(bundle.rootfs(folder), Some(uid), Some(gid)).context("give the rootfs to the mapped root")?;
    }
    Ok(())
}
