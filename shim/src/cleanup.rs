//! `delete`: clears what a shim has left that is gone, and tells how its container ended. containerd calls it after every
//! shim, dead or not, so it finds mostly nothing; a second call says the same as the first.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use libcontainer::error::{Doing, Error, Kind, Result};

use crate::bootstrap;
use crate::bundle;
use crate::flags::Flags;
use crate::pod;
use crate::rpc::messages::DeleteResponse;
use crate::rpc::wire::Message;
use crate::runtime::Runtime;

/// 128 + SIGKILL.
const KILLED: u32 = 137;

/// A DeleteResponse.
pub(crate) fn delete(flags: &Flags) -> Result<Vec<u8>> {
    let bundle = if flags.bundle.is_empty() { std::env::current_dir().doing(|| "find the bundle")? } else { PathBuf::from(&flags.bundle) };
    let options = bundle::read_options(&bundle)?;
    let runtime = Runtime::new(&options, &flags.namespace);
    let pid = bundle::pid(&bundle);
    let bundle_name = bundle.to_string_lossy();
    runtime.delete(&flags.id, &bundle_name, true).map_err(|status| Error::new(Kind::Os, status.message))?;
    pod::remove_files(&bundle)?;
    let group = bundle::group(&bundle).unwrap_or_default();
    let leads = group.as_ref().is_none_or(|group| *group == flags.id);
    if leads && !bundle::socket(&bundle).is_some_and(|path| bootstrap::is_served(&path)) {
        // a container by itself has no others
        if group.is_some() || !bundle.join("config.json").exists() {
            delete_others(&runtime, &flags.id);
        }
        remove_socket(&bundle);
    }
    let response = DeleteResponse { pid: pid as u32, exit_status: KILLED, exited_at: Some(SystemTime::now().into()) };
    Ok(response.encode())
}

/// Ends what a dead shim has left of its group. containerd asks for nobody but the container for which it started the shim, and
/// the others would run on, with nobody to stop them.
fn delete_others(runtime: &Runtime, group: &str) {
    for (id, bundle) in runtime.members(group) {
        if let Err(e) = runtime.delete(&id, &bundle, true) {
            // the one that was asked for is deleted all the same; containerd logs this
            let _ = writeln!(std::io::stderr(), "delete {id}: {}", e.message);
        }
    }
}

fn remove_socket(bundle: &Path) {
    if let Some(path) = bundle::socket(bundle) {
        // it is gone already when the shim ended by itself
        let _ = std::fs::remove_file(path);
    }
}
