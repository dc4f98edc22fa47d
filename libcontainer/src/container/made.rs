//! What create makes on the host before there is a process, with its undo: on disk first, for `delete --force`, and here, for a
//! create that fails.

use std::path::Path;

use masu_host::dbus::Bus;
use masu_host::procfs::Procfs;
use masu_host::time;

use super::create::CreateOptions;
use super::record::{Defaults, Record};
use super::state_dir::StateDir;
use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Kind, Result};
use crate::hooks;
use crate::intel_rdt::{self, Group};
use crate::launch::gate::Gate;
use crate::launch::notify;
use crate::namespaces::net_devices::Moved;
use crate::plan::Plan;
use crate::spec::{self, Spec};

/// All that was made. It is taken back when this is dropped, in this order, unless it is kept.
#[derive(Debug)]
pub(super) struct Made {
    /// Network devices that are the container's now.
    pub(super) devices: Option<Moved>,
    class: Option<intel_rdt::Made>,
    pub(super) cgroup: Cgroup,
    pub(super) record: Record,
    pub(super) dir: Claim,
}

impl Made {
    /// Claims the id, writes what will be on the host, and makes it: what exec and update will want of the config, the
    /// cgroup with its limits, the class of service. The plan loses its annotations if no hook and no agent reads them: init
    /// need not inherit what may be a megabyte.
    pub(super) fn make(
        root: &Path,
        id: &str,
        plan: &mut Plan,
        spec: Spec,
        options: &CreateOptions,
        proc: &Procfs,
        bus: Option<Bus>,
    ) -> Result<Made> {
        let record = intent(plan, proc, options)?;
        let dir = Claim::new(StateDir::claim(root, id)?, &record)?;
        keep_defaults(dir.get()?, plan, spec)?;
        if record.annotated {
            dir.get()?.write_annotations(&plan.annotations)?;
            if !plan.tells_state() {
                plan.annotations.clear();
            }
        }
        if options.notify_socket.is_some() {
            notify::make(dir.get()?.fd())?;
        }
        let cgroup = match bus {
            Some(bus) => Cgroup::await_scope(&plan.cgroup, bus),
            None => Cgroup::create(&plan.cgroup),
        };
        let cgroup = cgroup.doing(|| "unable to start container process: unable to apply cgroup configuration")?;
        let class = match (&plan.intel_rdt, &record.intel_rdt) {
            (Some(rdt), Some(group)) => Some(group.make(rdt).doing(|| "unable to apply Intel RDT configuration")?),
            _ => None,
        };
        Ok(Made { devices: None, class, cgroup, record, dir })
    }

    /// The gate, for init to inherit.
    pub(super) fn gate(&self) -> Result<Gate> {
        Gate::make(self.dir.get()?.fd())
    }

    /// Leaves all of it on the host.
    pub(super) fn keep(self) -> Result<(StateDir, Record)> {
        self.cgroup.keep();
        if let Some(class) = self.class {
            class.keep();
        }
        if let Some(devices) = self.devices {
            devices.keep();
        }
        Ok((self.dir.keep()?, self.record))
    }

    /// The way back from a failure after the clone, when init itself is dead: what hooks or init left in the cgroup is killed, all
    /// that was made is removed, and then the poststop hooks run (runtime.md, "Lifecycle", 12 and 13), if others may have run
    /// before.
    pub(super) fn undo(self, plan: &Plan, runs_hooks: bool, output: &hooks::Opened) {
        // what cannot be killed or removed now is found again by the intent
        let _ = self.cgroup.kill();
        drop(self);
        if runs_hooks && !plan.hooks.poststop.is_empty() {
            match plan.state_json(0, "stopped") {
                Ok(state) => hooks::run_each("poststop", &plan.hooks.poststop, &state, &plan.bundle, output),
                Err(e) => log::warn!("poststop hooks: {e}"),
            }
        }
    }
}

/// A state directory that is removed unless it is kept.
#[derive(Debug)]
pub(super) struct Claim(Option<StateDir>);

impl Claim {
    fn new(dir: StateDir, record: &Record) -> Result<Claim> {
        let taken = dir.lock().and_then(|lock| lock.write_intent(record));
        match taken {
            Ok(()) => Ok(Claim(Some(dir))),
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::new(Kind::Busy, "the container was deleted while it was created; try again"))
            }
            Err(e) => {
                dir.abandon();
                Err(e)
            }
        }
    }

    pub(super) fn get(&self) -> Result<&StateDir> {
        self.0.as_ref().ok_or_else(super::given_away)
    }

    fn keep(mut self) -> Result<StateDir> {
        self.0.take().ok_or_else(super::given_away)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // a directory that another verb has removed is not ours to remove; what cannot be removed is found again
            let _ = dir.lock().and_then(|dir| dir.remove(true));
        }
    }
}

/// What will exist on the host, and which process makes it.
fn intent(plan: &Plan, proc: &Procfs, options: &CreateOptions) -> Result<Record> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    Ok(Record {
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.path.clone(),
        created: time::now(),
        owner: rustix::process::geteuid().as_raw(),
        annotated: !plan.annotations.is_empty(),
        boot_id: proc.boot_id()?.to_owned(),
        maker: me,
        maker_start_time: proc.process(me)?.map_or(0, |p| p.start_time),
        cgroup: plan.cgroup.paths().clone(),
        unit: plan.cgroup.unit().cloned(),
        intel_rdt: plan.intel_rdt.as_ref().map(|rdt| Group::intend(rdt, &plan.id, proc)).transpose()?,
        namespaces: plan.namespaces.all(),
        fresh_namespaces: plan.namespaces.fresh,
        keyring: plan.keyring.is_some(),
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
        hook_output: plan.extensions.hook_output.clone(),
        no_program: plan.process.args.is_empty(),
        notify_socket: options.notify_socket.as_ref().map(|p| p.to_string_lossy().into_owned()),
        ..Record::new()
    })
}

/// What exec and update will want of the config as it is now.
fn keep_defaults(dir: &StateDir, plan: &Plan, spec: Spec) -> Result<()> {
    if let Some(filter) = &plan.process.filter {
        dir.write_filter(&filter.to_bytes())?;
    }
    let process = spec.process.unwrap_or_default();
    let linux = spec.linux.unwrap_or_default();
    dir.write_first_defaults(&Defaults {
        process: spec::Process { args: Vec::new(), ..process },
        resources: linux.resources.unwrap_or_default(),
        devices: None,
        personality: plan.process.personality,
        keep_groups: plan.extensions.keep_groups,
        memory_policy: linux.memory_policy,
    })
}
