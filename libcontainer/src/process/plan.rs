//! The plan of one process: the arguments of execve and the properties set before it. A container's init and exec share it.

use std::ffi::CString;

use super::environment::Environment;
use crate::error::{Error, Result};
use crate::findings::{Findings, Item};
use crate::process::capabilities::Sets;
use crate::process::cpu_affinity::CpuAffinity;
use crate::process::io_priority;
use crate::process::lsm::Labels;
use crate::process::memory_policy::MemoryPolicy;
use crate::process::rlimits::Rlimits;
use crate::process::scheduler::{self, Scheduler};
use crate::seccomp::Filter;
use crate::spec;

/// The program, its user and its properties.
#[derive(Debug, Default)]
pub(crate) struct ProcessPlan {
    pub args: Vec<CString>,
    pub env: Environment,
    /// An absolute path.
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Whether the supplementary groups stay those of the caller.
    pub keep_groups: bool,
    pub umask: Option<u32>,
    pub capabilities: Option<Sets>,
    pub no_new_privileges: bool,
    pub rlimits: Rlimits,
    /// Whether it is in a user namespace. Then it may not raise limits, so the runtime sets them.
    pub in_user_namespace: bool,
    pub oom_score_adj: Option<i32>,
    pub labels: Labels,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<u32>,
    pub cpu_affinity: CpuAffinity,
    /// The number of the execution domain.
    pub personality: Option<u64>,
    pub memory_policy: Option<MemoryPolicy>,
    pub filter: Option<Filter>,
    pub terminal: Option<Terminal>,
    /// The number of descriptors from 3 on that stay open in the program.
    pub preserved_fds: u32,
}

/// The terminal of a process, with its size (rows, columns) if known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub size: Option<(u16, u16)>,
    /// Whether the runtime copies the output to a terminal of the caller. That one converts newlines, so this one must not.
    pub relayed: bool,
}

impl ProcessPlan {
    /// The plan of a container's first process. config.md allows a container without one. Its init has no capabilities and waits
    /// for a start that can only fail; `args` is empty.
    pub(crate) fn for_init(
        process: Option<&spec::Process>,
        filter: Option<Filter>,
        listen_fds: u32,
        preserve_fds: u32,
        found: &mut Findings,
    ) -> ProcessPlan {
        if let Some(process) = process {
            return Self::plan(process, filter, listen_fds, preserve_fds, found);
        }
        let none = spec::Process {
            args: vec![Some(String::new())],
            cwd: "/".to_owned(),
            capabilities: Some(spec::Capabilities::default()),
            ..spec::Process::default()
        };
        let plan = Self::plan(&none, filter, listen_fds, preserve_fds, found);
        ProcessPlan { args: Vec::new(), ..plan }
    }

    /// Checks a process document and makes the plan. `listen_fds` descriptors after stderr are announced to the program
    /// (sd_listen_fds(3)), and `preserve_fds` more follow them.
    pub(crate) fn plan(
        process: &spec::Process,
        filter: Option<Filter>,
        listen_fds: u32,
        preserve_fds: u32,
        found: &mut Findings,
    ) -> ProcessPlan {
        if process.args.is_empty() {
            found.invalid("process.args", "process.args: args must not be empty");
        }
        let args = process.args.iter().enumerate();
        let args =
            args.filter_map(|(i, arg)| found.at(Item("process.args", i), string(arg.as_deref().unwrap_or_default(), "process.args")));
        let args = args.collect();
        if process.cwd.is_empty() {
            found.invalid("process.cwd", "process.cwd: Cwd property must not be empty");
        } else if !process.cwd.starts_with('/') {
            let text = format!("process.cwd: Cwd must be an absolute path, and {:?} is not", process.cwd);
            found.invalid("process.cwd", text);
        }
        found.at("process.cwd", string(&process.cwd, "process.cwd"));
        let user = &process.user;
        for (key, ids) in [("uid", &[user.uid][..]), ("gid", &[user.gid]), ("additionalGids", &user.additional_gids)] {
            if ids.contains(&u32::MAX) {
                let text = format!("process.user: cannot setuid to unmapped uid {} in user namespace", u32::MAX);
                found.invalid(format_args!("process.user.{key}"), text);
            }
        }
        if let Some(umask) = user.umask.filter(|u| u & !0o777 != 0) {
            found.invalid("process.user.umask", format!("process.user.umask: {umask:o} is not a mask of file permissions"));
        }
        if let Some(score) = process.oom_score_adj.filter(|s| !(-1000..=1000).contains(s)) {
            let text = format!("process.oomScoreAdj: {score} is not between -1000 and 1000: invalid argument");
            found.invalid("process.oomScoreAdj", text);
        }
        let size = process.console_size.as_ref().and_then(|size| match (u16::try_from(size.height), u16::try_from(size.width)) {
            (Ok(height), Ok(width)) => (height != 0 && width != 0).then_some((height, width)),
            _ => {
                let text = format!("process.consoleSize: {}x{} is larger than 65535", size.height, size.width);
                found.invalid("process.consoleSize", text);
                None
            }
        });
        let terminal = process.terminal.then_some(Terminal { size, relayed: false });
        let env = Environment::plan(&process.env, listen_fds, found);
        let capabilities = process.capabilities.as_ref().map(|c| Sets::plan(c, found));
        if let Some(sets) = &capabilities {
            check_sets(sets, found);
        }
        let affinity = process.exec_cpu_affinity.as_ref();
        ProcessPlan {
            args,
            env,
            cwd: process.cwd.clone(),
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
            keep_groups: false,
            umask: user.umask,
            capabilities,
            no_new_privileges: process.no_new_privileges,
            rlimits: Rlimits::plan(&process.rlimits, found),
            in_user_namespace: false,
            oom_score_adj: process.oom_score_adj,
            labels: Labels::plan(&process.apparmor_profile, &process.selinux_label, found),
            scheduler: process.scheduler.as_ref().and_then(|s| found.at("process.scheduler", scheduler::plan(s))),
            io_priority: process.io_priority.as_ref().and_then(|p| found.at("process.ioPriority", io_priority::plan(p))),
            cpu_affinity: affinity.and_then(|a| found.at("process.execCPUAffinity", CpuAffinity::plan(a))).unwrap_or_default(),
            personality: None,
            memory_policy: None,
            filter,
            terminal,
            preserved_fds: listen_fds + preserve_fds,
        }
    }

    /// Notes whether the container has a cpuset, because the kernel then refuses some schedulers.
    pub(crate) fn note_cpuset(&mut self, resources: Option<&spec::Resources>) {
        let cpuset = resources.is_some_and(|r| !r.cpu.cpus.is_empty());
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.cpuset = cpuset;
        }
    }

    /// Whether the filter is loaded before the process reports that it is ready. Without no_new_privs the load needs a
    /// capability, and the descriptor of a listener must be sent to the runtime. Otherwise the load is the last step, so that a
    /// strict filter needs to allow only execve.
    pub(crate) fn filter_early(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| !self.no_new_privileges || f.listener.is_some())
    }
}

fn check_sets(sets: &Sets, found: &mut Findings) {
    if sets.effective & !sets.permitted != 0 {
        let first = (sets.effective & !sets.permitted).trailing_zeros() as usize;
        let name = crate::process::capabilities::name(first);
        let text = format!("process.capabilities: {name} is effective but not permitted: unable to apply caps: operation not permitted");
        found.invalid("process.capabilities.effective", text);
    }
}

fn string(text: &str, path: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{path}: {text:?} holds a NUL byte: invalid argument")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<ProcessPlan> {
        let mut found = Findings::new();
        let plan = ProcessPlan::plan(&serde_json::from_str(json).unwrap(), None, 0, 0, &mut found);
        found.unless_wrong(plan)
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
