//! `features`: prints the supported features as JSON, and writes nothing else.

use anyhow::Result;
use libcontainer::features::Features;

use crate::version::{COMMIT, VERSION};

pub(super) fn run() -> Result<u8> {
    let mut text = serde_json::to_vec_pretty(&Features::of_this_library(VERSION, COMMIT))?;
    text.push(b'\n');
    super::print(&text)?;
    Ok(0)
}
