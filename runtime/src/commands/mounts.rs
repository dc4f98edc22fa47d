//! `mounts add` and `mounts remove`: change the mounts of an existing container, with crun's command line and format.

use anyhow::Result;
use libcontainer::error::{Doing, Error};
use libcontainer::spec::{LiveChanges, Mount, Resources};

use super::update::document;
use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let [verb, id, file] = call.args.operands.as_slice() else {
        return Err(Error::invalid("mounts wants a verb, an id and a file").into());
    };
    let mut changes = LiveChanges::default();
    let list = match verb.as_str() {
        "add" => &mut changes.mounts.add,
        "remove" => &mut changes.mounts.remove,
        other => return Err(Error::invalid(format!("unknown command {other}: neither add nor remove")).into()),
    };
    *list = Mount::list_from_slice(&document(file)?).doing(|| format!("read {file}"))?;
    call.runtime()?.open(id)?.update_live(&Resources::default(), &changes)?;
    Ok(0)
}
