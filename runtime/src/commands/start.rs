//! `start`: lets the process of a created container run its program.

use anyhow::Result;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    call.container()?.start()?;
    Ok(0)
}
