//! config.json of the OCI runtime spec, version 1.3, as plain structs.
//!
//! These types have the content of the file without checks and without other defaults than absence. `Plan` checks it and turns it
//! into arguments for the kernel. Unknown properties are ignored, and `null` is absence (`json.rs`).

pub(crate) mod bundle;
mod hooks;
mod json;
mod linux;
#[cfg(feature = "oci-spec")]
mod oci_spec;
mod process;
mod resources;
mod seccomp;
mod shape;
mod state;
mod update;

use std::collections::BTreeMap;

pub use hooks::{Hook, Hooks};
pub use linux::{Device, IdMapping, IntelRdt, Linux, MemoryPolicy, Namespace, NetDevice, Personality, TimeOffset};
pub use process::{Capabilities, ConsoleSize, CpuAffinity, IoPriority, Process, Rlimit, Scheduler, User};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma, Resources, ThrottleDevice, WeightDevice,
};
pub use seccomp::{Seccomp, SeccompArg, SyscallRule};
pub use state::State;
pub use update::{LiveChanges, MountChanges};

use crate::error::{Error, Result};
use crate::findings::Findings;
use json::object;

/// The version of the runtime spec that this library implements. `state` and `features` report it.
pub const VERSION: &str = "1.3.0";

/// The maximum size of config.json: 16 MiB, in bytes.
pub const MAX_CONFIG: u64 = 16 << 20;

object! {
    /// A complete config.json (config.md).
    Spec {
        "ociVersion" => oci_version: String,
        "process" => process: Option<Process>,
        "root" => root: Option<Root>,
        "hostname" => hostname: String,
        "domainname" => domainname: String,
        "mounts" => mounts: Vec<Mount>,
        "hooks" => hooks: Hooks,
        "annotations" => annotations: BTreeMap<String, String>,
        "linux" => linux: Option<Linux>,
    }

    /// The container's root file system (config.md, "Root").
    Root {
        "path" => path: String,
        "readonly" => readonly: bool,
    }

    /// One mount (config.md, "Mounts").
    Mount {
        "destination" => destination: String,
        "type" => fs_type: String,
        "source" => source: String,
        "options" => options: Vec<String>,
        "uidMappings" => uid_mappings: Vec<IdMapping>,
        "gidMappings" => gid_mappings: Vec<IdMapping>,
    }
}

impl Spec {
    /// Reads a config. Data after the first JSON value is ignored, as in Go's decoder. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind::InvalidSpec) with the JSON path: `process.user.uid: invalid type: ...`.
    pub fn from_slice(bytes: &[u8]) -> Result<Spec> {
        let spec: Option<Spec> = first_value(bytes)?;
        spec.ok_or_else(|| Error::invalid("config cannot be null"))
    }
}

impl Spec {
    /// Reads a config as [`Spec::from_slice`] does, and also goes on after a wrong type or an unknown property. `found` gets all
    /// of them. `None` if no value can be read.
    pub(crate) fn all_of_slice(bytes: &[u8], found: &mut Findings) -> Option<Spec> {
        let mut value: serde_json::Value = found.at("", first_value(bytes))?;
        if value.is_null() {
            return found.at("", Spec::from_slice(bytes));
        }
        shape::correct(&mut value, <Spec as shape::Shaped>::SHAPE, &mut String::new(), found);
        // through text again: a deserializer from serde_json's values would instantiate all readers a second time
        found.at("", Spec::from_slice(value.to_string().as_bytes()))
    }
}

// These functions are not generic: a generic one would instantiate all readers a second time in each program.
impl Process {
    /// Reads a process document, as [`Spec::from_slice`] reads a config.
    ///
    /// # Errors
    /// As [`Spec::from_slice`].
    pub fn from_slice(bytes: &[u8]) -> Result<Process> {
        first_value(bytes)
    }
}

impl Resources {
    /// Reads resources, as [`Spec::from_slice`] reads a config.
    ///
    /// # Errors
    /// As [`Spec::from_slice`].
    pub fn from_slice(bytes: &[u8]) -> Result<Resources> {
        first_value(bytes)
    }
}

impl LiveChanges {
    /// Reads the live changes in a document for `update`, as [`Spec::from_slice`] reads a config.
    ///
    /// # Errors
    /// As [`Spec::from_slice`].
    pub fn from_slice(bytes: &[u8]) -> Result<LiveChanges> {
        first_value(bytes)
    }
}

impl Mount {
    /// Reads a list of mounts, as [`Spec::from_slice`] reads a config.
    ///
    /// # Errors
    /// As [`Spec::from_slice`].
    pub fn list_from_slice(bytes: &[u8]) -> Result<Vec<Mount>> {
        first_value(bytes)
    }
}

/// Reads the first JSON value of `bytes`.
pub(crate) fn first_value<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let lossy;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => {
            lossy = String::from_utf8_lossy(bytes);
            &*lossy
        }
    };
    if text.trim_ascii().is_empty() {
        return Err(Error::invalid("EOF"));
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(e)) if e.is_eof() => Err(Error::invalid(format!("unexpected EOF: {e}"))),
        Some(Err(e)) => Err(Error::invalid(e.to_string())),
        None => Err(Error::invalid("EOF")),
    }
}
