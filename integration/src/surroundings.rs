//! What a caller prepares around a bundle: the bundles of `bundles/` as Docker, podman and Kubernetes write them, made fit for
//! this machine, with the sources of their bind mounts, the namespaces of a pod, and without the limits that this view of
//! the cgroups lacks.

use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::cgroups;

/// The prefix of paths in the bundles that stand for what a caller prepares.
const PREPARED: &str = "/run/bench/";

/// The files and namespaces that callers' bundles refer to; they go when this does, but for the files.
#[derive(Debug)]
pub struct Surroundings {
    folder: PathBuf,
    payload: PathBuf,
    pod: Child,
}

impl Surroundings {
    /// Makes them in `folder`; the namespaces of the pod are kept by a `payload` that sleeps.
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
        // it says `ready` once it is in them
        let mut word = [0; 6];
        pod.stdout.take().context("the output of unshare")?.read_exact(&mut word).context("wait for the namespaces of a pod")?;
        Ok(Self { folder: folder.to_owned(), payload: payload.to_owned(), pod })
    }

    /// Makes the bundle `name` at `path`: `name` is a folder of the project's bundles, or one with a config.json.
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
        // crun before 1.14.3 refuses every newer one
        config["ociVersion"] = json!("1.0.2");
        let own_score: i64 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
        let process = config["process"].as_object_mut().context("a process in the config")?;
        if process.get("oomScoreAdj").and_then(Value::as_i64).is_some_and(|score| score < own_score) {
            process.remove("oomScoreAdj");
        }
        // a terminal would have to be relayed, and a limit above ours takes a privilege
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

    /// Every string that stands for what a caller prepares becomes a path of ours.
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

/// Where the bundle `name` is.
fn source(name: &str) -> PathBuf {
    let given = Path::new(name);
    if given.join("config.json").exists() { given.to_owned() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles").join(name) }
}

/// Gives the rootfs to whom its user namespace maps to root, as the storage of a caller does.
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
