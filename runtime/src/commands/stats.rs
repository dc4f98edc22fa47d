//! `stats`: prints the resource usage of containers, as a table, as JSON, or as OpenMetrics text.

mod openmetrics;
mod table;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use libcontainer::cgroup::Stats;
use libcontainer::container::{Container, Listed, Status};
use libcontainer::error::{self, Error, Kind};
use rustix::io::Errno;

use super::duration::interval;
use super::events::print_stats;
use crate::call::Call;
use crate::log::complain;

/// Moves the cursor home and clears the screen below it (console_codes(4)).
const CLEAR: &str = "\x1b[H\x1b[J";

/// The usage of one container at one moment.
#[derive(Debug)]
struct Sample {
    id: String,
    at: Instant,
    stats: Stats,
}

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let every = call.args.text("interval").map_or(Ok(Duration::from_secs(1)), |text| interval("interval", text))?;
    let containers = || containers(call);
    match call.args.text("format").unwrap_or("table") {
        "table" => {
            let live = std::io::stdout().is_terminal() && !call.args.on("no-stream");
            let mut before = samples(containers()?);
            loop {
                // processor usage is a difference, so the table needs a second sample
                std::thread::sleep(every);
                let now = samples(containers()?);
                let text = table::print(&before, &now);
                super::print(if live { format!("{CLEAR}{text}") } else { text }.as_bytes())?;
                if !live {
                    return Ok(0);
                }
                before = now;
            }
        }
        "json" => containers()?.iter().try_for_each(|c| skip_ended(c, print_stats(c)))?,
        "openmetrics" => super::print(openmetrics::print(&samples(containers()?)).as_bytes())?,
        other => return Err(Error::invalid(format!("invalid format option: {other}")).into()),
    }
    Ok(0)
}

/// The named containers, which must exist and not be stopped. Without names, all containers that are not stopped.
fn containers(call: &Call<'_>) -> Result<Vec<Container>> {
    let runtime = call.runtime()?;
    if !call.args.operands.is_empty() {
        let open = |id: &String| -> error::Result<Container> {
            let container = runtime.open(id)?;
            match container.status()? {
                Status::Stopped => Err(Error::wrong_status(format!("container {id} is not running"))),
                _ => Ok(container),
            }
        };
        return Ok(call.args.operands.iter().map(open).collect::<error::Result<_>>()?);
    }
    let listed = match runtime.list() {
        Err(e) if e.errno() == Some(Errno::NOENT) && !call.args.given("root") => return Ok(Vec::new()),
        result => result?,
    };
    let mut running = Vec::new();
    for container in listed {
        let runs = |c: &Listed<'_>| matches!(c.status, Status::Created | Status::Running | Status::Paused);
        match container.and_then(|c| runs(&c).then(|| c.open()).transpose()) {
            Ok(container) => running.extend(container),
            Err(e) if e.kind() == Kind::NotFound => {}
            // a damaged container must not hide the others
            Err(e) => complain(&e.to_string()),
        }
    }
    Ok(running)
}

fn samples(containers: Vec<Container>) -> BTreeMap<String, Sample> {
    let mut samples = BTreeMap::new();
    for container in containers {
        let id = container.record().id.clone();
        match container.stats() {
            Ok(stats) => drop(samples.insert(id.clone(), Sample { id, at: Instant::now(), stats })),
            Err(e) if e.kind() == Kind::WrongStatus => {}
            Err(e) => complain(&e.to_string()),
        }
    }
    samples
}

/// Ignores the error of a container that stopped after it was listed.
fn skip_ended(container: &Container, result: Result<()>) -> Result<()> {
    match result {
        Err(_) if container.status().is_ok_and(|status| status == Status::Stopped) => Ok(()),
        result => result,
    }
}
