//! `linux.intelRdt`: the container's share of the CPU cache and of the memory bandwidth (config-linux.md, "Intel RDT"; the
//! kernel's Documentation/arch/x86/resctrl.rst).
//!
//! Runs in the runtime. A class of service is a directory of the resctrl file system, which the administrator mounts. Only a
//! directory that was made for the container is removed with it: the class that has its name, or its monitoring group.

mod resctrl;
mod schema;
mod stats;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use stats::{Bandwidth, L3CacheInfo, MemBwInfo, Occupancy, Stats};

use crate::error::{Doing, Error, Kind, Result};
use crate::spec;
use masu_host::procfs::Procfs;
use resctrl::Resctrl;

/// Other directories in a group: a group cannot have their names.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// A class of service and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IntelRdt {
    /// The name of the directory; empty for the root, which is the default class.
    pub clos: String,
    /// Whether the config names the class. Then other programs own it, and it stays.
    pub named: bool,
    /// Lines of `l3CacheSchema` and `memBwSchema`. An existing class must have them already.
    pub schema: Vec<String>,
    /// Further lines, which are always written.
    pub schemata: Vec<String>,
    pub monitoring: bool,
}

impl IntelRdt {
    /// Checks the name of the class, and collects the lines as the specification says.
    ///
    /// # Errors
    /// If the name cannot be that of a class.
    pub(crate) fn plan(rdt: &spec::IntelRdt, id: &str) -> Result<IntelRdt> {
        let clos = match rdt.clos_id.as_str() {
            "" => id,
            "/" => "",
            name if name.contains(['/', '\0'])
                || name.starts_with('.') && name.trim_matches('.').is_empty()
                || RESERVED.contains(&name) =>
            {
                return Err(Error::invalid(format!("linux.intelRdt: invalid intelRdt.ClosID {name:?}")));
            }
            name => name,
        };
        // a bandwidth in the schema of the cache is ignored (config-linux.md)
        let cache = rdt.l3_cache_schema.lines().filter(|line| !line.starts_with("MB:"));
        let lines = |text: &mut dyn Iterator<Item = &str>| text.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Ok(IntelRdt {
            clos: clos.to_owned(),
            named: !rdt.clos_id.is_empty(),
            schema: lines(&mut cache.chain(rdt.mem_bw_schema.lines())),
            schemata: lines(&mut rdt.schemata.iter().map(String::as_str)),
            monitoring: rdt.enable_monitoring,
        })
    }
}

/// The group of a container, as the container's record keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    root: String,
    clos: String,
    /// Whether the directory is new; then it is removed with the container.
    #[serde(default)]
    made: bool,
    /// The path of the monitoring group below the root. The next field tells whether it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitor: Option<String>,
    #[serde(default)]
    made_monitor: bool,
}

/// A group that was made. When dropped, it removes the new directories, unless it is kept.
#[derive(Debug)]
pub(crate) struct Made {
    resctrl: Resctrl,
    group: Group,
    removes: bool,
}

impl Group {
    /// Plans which directories the group will have and which of them are new. Nothing is made.
    ///
    /// # Errors
    /// If this machine lacks what the plan needs, or the named class does not exist and the config has no lines for it.
    pub(crate) fn intend(plan: &IntelRdt, id: &str, proc: &Procfs) -> Result<Group> {
        Self::intend_in(&Resctrl::find(proc)?, plan, id)
    }

    fn intend_in(resctrl: &Resctrl, plan: &IntelRdt, id: &str) -> Result<Group> {
        for (prefix, dir, words) in [
            ("L3", "info/L3", "l3CacheSchema is specified in config, but Intel RDT/CAT"),
            ("MB", "info/MB", "memBwSchema is specified in config, but Intel RDT/MBA"),
        ] {
            if plan.schema.iter().any(|line| line.starts_with(prefix)) && !resctrl.has(dir)? {
                return Err(Error::unsupported(format!("linux.intelRdt: intelRdt.{words} is not enabled")));
            }
        }
        let there = resctrl.has(&plan.clos)?;
        if plan.named && !there && plan.schema.is_empty() && plan.schemata.is_empty() {
            return Err(Error::invalid(format!(
                "linux.intelRdt.closID: clos dir not accessible (must be pre-created when schemata, l3CacheSchema and memBwSchema are empty): {}: no such file or directory",
                resctrl.path(&plan.clos)
            )));
        }
        let mut group = Group { root: resctrl.path(""), clos: plan.clos.clone(), made: !there, ..Group::default() };
        if plan.monitoring {
            let monitor = group.file(&format!("mon_groups/{id}"));
            group.made_monitor = !resctrl.has(&monitor)?;
            group.monitor = Some(monitor);
        }
        Ok(group)
    }

    /// Makes the group and writes its schemata.
    ///
    /// # Errors
    /// If an existing class has other values, or the kernel refuses a line. New directories are removed then.
    pub(crate) fn make(&self, plan: &IntelRdt) -> Result<Made> {
        self.make_in(self.open()?, plan)
    }

    fn make_in(&self, resctrl: Resctrl, plan: &IntelRdt) -> Result<Made> {
        if self.made {
            resctrl.make(&self.clos)?;
        } else if plan.named && !plan.schema.is_empty() {
            let there = resctrl.read(&self.file("schemata"))?;
            if let Some(line) = plan.schema.iter().find(|line| !schema::is_in(line, &there)) {
                return Err(Error::invalid(format!(
                    "linux.intelRdt: the group {} has a different configuration than {line}",
                    resctrl.path(&self.clos)
                )));
            }
        }
        let mut made = Made { resctrl, group: self.clone(), removes: self.made };
        let schema = plan.schema.iter().filter(|_| self.made || !plan.named);
        self.write_schemata(&made.resctrl, &schema.chain(&plan.schemata).map(String::as_str).collect::<Vec<_>>())?;
        if let Some(monitor) = self.monitor.as_deref().filter(|_| self.made_monitor) {
            made.resctrl.make(monitor)?;
            made.removes = true;
        }
        Ok(made)
    }

    fn write_schemata(&self, resctrl: &Resctrl, lines: &[&str]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        resctrl.write(&self.file("schemata"), &text).doing(|| format!("intelrdt: unable to write {text:?}"))
    }

    /// Moves process `pid` into the group. Children that it forks later are in the group, too.
    pub(crate) fn join(&self, pid: i32) -> Result<()> {
        let resctrl = self.open()?;
        let monitor = self.monitor.iter().map(|monitor| format!("{monitor}/tasks"));
        for tasks in [self.file("tasks")].into_iter().chain(monitor) {
            resctrl.write(&tasks, &pid.to_string()).doing(|| format!("intelrdt: unable to add pid {pid}"))?;
        }
        Ok(())
    }

    /// Removes the new directories. A directory that is already gone is no error.
    pub(crate) fn remove(&self) -> Result<()> {
        match Resctrl::open(&self.root) {
            Ok(resctrl) => self.remove_in(&resctrl),
            // resctrl is unmounted, so no directory is left
            Err(e) if e.kind() == Kind::Unsupported || e.errno() == Some(Errno::NOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn remove_in(&self, resctrl: &Resctrl) -> Result<()> {
        // the kernel removes monitoring groups with their class
        match &self.monitor {
            _ if self.made => resctrl.remove(&self.clos),
            Some(monitor) if self.made_monitor => resctrl.remove(monitor),
            _ => Ok(()),
        }
    }

    /// Writes back the lines that [`update`] returned.
    pub(crate) fn put_back(&self, before: &str) -> Result<()> {
        self.write_schemata(&self.open()?, &before.lines().map(str::trim).collect::<Vec<_>>())
    }

    /// Reads the statistics of the group.
    pub(crate) fn stats(&self) -> Result<Stats> {
        stats::read(&self.open()?, &self.file("schemata"), self.monitor.as_deref().unwrap_or(&self.clos))
    }

    fn open(&self) -> Result<Resctrl> {
        Resctrl::open(&self.root)
    }

    /// The path of a file of the class, below the root.
    fn file(&self, name: &str) -> String {
        if self.clos.is_empty() { name.to_owned() } else { format!("{}/{name}", self.clos) }
    }
}

impl Made {
    pub(crate) fn keep(mut self) {
        self.removes = false;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.removes {
            // a drop cannot return an error; `delete --force` finds the group by the record
            let _ = self.group.remove_in(&self.resctrl);
        }
    }
}

/// Writes new lines for the cache and the bandwidth. Returns the old schemata, for [`Group::put_back`].
///
/// # Errors
/// If this machine or the container lacks Intel RDT, or the kernel refuses a line.
pub(crate) fn update(group: Option<&Group>, proc: &Procfs, cache: &str, bandwidth: &str) -> Result<String> {
    let found = match group {
        Some(group) => Some(group.open()?),
        None => match Resctrl::find(proc) {
            Err(e) if e.kind() == Kind::Unsupported => None,
            found => Some(found?),
        },
    };
    for (schema, dir, words) in [(cache, "info/L3", "CAT: l3 cache schema"), (bandwidth, "info/MB", "MBA: memory bandwidth schema")] {
        let enabled = match &found {
            Some(resctrl) => resctrl.has(dir)?,
            None => false,
        };
        if !schema.is_empty() && !enabled {
            return Err(Error::unsupported(format!("Intel RDT/{words} is not enabled")));
        }
    }
    let (Some(group), Some(resctrl)) = (group, found) else {
        return Err(Error::unsupported("updating a non-existent Intel RDT configuration is not supported"));
    };
    let before = resctrl.read(&group.file("schemata"))?;
    group.write_schemata(&resctrl, &[cache, bandwidth].into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>())?;
    Ok(before)
}

#[cfg(test)]
mod tests;
