//! `delete`: clears what a shim has left that is gone, and tells how its container ended. containerd calls it after every
//! shim, dead or not, so it finds mostly nothing; a second call says the same as the first.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use libcontainer::error::{Doing, Error, Kind, Result};

use crate::bootstrap;
use crate::flags::Flags;
use crate::pod;
use crate::rpc::messages::{DeleteResponse, Options};
use crate::rpc::wire::Message;
use crate::runtime::{PID_FILE, Runtime};
use crate::state::timestamp;

/// Where Create keeps the options that are not the default, in the bundle.
const OPTIONS: &str = "options.json";
/// 128 + SIGKILL.
const KILLED: u32 = 137;

/// A DeleteResponse.
pub(crate) fn delete(flags: &Flags) -> Result<Vec<u8>> {
    let bundle = if flags.bundle.is_empty() { std::env::current_dir().doing(|| "find the bundle")? } else { PathBuf::from(&flags.bundle) };
    let options = read_options(&bundle)?;
    let runtime = Runtime::new(&options, &flags.namespace);
    let pid = pid_of(&bundle);
    let bundle_name = bundle.to_string_lossy();
    runtime.delete(&flags.id, &bundle_name, true).map_err(|status| Error::new(Kind::Os, status.message))?;
    pod::remove_files(&bundle)?;
    let group = bootstrap::named_group(&bundle).unwrap_or_default();
    let leads = group.as_ref().is_none_or(|group| *group == flags.id);
    if leads && !socket_of(&bundle).is_some_and(|path| bootstrap::is_served(&path)) {
        // a container by itself has no others
        if group.is_some() || !bundle.join("config.json").exists() {
            delete_others(&runtime, &flags.id);
        }
        remove_socket(&bundle);
    }
    let response = DeleteResponse { pid: pid as u32, exit_status: KILLED, exited_at: Some(timestamp(SystemTime::now())) };
    Ok(response.encode())
}

/// 0 if nothing was created.
fn pid_of(bundle: &Path) -> i32 {
    std::fs::read_to_string(bundle.join(PID_FILE)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The socket of a group, which goes with the container that the group is named after, unless a shim still serves it.
fn socket_of(bundle: &Path) -> Option<PathBuf> {
    let address = std::fs::read_to_string(bundle.join("address")).ok()?;
    address.trim().strip_prefix("unix://").map(PathBuf::from)
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
    if let Some(path) = socket_of(bundle) {
        // it is gone already when the shim ended by itself
        let _ = std::fs::remove_file(path);
    }
}

/// Written before anything is made, for [`delete`].
pub(crate) fn write_options(bundle: &Path, options: &Options) -> Result<()> {
    if options.binary_name.is_empty() && options.root.is_empty() {
        return Ok(());
    }
    let path = bundle.join(OPTIONS);
    let doing = || format!("write {}", path.display());
    let text = serde_json::json!({
        "binary_name": options.binary_name, "root": options.root, "systemd_cgroup": options.systemd_cgroup,
        "io_uid": options.io_uid, "io_gid": options.io_gid,
    })
    .to_string();
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::from_raw_mode(0o600)).doing(doing)?;
    std::io::Write::write_all(&mut std::fs::File::from(fd), text.as_bytes()).doing(doing)
}

fn read_options(bundle: &Path) -> Result<Options> {
    let path = bundle.join(OPTIONS);
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Options::default()),
        result => result.doing(|| format!("read {}", path.display()))?,
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    let get = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Ok(Options {
        binary_name: get("binary_name"),
        root: get("root"),
        systemd_cgroup: value["systemd_cgroup"].as_bool().unwrap_or(false),
        ..Options::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_options(dir.path()).unwrap(), Options::default());
        write_options(dir.path(), &Options::default()).unwrap();
        assert!(!dir.path().join(OPTIONS).exists());
        let options = Options { binary_name: "crun".into(), root: "/r".into(), systemd_cgroup: true, ..Options::default() };
        write_options(dir.path(), &options).unwrap();
        assert_eq!(read_options(dir.path()).unwrap(), options);
        std::fs::write(dir.path().join(OPTIONS), "{").unwrap();
        read_options(dir.path()).unwrap_err();
    }
}
