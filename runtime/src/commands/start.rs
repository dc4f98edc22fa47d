//! `start`: let the process of a created container run.

use anyhow::Result;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    call.container()?.start()?;
    Ok(0)
}
