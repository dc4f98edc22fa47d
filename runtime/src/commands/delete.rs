//! `delete`: remove a stopped container.

use anyhow::Result;
use libcontainer::container;
use libcontainer::error::{self, Error};

use crate::args::Args;
use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    refuse_regex(call.args)?;
    container::delete(&call.root()?, call.id()?, call.args.on("force"))?;
    Ok(0)
}

/// crun's --regex: an id that happens to be a pattern must not be taken for an id.
pub(super) fn refuse_regex(args: &Args) -> error::Result<()> {
    if args.on("regex") { Err(Error::unsupported("--regex is not supported")) } else { Ok(()) }
}
