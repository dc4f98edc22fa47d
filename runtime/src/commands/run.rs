//! `run`: creates and starts a container. Without --detach it also waits, deletes, and returns the program's exit code.

use anyhow::Result;
use libcontainer::container::{Container, Process};
use libcontainer::error;

use super::create;
use crate::call::Call;
use crate::foreground::{self, Foreground, Signals};

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    call.check_name()?;
    let mut options = create::options(call.args)?;
    options.detach = call.args.on("detach");
    if let Some(format) = call.args.text("dry-run") {
        return create::dry_run(call, &options, format);
    }
    let (runtime, id) = (call.runtime()?, call.id()?);
    // blocked now, so that a signal waits until the container exists and is then passed on
    let signals = if options.detach { None } else { Some(Signals::hold()?) };
    if signals.is_some() && !call.args.on("no-subreaper") {
        foreground::adopt_orphans()?;
    }
    let (mut container, process) = runtime.create(id, &options)?;
    match go(&mut container, process, signals.as_ref()) {
        Ok(code) => {
            if !options.detach && !call.args.on("keep") {
                delete(container);
            }
            Ok(code)
        }
        Err(e) => {
            delete(container);
            // conmon takes a pid file as a sign of success
            if let Some(path) = &options.pid_file {
                let _ = std::fs::remove_file(path);
            }
            Err(e.into())
        }
    }
}

fn go(container: &mut Container, process: Process, signals: Option<&Signals>) -> error::Result<u8> {
    let foreground = signals.map(|signals| Foreground::over(process, signals)).transpose()?;
    container.start()?;
    foreground.map_or(Ok(0), Foreground::attend)
}

/// A failure is only logged, because it must not replace the program's exit code or the first error.
fn delete(container: Container) {
    let id = container.record().id.clone();
    if let Err(e) = container.delete(true) {
        log::warn!("delete container {id}: {e}");
    }
}
