//! `checkpoint` and `restore`: not supported yet. Their flags are in the table, because callers probe them and expect the answers
//! of runc.

use anyhow::Result;
use libcontainer::error::Error;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let name = call.args.command.map_or("", |c| c.name);
    Err(Error::unsupported(format!("{name} is not supported yet")).into())
}
