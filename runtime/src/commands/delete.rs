//! `delete`: removes a stopped container.

use std::ffi::CString;

use anyhow::Result;
use libcontainer::error::{self, Error};
use masu_host::sys::regex::Regex;

use crate::call::Call;
use crate::log::complain;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let runtime = call.runtime()?;
    let force = call.args.on("force");
    if call.args.on("regex") {
        return each_match(call, |id| runtime.delete(id, force));
    }
    runtime.delete(call.id()?, force)?;
    Ok(0)
}

/// crun's --regex: calls `act` for each container whose id matches. A failure is printed; it neither stops the loop nor changes
/// the exit code.
pub(super) fn each_match(call: &Call<'_>, mut act: impl FnMut(&str) -> error::Result<()>) -> Result<u8> {
    let pattern = call.args.operands.first().map_or("", String::as_str);
    let bad = |why: &str| Error::invalid(format!("invalid regular expression {pattern}: {why}"));
    let regex = Regex::new(&CString::new(pattern).map_err(|_| bad("it holds a NUL byte"))?).map_err(|why| bad(&why))?;
    for id in call.runtime()?.ids()? {
        if CString::new(id.as_str()).is_ok_and(|text| regex.matches(&text))
            && let Err(e) = act(&id)
        {
            complain(&format!("container {id}: {e}"));
        }
    }
    Ok(0)
}
