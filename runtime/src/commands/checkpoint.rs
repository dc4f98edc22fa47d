//! `checkpoint` and `restore`: their flags are known, so that callers who probe them get the answers of runc, but
//! neither is done yet.

use anyhow::Result;
use libcontainer::error::Error;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let name = call.args.command.map_or("", |c| c.name);
    Err(Error::unsupported(format!("{name} is not supported yet")).into())
}
