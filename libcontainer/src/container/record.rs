//! What is on disk of a container: the record, and what exec and update need of its config.

use serde::{Deserialize, Serialize};

use super::state_dir::RECORD;
use crate::cgroup::{Paths, Unit};
use crate::error::{Error, Kind, Result};
use crate::hooks::{self, Hook};
use crate::intel_rdt;
use crate::spec;

/// The version of the layout; another one is refused.
const VERSION: u32 = 1;

/// One container, as it was created.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    pub(crate) version: u32,
    /// Its id.
    pub id: String,
    /// The bundle's directory, absolute.
    pub bundle: String,
    /// The root file system on the host, absolute.
    pub rootfs: String,
    /// RFC 3339, UTC, with nanoseconds.
    pub created: String,
    /// The uid of who created it.
    pub owner: u32,
    /// Whether it has annotations. They are in a file of their own: there may be a megabyte of them, and most verbs need
    /// none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) annotated: bool,
    /// Init's pid on the host; 0 in an intent.
    pub pid: i32,
    /// Its start time, in clock ticks since boot: a pid alone may be another process by now.
    pub start_time: u64,
    /// The boot in which it was made: after another, no process of it lives.
    pub boot_id: String,
    /// The runtime that makes it, while it is an intent.
    pub(crate) maker: i32,
    pub(crate) maker_start_time: u64,
    pub(crate) cgroup: Paths,
    /// The unit of systemd that its cgroup is, or is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) intel_rdt: Option<intel_rdt::Group>,
    /// CLONE_NEW* flags of the namespaces that are the container's, made or joined.
    pub(crate) namespaces: i32,
    /// Those of them that were made for it.
    pub(crate) fresh_namespaces: i32,
    pub(crate) keyring: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
    #[serde(default, skip_serializing_if = "hooks::Output::is_default")]
    pub(crate) hook_output: hooks::Output,
    /// The config has no `process`: there is nothing to start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_program: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) notify_socket: Option<String>,
}

impl Record {
    /// An empty one of this version's layout.
    pub(super) fn new() -> Record {
        Record { version: VERSION, ..Record::default() }
    }

    /// Whether the container has no pid namespace of its own: then others outlive its init.
    pub fn shares_pids(&self) -> bool {
        self.fresh_namespaces & libc::CLONE_NEWPID == 0
    }
}

/// What exec and update need of the config, as it was at create: later edits of config.json do not count (runtime.md).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Defaults {
    pub(crate) process: spec::Process,
    pub(crate) resources: spec::Resources,
    /// The device rules in force, where an update has changed those of the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) devices: Option<Vec<spec::DeviceRule>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_policy: Option<spec::MemoryPolicy>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) keep_groups: bool,
}

/// The record that `bytes` hold, which are from the directory `dir`.
pub(super) fn parse(bytes: &[u8], dir: &str) -> Result<Record> {
    let damaged = |why: &dyn std::fmt::Display| {
        let text = format!("{dir}/{RECORD} is damaged: {why}; end its processes by hand, and then remove {dir}");
        Error::new(Kind::Internal, text)
    };
    let record: Record = spec::first_value(bytes).map_err(|e| damaged(&e))?;
    if record.version != VERSION {
        return Err(damaged(&format!("version {} is not {VERSION}", record.version)));
    }
    Ok(record)
}
