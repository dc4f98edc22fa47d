//! The plan of one process: what execve is given and what is set before it. The same for a container's init and for exec.

use std::collections::BTreeMap;
use std::ffi::CString;

use crate::capabilities::Sets;
use crate::cpu_affinity::CpuAffinity;
use crate::error::{Error, Result};
use crate::io_priority;
use crate::lsm::Labels;
use crate::memory_policy::MemoryPolicy;
use crate::rlimits::Rlimits;
use crate::scheduler::{self, Scheduler};
use crate::seccomp::Filter;
use crate::spec;

/// Where an absent PATH is looked up: nowhere, as Go does.
const PATH: &str = "PATH";

/// What will run, as whom, and within which limits.
#[derive(Debug)]
pub struct ProcessPlan {
    pub args: Vec<CString>,
    /// Without duplicates. HOME is added in the container when it is missing, from its passwd(5).
    pub env: Vec<CString>,
    pub home_is_missing: bool,
    /// Value of PATH, for an executable without a slash.
    pub search_path: Option<String>,
    /// Absolute.
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: Option<Sets>,
    pub no_new_privileges: bool,
    pub rlimits: Rlimits,
    pub oom_score_adj: Option<i32>,
    pub labels: Labels,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<u32>,
    pub cpu_affinity: CpuAffinity,
    /// Execution domain, by number.
    pub personality: Option<u64>,
    pub memory_policy: Option<MemoryPolicy>,
    pub filter: Option<Filter>,
    pub terminal: Option<Terminal>,
    /// Descriptors 3 to 3 + n - 1 stay open in the program.
    pub preserved_fds: u32,
}

/// The process gets a terminal, of this size (rows, columns) if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    pub size: Option<(u16, u16)>,
    /// Whether a terminal of the caller stands before it, which makes a carriage return of each newline itself.
    pub relayed: bool,
}

impl ProcessPlan {
    /// Checks a process document and turns it into a plan. `listen_fds` descriptors after stderr are announced to the
    /// program (sd_listen_fds(3)); `preserve_fds` follow them.
    pub fn plan(
        process: &spec::Process,
        filter: Option<Filter>,
        listen_fds: u32,
        preserve_fds: u32,
        warnings: &mut Vec<String>,
    ) -> Result<ProcessPlan> {
        if process.args.is_empty() {
            return Err(Error::invalid("process.args: args must not be empty"));
        }
        let args = process.args.iter().map(|arg| string(arg.as_deref().unwrap_or_default(), "process.args"));
        let args = args.collect::<Result<Vec<_>>>()?;
        if process.cwd.is_empty() {
            return Err(Error::invalid("process.cwd: Cwd property must not be empty"));
        }
        if !process.cwd.starts_with('/') {
            return Err(Error::invalid(format!("process.cwd: Cwd must be an absolute path, and {:?} is not", process.cwd)));
        }
        string(&process.cwd, "process.cwd")?;
        let user = &process.user;
        if user.uid == u32::MAX || user.gid == u32::MAX || user.additional_gids.contains(&u32::MAX) {
            return Err(Error::invalid(format!("process.user: cannot setuid to unmapped uid {} in user namespace", u32::MAX)));
        }
        if let Some(umask) = user.umask.filter(|u| u & !0o777 != 0) {
            return Err(Error::invalid(format!("process.user.umask: {umask:o} is not a mask of file permissions")));
        }
        if let Some(score) = process.oom_score_adj.filter(|s| !(-1000..=1000).contains(s)) {
            return Err(Error::invalid(format!("process.oomScoreAdj: {score} is not between -1000 and 1000: invalid argument")));
        }
        let size = match &process.console_size {
            None => None,
            Some(size) => {
                let (Ok(height), Ok(width)) = (u16::try_from(size.height), u16::try_from(size.width)) else {
                    return Err(Error::invalid(format!("process.consoleSize: {}x{} is larger than 65535", size.height, size.width)));
                };
                (height != 0 && width != 0).then_some((height, width))
            }
        };
        let terminal = process.terminal.then_some(Terminal { size, relayed: false });
        let environment = environment(&process.env, listen_fds)?;
        Ok(ProcessPlan {
            args,
            home_is_missing: environment.home_is_missing,
            search_path: environment.search_path,
            env: environment.list,
            cwd: process.cwd.clone(),
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
            umask: user.umask,
            capabilities: process.capabilities.as_ref().map(|c| Sets::plan(c, warnings)).map(check_sets).transpose()?,
            no_new_privileges: process.no_new_privileges,
            rlimits: Rlimits::plan(&process.rlimits)?,
            oom_score_adj: process.oom_score_adj,
            labels: Labels::plan(&process.apparmor_profile, &process.selinux_label)?,
            scheduler: process.scheduler.as_ref().map(scheduler::plan).transpose()?,
            io_priority: process.io_priority.as_ref().map(io_priority::plan).transpose()?,
            cpu_affinity: process.exec_cpu_affinity.as_ref().map(CpuAffinity::plan).transpose()?.unwrap_or_default(),
            personality: None,
            memory_policy: None,
            filter,
            terminal,
            preserved_fds: listen_fds + preserve_fds,
        })
    }

    /// Remembers that the container has a cpuset: with one, some schedulers cannot be had.
    pub fn note_cpuset(&mut self, resources: Option<&spec::Resources>) {
        let cpuset = resources.is_some_and(|r| !r.cpu.cpus.is_empty());
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.cpuset = cpuset;
        }
    }

    /// Whether the filter is loaded before the process reports that it is ready. Without no_new_privs loading is a
    /// privileged call, and a listener's descriptor must still be handed over; else it is the very last step, so that a
    /// strict profile need allow nothing of ours but execve.
    pub fn filter_early(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| !self.no_new_privileges || f.listener.is_some())
    }
}

fn check_sets(sets: Sets) -> Result<Sets> {
    if sets.effective & !sets.permitted != 0 {
        let first = (sets.effective & !sets.permitted).trailing_zeros() as usize;
        let name = crate::capabilities::name(first);
        return Err(Error::invalid(format!(
            "process.capabilities: {name} is effective but not permitted: unable to apply caps: operation not permitted"
        )));
    }
    Ok(sets)
}

struct Environment {
    list: Vec<CString>,
    home_is_missing: bool,
    search_path: Option<String>,
}

fn environment(list: &[String], listen_fds: u32) -> Result<Environment> {
    // the last of two wins, at its own place; found by a map so that ten thousand variables stay linear
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, entry) in list.iter().enumerate() {
        match entry.split_once('=') {
            Some((key, _)) if !key.is_empty() => last.insert(key, i),
            // the value may be a secret: only what stands before it is named
            Some(_) => return Err(Error::invalid("process.env: invalid environment variable: the name is empty")),
            None => return Err(Error::invalid("process.env: invalid environment variable: missing '='")),
        };
    }
    let mut environment = Environment { list: Vec::with_capacity(list.len() + 3), home_is_missing: true, search_path: None };
    for (i, entry) in list.iter().enumerate() {
        let Some((key, value)) = entry.split_once('=').filter(|(key, _)| last.get(key) == Some(&i)) else { continue };
        if listen_fds > 0 && matches!(key, "LISTEN_FDS" | "LISTEN_PID") {
            continue;
        }
        match key {
            PATH => environment.search_path = Some(value.to_owned()),
            "HOME" if value.is_empty() => continue,
            "HOME" => environment.home_is_missing = false,
            _ => {}
        }
        let entry = CString::new(entry.as_str())
            .map_err(|_| Error::invalid(format!("process.env: invalid environment variable: {key:?} holds a NUL byte")))?;
        environment.list.push(entry);
    }
    if listen_fds > 0 {
        for entry in [format!("LISTEN_FDS={listen_fds}"), "LISTEN_PID=1".to_owned()] {
            environment.list.push(string(&entry, "LISTEN_FDS")?);
        }
    }
    Ok(environment)
}

fn string(text: &str, path: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{path}: {text:?} holds a NUL byte: invalid argument")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<ProcessPlan> {
        ProcessPlan::plan(&serde_json::from_str(json).unwrap(), None, 0, 0, &mut Vec::new())
    }

    #[test]
    fn the_last_variable_wins() {
        let plan = plan(r#"{"args":["a"],"cwd":"/","env":["A=1","B=2","A=3=4","HOME=","PATH=/x"]}"#).unwrap();
        assert_eq!(plan.env, [c"B=2".to_owned(), c"A=3=4".to_owned(), c"PATH=/x".to_owned()]);
        assert!(plan.home_is_missing);
        assert_eq!(plan.search_path.as_deref(), Some("/x"));
    }

    #[test]
    fn bad_processes_are_refused() {
        for (json, text) in [
            (r#"{}"#, "args must not be empty"),
            (r#"{"args":["a"]}"#, "Cwd property must not be empty"),
            (r#"{"args":["a"],"cwd":"x"}"#, "Cwd must be an absolute path"),
            (r#"{"args":["a\u0000b"],"cwd":"/"}"#, "NUL byte"),
            (r#"{"args":["a"],"cwd":"/","env":["A"]}"#, "missing '='"),
            (r#"{"args":["a"],"cwd":"/","env":["=x"]}"#, "the name is empty"),
            (r#"{"args":["a"],"cwd":"/","env":["A=\u0000"]}"#, "NUL byte"),
            (r#"{"args":["a"],"cwd":"/","user":{"umask":1023}}"#, "is not a mask"),
            (r#"{"args":["a"],"cwd":"/","user":{"uid":4294967295}}"#, "unmapped uid"),
            (r#"{"args":["a"],"cwd":"/","oomScoreAdj":5000}"#, "is not between"),
            (r#"{"args":["a"],"cwd":"/","terminal":true,"consoleSize":{"height":70000,"width":1}}"#, "larger than 65535"),
            (r#"{"args":["a"],"cwd":"/","scheduler":{"policy":"SCHED_X"}}"#, "process.scheduler: invalid scheduler policy: SCHED_X"),
            (r#"{"args":["a"],"cwd":"/","execCPUAffinity":{"final":"x"}}"#, "process.execCPUAffinity.final: bad CPUAffinity.Final"),
            (r#"{"args":["a"],"cwd":"/","capabilities":{"effective":["CAP_KILL"]}}"#, "CAP_KILL is effective but not permitted"),
        ] {
            let e = plan(json).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
            assert!(!e.to_string().contains("secret"));
        }
    }
}
