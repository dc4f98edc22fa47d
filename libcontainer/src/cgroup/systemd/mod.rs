//! Control groups that systemd makes: a transient scope for each container (`--systemd-cgroup`).
//!
//! Runs in the runtime. org.freedesktop.systemd1(5), systemd.scope(5); systemd's "Control Group APIs and Delegation". In
//! reading order:
//!
//! - this file: plans a scope from the config; `unit.rs`: its name and directory; `properties.rs`: limits and device rules;
//!   `annotations.rs`: properties from the config's annotations. All are pure, except for [`Instance::detect`] and the
//!   changes of a unit.
//! - `scope.rs`: the scope of a new container; `job.rs`: makes, changes and stops a scope.
//! - `masu_host::dbus`: the connection and its messages.
//!
//! systemd makes the directory. It is also told the limits, because it writes the same files and would take the limits back.
//! All the rest is done with files. So create, update and delete talk to systemd.
//!
//! A scope is made around a process: init is cloned outside, systemd moves it, and init makes its mounts meanwhile.

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

/// crun's annotation: the name of the cgroup below the scope that the container's processes are in.
const SUBGROUP: &str = "run.oci.systemd.subgroup";

/// An instance of systemd, and the cgroup that all its units are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    owner: Owner,
    /// The path of that cgroup below the mount, without slashes at its ends; empty for the system instance.
    above: String,
}

impl Instance {
    /// The user instance in cgroup `above`; if that is empty, the system instance.
    #[cfg(test)]
    pub(super) fn below(above: &str) -> Instance {
        Instance { owner: if above.is_empty() { Owner::System } else { Owner::User }, above: above.to_owned() }
    }

    /// The instance that makes our cgroups: the system's if this process is root of the host, else the user's, which is asked
    /// for its cgroup.
    ///
    /// # Errors
    /// If the user instance does not answer.
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

/// The scope to request from systemd.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) unit: Unit,
    /// The directory below the mount, without a leading slash.
    pub(super) dir: String,
    /// The container's cgroup below the scope; empty for the scope itself.
    pub(super) subgroup: String,
    properties: Vec<Property>,
}

impl Scope {
    /// Plans the scope of container `id`. `devices` are its rules, already applied in order.
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
    /// Stops the unit, and waits until the unit and the directory `path` are gone.
    pub(super) fn stop(&self, bus: Option<&mut Bus>, path: Option<&str>) -> Result<()> {
        let is_gone = || path.is_none_or(|path| rustix::fs::access(path, Access::EXISTS) == Err(Errno::NOENT));
        match bus {
            Some(bus) => job::stop(bus, self, &is_gone),
            None => job::stop(&mut Bus::connect(self.owner)?, self, &is_gone),
        }
    }

    /// Tells systemd of new limits and device rules. Each pair has the old and the new state.
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

/// A change of properties, to undo it.
#[derive(Debug)]
pub(super) struct Change {
    unit: Unit,
    back: Vec<Property>,
}

impl Change {
    /// Restores the old properties; best effort, because the caller already has an error to report.
    pub(super) fn undo(&self) {
        let _ = Bus::connect(self.unit.owner).and_then(|mut bus| job::set(&mut bus, &self.unit, &self.back));
    }
}
