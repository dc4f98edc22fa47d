//! The bundles made fit for this machine, in a scratch folder: sources of bind mounts and namespaces that their callers
//! would have made, and without the limits that this view of the cgroups lacks.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use integration::{Bundle, artifacts, cgroups};
use serde_json::{Value, json};

/// The prefix of paths in the bundles that stand for what a caller prepares.
const PREPARED: &str = "/run/bench/";

/// A folder for everything that is made, and the namespaces that bundles of a pod join.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    payload: PathBuf,
    sandbox: Child,
}

/// Two bundles: one whose program ends at once, one whose program sleeps.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) short: PathBuf,
    pub(crate) long: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir().context("make a scratch folder")?;
        // the root of a user namespace must be able to pass through
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let payload = artifacts::payload()?;
        let files = folder.path().join("files");
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
        let mut sandbox = Command::new("unshare");
        sandbox.args(["--net", "--ipc", "--uts"]).arg(&payload).args(["deaf", "USR1", "then", "sleep"]);
        let mut sandbox = sandbox.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run unshare for the namespaces of a pod")?;
        // it says `ready` once it is in them
        let mut word = [0; 6];
        sandbox.stdout.take().context("the output of unshare")?.read_exact(&mut word).context("wait for the namespaces of a pod")?;
        Ok(Self { folder, payload, sandbox })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn payload(&self) -> &Path {
        &self.payload
    }

    /// Prepares the bundle `name`: a folder of the project's bundles, or a path.
    pub(crate) fn bundle(&self, name: &str) -> Result<Prepared> {
        let source = Path::new(name);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles").join(name);
        let source = if source.join("config.json").exists() { source } else { shipped.as_path() };
        let config = source.join("config.json");
        let text = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
        let config: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", config.display()))?;
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let make = |kind: &str, args: &[&str]| -> Result<PathBuf> {
            let mut bundle = Bundle::new(&self.path().join(format!("{name}-{kind}")), &self.payload)?;
            bundle.config = self.fit(config.clone())?;
            bundle.args(args);
            bundle.write()?;
            give(&bundle)?;
            Ok(bundle.path().to_owned())
        };
        let short = make("short", &["/bin/true"])?;
        let long = make("long", &["/bin/sleep", "100000"])?;
        Ok(Prepared { size: fs::metadata(short.join("config.json"))?.len(), name, short, long })
    }

    fn fit(&self, mut config: Value) -> Result<Value> {
        self.rewrite(&mut config);
        config["root"]["path"] = json!("rootfs");
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

    /// Every string that stands for what a caller prepares becomes a path of this scratch folder.
    fn rewrite(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(kind) = text.strip_prefix(PREPARED).and_then(|rest| rest.strip_prefix("ns/")) {
                    *text = format!("/proc/{}/ns/{kind}", self.sandbox.id());
                } else if let Some(rest) = text.strip_prefix(PREPARED) {
                    *text = self.path().join(rest).to_string_lossy().into_owned();
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.rewrite(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.rewrite(value)),
            _ => {}
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.sandbox.kill();
        let _ = self.sandbox.wait();
    }
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

/// The view of the cgroups, for the heading and the baseline.
pub(crate) fn view() -> &'static str {
    if cgroups::unified() { "v2" } else { "v1" }
}
