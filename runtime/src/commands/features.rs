//! `features`: what this program supports, as JSON on standard output and nothing else anywhere.

use anyhow::Result;
use libcontainer::features::Features;

use crate::version::{COMMIT, VERSION};

pub(super) fn run() -> Result<u8> {
    let mut text = serde_json::to_vec_pretty(&Features::of_this_library(VERSION, COMMIT))?;
    text.push(b'\n');
    super::print(&text)?;
    Ok(0)
}
