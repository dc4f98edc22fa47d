//! `create`: makes a container whose process waits for `start`.

use std::path::PathBuf;

use anyhow::Result;
use libcontainer::container::{CreateOptions, Runtime};
use libcontainer::error::{self, Doing, Error};

use super::{print, print_json};
use crate::args::Args;
use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    call.check_name()?;
    let mut options = options(call.args)?;
    options.detach = true;
    options.process_optional = true;
    if let Some(format) = call.args.text("dry-run") {
        return dry_run(call, &options, format);
    }
    call.runtime()?.create(call.id()?, &options)?;
    Ok(0)
}

/// Prints the plan, and makes nothing.
pub(super) fn dry_run(call: &Call<'_>, options: &CreateOptions, format: &str) -> Result<u8> {
    let page = Runtime::new(call.find_root()?.0).dry_run(call.id()?, options)?;
    match format {
        "json" => print_json(&page)?,
        _ => print(page.text().as_bytes())?,
    }
    Ok(0)
}

/// The flags that `create` and `run` share.
pub(super) fn options(args: &Args) -> error::Result<CreateOptions> {
    let (systemd_cgroup, no_cgroup) = match args.text("cgroup-manager") {
        None => (args.on("systemd-cgroup"), false),
        Some("cgroupfs") => (false, false),
        Some("systemd") => (true, false),
        Some("disabled") => (false, true),
        Some(other) => return Err(Error::invalid(format!("--cgroup-manager {other}: neither cgroupfs, systemd nor disabled"))),
    };
    let mut options = CreateOptions::new(path(args, "bundle").unwrap_or_else(|| ".".into()));
    options.config = path(args, "config");
    options.console_socket = path(args, "console-socket");
    options.pidfd_socket = path(args, "pidfd-socket");
    options.pid_file = pid_file(args)?;
    options.no_pivot = args.on("no-pivot");
    options.no_new_keyring = args.on("no-new-keyring");
    options.preserve_fds = preserve_fds(args)?;
    options.listen_fds = listen_fds();
    options.systemd_cgroup = systemd_cgroup;
    options.no_cgroup = no_cgroup;
    options.seccomp_receiver = std::env::var("RUN_OCI_SECCOMP_RECEIVER").ok().filter(|path| !path.is_empty());
    options.notify_socket = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()).map(PathBuf::from);
    Ok(options)
}

pub(super) fn path(args: &Args, flag: &str) -> Option<PathBuf> {
    args.text(flag).map(PathBuf::from)
}

/// A path relative to the caller's working directory, not to the bundle.
pub(super) fn pid_file(args: &Args) -> error::Result<Option<PathBuf>> {
    args.text("pid-file").map(|p| std::path::absolute(p).doing(|| format!("make --pid-file {p} absolute"))).transpose()
}

pub(super) fn preserve_fds(args: &Args) -> error::Result<u32> {
    let n = args.number("preserve-fds").unwrap_or_default();
    u32::try_from(n).map_err(|_| Error::invalid(format!("--preserve-fds {n}: out of range")))
}

/// The number of sockets that systemd passes, if $LISTEN_PID is this process (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    let Some(n) = number("LISTEN_FDS") else { return 0 };
    if number("LISTEN_PID") == Some(std::process::id()) { n } else { 0 }
}
