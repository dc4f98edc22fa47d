//! `-info`: what this runtime is, for CRI and for `ctr plugins inspect-runtime`.

use std::io::Read;
use std::process::Command;

use libcontainer::error::{Doing, Error, Kind, Result};
use libcontainer::features::Features;

use crate::rpc::messages::{Any, Options, RuntimeInfo, RuntimeVersion};
use crate::rpc::wire::Message;
use crate::runtime::Runtime;

const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
const MAX_INPUT: u64 = 4 << 20;

/// A RuntimeInfo. The options come in as an Any, or not at all.
pub(crate) fn answer() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    std::io::stdin().take(MAX_INPUT).read_to_end(&mut input).doing(|| "read the options")?;
    let options = if input.is_empty() { None } else { Some(Any::decode(&input).map_err(|_| Error::invalid("the options are no Any"))?) };
    let features = match options.as_ref().and_then(Options::of).and_then(|o| Runtime::new(&o, "").foreign) {
        None => {
            serde_json::to_vec(&Features::of_this_library(crate::VERSION, "")).map_err(|e| Error::new(Kind::Internal, e.to_string()))?
        }
        Some(foreign) => features_of(&foreign.program)?,
    };
    let info = RuntimeInfo {
        name: "io.containerd.masu.v2".into(),
        version: Some(RuntimeVersion { version: crate::VERSION.into(), revision: String::new() }),
        options,
        features: (!features.is_empty()).then(|| Any { type_url: FEATURES.into(), value: features }),
        ..RuntimeInfo::default()
    };
    Ok(info.encode())
}

/// What another runtime says of itself; nothing, if it has no such command.
fn features_of(program: &str) -> Result<Vec<u8>> {
    let output = Command::new(program).arg("features").output().doing(|| format!("run {program}"))?;
    Ok(if output.status.success() { output.stdout } else { Vec::new() })
}
