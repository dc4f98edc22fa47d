//! Control groups that systemd makes: a transient scope for each container (`--systemd-cgroup`).
//!
//! Runs in the runtime. org.freedesktop.systemd1(5), systemd.scope(5); systemd's "Control Group APIs and Delegation". In
//! reading order:
//!
//! - this file: what a scope is to be, from the config; `unit.rs`: its name and place; `properties.rs`: limits and device
//!   rules; `annotations.rs`: properties that the config's author sets. All pure.
//! - `scope.rs`: the scope of a new container; `job.rs`: it is made, changed, stopped.
//! - `bus.rs`: the connection; `address.rs`: where it leads; `message.rs`, `value.rs`: what goes over it.
//!
//! systemd makes the directory and knows the limits, so that it does not take them back when it writes the same files; all
//! the rest is done with files as ever. So there is a conversation in create, update and delete, and in nothing else.
//!
//! A scope needs a process to be made for. Init is cloned outside, moved by systemd, and makes its mounts meanwhile.

mod annotations;
mod job;
mod properties;
mod scope;
mod unit;

use std::collections::BTreeMap;

pub(super) use properties::countable;
pub(crate) use unit::Unit;

use rustix::fs::Access;
use rustix::io::Errno;

use super::devices::Devices;
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::outline::Outline;
use crate::spec::Resources;
pub(crate) use masu_host::dbus::Bus;
use masu_host::dbus::{Owner, Value};
use properties::Property;
use unit::Named;

/// crun's annotation: the container's processes are in a cgroup of that name below the scope.
const SUBGROUP: &str = "run.oci.systemd.subgroup";

/// A systemd, and the cgroup that all of its units are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    owner: Owner,
    /// Below the mount, without slashes at its ends; empty for the machine's.
    above: String,
}

impl Instance {
    /// A user's in that cgroup, or, if it is empty, the machine's.
    #[cfg(test)]
    pub(super) fn below(above: &str) -> Instance {
        Instance { owner: if above.is_empty() { Owner::System } else { Owner::User }, above: above.to_owned() }
    }

    /// The one that makes our cgroups: the machine's for its root, else the user's, which is asked where it is.
    pub(crate) fn detect() -> Result<Instance> {
        let owner = Owner::detect();
        if owner == Owner::System {
            return Ok(Instance::default());
        }
        let above = Bus::connect(owner)?.property("ControlGroup").map_err(Error::from)?;
        if above.split('/').any(|part| part == "..") {
            return Err(Error::new(crate::error::Kind::Internal, format!("systemd says that it is in cgroup {above:?}")));
        }
        Ok(Instance { owner, above: above.trim_matches('/').to_owned() })
    }
}

/// What to ask systemd for.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) unit: Unit,
    /// Its directory below the mount, without a slash at its start.
    pub(super) dir: String,
    /// Where below the scope the container is; empty for the scope itself.
    pub(super) subgroup: String,
    properties: Vec<Property>,
}

impl Scope {
    /// Plans the scope of container `id`. `devices` are its rules, played through.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind): `linux.cgroupsPath` is not of systemd's form; an annotation that is no
    /// property.
    pub(super) fn plan(
        id: &str,
        systemd: &Instance,
        cgroups_path: &str,
        resources: &Resources,
        devices: &Devices,
        annotations: &BTreeMap<String, String>,
        found: &mut Findings,
    ) -> Option<Scope> {
        let given = annotations::plan(annotations, found);
        let subgroup = annotations.get(SUBGROUP).map(|text| text.trim_matches('/')).unwrap_or_default();
        if subgroup.split('/').any(|part| matches!(part, ".." | ".")) || subgroup.contains("//") || subgroup.contains('\0') {
            let text = format!("annotations: {SUBGROUP}: {subgroup:?} is not the path of a cgroup");
            found.wrong(format!("annotations.{SUBGROUP}"), Error::invalid(text));
        }
        let Named { unit, slice, dir } = found.at("linux.cgroupsPath", Named::parse(id, cgroups_path, systemd.owner))?;
        let dir = if systemd.above.is_empty() { dir } else { format!("{}/{dir}", systemd.above) };
        let name = unit.strip_suffix(".scope").unwrap_or(&unit);
        let on = |name: &str| Property::required(name, Value::Bool(true));
        let mut properties = vec![
            Property::required("Description", Value::text(format!("libcontainer container {name}"))),
            Property::required("Slice", Value::text(slice)),
            on("Delegate"),
            on("MemoryAccounting"),
            on("CPUAccounting"),
            on("IOAccounting"),
            on("TasksAccounting"),
            Property::required("DefaultDependencies", Value::Bool(false)),
        ];
        properties.extend(given);
        properties.extend(properties::limits(resources));
        properties.extend(properties::at_start(resources));
        properties.extend(properties::device_rules(devices));
        Some(Scope { unit: Unit { name: unit, owner: systemd.owner }, dir, subgroup: subgroup.to_owned(), properties })
    }

    /// The unit and its properties, in the order in which systemd gets them.
    pub(super) fn describe(&self) -> Outline {
        let Scope { unit, dir: _, subgroup: _, properties } = self;
        let text = |p: &Property| Outline::Text(format!("{} = {}", p.name, p.value));
        Outline::Map(vec![("unit", Outline::Text(unit.name.clone())), ("properties", Outline::List(properties.iter().map(text).collect()))])
    }
}

impl Unit {
    /// Stops it and waits until it is gone, and with it the directory `path`.
    pub(super) fn stop(&self, bus: Option<&mut Bus>, path: Option<&str>) -> Result<()> {
        let is_gone = || path.is_none_or(|path| rustix::fs::access(path, Access::EXISTS) == Err(Errno::NOENT));
        match bus {
            Some(bus) => job::stop(bus, self, &is_gone),
            None => job::stop(&mut Bus::connect(self.owner)?, self, &is_gone),
        }
    }

    /// Tells systemd of other limits and device rules: each time those that were, and those that are to be.
    pub(super) fn change(&self, limits: Option<(&Resources, &Resources)>, devices: Option<(&Devices, &Devices)>) -> Result<Change> {
        let all = |limits: Option<&Resources>, devices: Option<&Devices>| {
            let rules = devices.into_iter().flat_map(properties::device_rules);
            limits.into_iter().flat_map(properties::limits).chain(rules).collect::<Vec<_>>()
        };
        let old = all(limits.map(|l| l.0), devices.map(|d| d.0));
        let new = all(limits.map(|l| l.1), devices.map(|d| d.1));
        job::set(&mut Bus::connect(self.owner)?, self, &new)?;
        Ok(Change { unit: self.clone(), back: properties::back(&old, &new) })
    }
}

/// Properties that were changed.
#[derive(Debug)]
pub(super) struct Change {
    unit: Unit,
    back: Vec<Property>,
}

impl Change {
    /// Brings them back; best effort, for there is an error to report already.
    pub(super) fn undo(&self) {
        let _ = Bus::connect(self.unit.owner).and_then(|mut bus| job::set(&mut bus, &self.unit, &self.back));
    }
}
