//! `pause` and `resume`: freeze and thaw the processes of a container.

use anyhow::Result;

use crate::call::Call;

pub(super) fn pause(call: &Call<'_>) -> Result<u8> {
    call.container()?.pause()?;
    Ok(0)
}

pub(super) fn resume(call: &Call<'_>) -> Result<u8> {
    call.container()?.resume()?;
    Ok(0)
}
