//! `-info`: what this runtime is, for CRI and for `ctr plugins inspect-runtime`.

use std::io::Read;

use libcontainer::error::{Doing, Error, Kind, Result};
use libcontainer::features::Features;

use crate::messages::{Any, RuntimeInfo, RuntimeVersion};
use crate::wire::Message;

const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
const MAX_INPUT: u64 = 4 << 20;

/// A RuntimeInfo. The options come in as an Any, or not at all.
pub(crate) fn answer() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    std::io::stdin().take(MAX_INPUT).read_to_end(&mut input).doing(|| "read the options")?;
    let options = if input.is_empty() { None } else { Some(Any::decode(&input).map_err(|_| Error::invalid("the options are no Any"))?) };
    let features = serde_json::to_vec(&Features::of_this_library(crate::VERSION, ""));
    let features = features.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let info = RuntimeInfo {
        name: "io.containerd.masu.v2".into(),
        version: Some(RuntimeVersion { version: crate::VERSION.into(), revision: String::new() }),
        options,
        features: Some(Any { type_url: FEATURES.into(), value: features }),
        ..RuntimeInfo::default()
    };
    Ok(info.encode())
}
