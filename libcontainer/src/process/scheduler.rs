//! `process.scheduler`: the policy and parameters of sched_setattr(2).

use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::spec;
use masu_host::sys::scheduling::{SchedAttr, set_attributes};

/// The policies by number (linux/sched.h).
const POLICIES: [&str; 7] = ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];

/// The flags by bit (linux/sched.h).
const FLAGS: [&str; 7] = [
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
];

/// The attributes for sched_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduler {
    pub attr: SchedAttr,
    /// Whether the container has a cpuset, the likely cause if the kernel refuses.
    pub cpuset: bool,
}

/// Checks the parameters as runc does.
pub(crate) fn plan(scheduler: &spec::Scheduler) -> Result<Scheduler> {
    let invalid = |text: String| Err(Error::invalid(format!("process.scheduler: {text}")));
    let policy = scheduler.policy.as_str();
    if policy.is_empty() {
        return invalid("scheduler policy is required".into());
    }
    let Some(number) = POLICIES.iter().position(|name| *name == policy) else {
        return invalid(format!("invalid scheduler policy: {policy}"));
    };
    let nice = scheduler.nice;
    if matches!(policy, "SCHED_OTHER" | "SCHED_BATCH") && !(-20..=19).contains(&nice) {
        return invalid(format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}"));
    }
    let Ok(priority) = u32::try_from(scheduler.priority) else {
        return invalid(format!("invalid scheduler.priority: {}", scheduler.priority));
    };
    if priority != 0 && !matches!(policy, "SCHED_FIFO" | "SCHED_RR") {
        return invalid("scheduler.priority can only be specified for SchedFIFO or SchedRR policy".into());
    }
    let (runtime, deadline, period) = (scheduler.runtime, scheduler.deadline, scheduler.period);
    if policy != "SCHED_DEADLINE" && (runtime, deadline, period) != (0, 0, 0) {
        return invalid("scheduler runtime/deadline/period can only be specified for SchedDeadline policy".into());
    }
    let mut flags = 0;
    for flag in &scheduler.flags {
        match FLAGS.iter().position(|name| name == flag) {
            Some(bit) => flags |= 1 << bit,
            None => return invalid(format!("invalid scheduler flag: {flag}")),
        }
    }
    let attr = SchedAttr { policy: number as u32, flags, nice, priority, runtime, deadline, period, ..SchedAttr::default() };
    Ok(Scheduler { attr, cpuset: false })
}

/// Sets the scheduler. Most policies need CAP_SYS_NICE, so it runs before the ids change.
pub(crate) fn apply(scheduler: &Scheduler) -> Result<()> {
    match set_attributes(&scheduler.attr) {
        // SCHED_DEADLINE needs an affinity of all CPUs (sched_setattr(2))
        Err(Errno::PERM) if scheduler.cpuset => {
            Err(Errno::PERM).doing(|| "process scheduler can't be used together with AllowedCPUs: error setting scheduler")
        }
        result => result.doing(|| "error setting scheduler"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: serde_json::Value) -> Result<SchedAttr> {
        plan(&serde_json::from_value(json).unwrap()).map(|s| s.attr)
    }

    #[test]
    fn by_number() {
        let batch = planned(serde_json::json!({"policy": "SCHED_BATCH", "nice": 19, "priority": 0})).unwrap();
        assert_eq!((batch.policy, batch.nice, batch.flags), (3, 19, 0));
        let deadline = planned(serde_json::json!({
            "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
            "nice": 19, "runtime": 1, "deadline": 2, "period": 3,
        }))
        .unwrap();
        assert_eq!((deadline.policy, deadline.flags), (6, 5));
        assert_eq!((deadline.runtime, deadline.deadline, deadline.period), (1, 2, 3));
        assert_eq!(planned(serde_json::json!({"policy": "SCHED_RR", "priority": 99})).unwrap().priority, 99);
    }

    #[test]
    fn bad_ones_are_refused() {
        for (json, text) in [
            (serde_json::json!({}), "scheduler policy is required"),
            (serde_json::json!({"policy": "SCHED_BOGUS"}), "invalid scheduler policy: SCHED_BOGUS"),
            (serde_json::json!({"policy": "SCHED_BATCH", "nice": 20}), "invalid scheduler.nice: 20 when scheduler.policy is SCHED_BATCH"),
            (serde_json::json!({"policy": "SCHED_OTHER", "nice": -21}), "invalid scheduler.nice: -21"),
            (serde_json::json!({"policy": "SCHED_IDLE", "priority": 1}), "scheduler.priority can only be specified for SchedFIFO"),
            (serde_json::json!({"policy": "SCHED_FIFO", "priority": -1}), "invalid scheduler.priority: -1"),
            (serde_json::json!({"policy": "SCHED_FIFO", "priority": 1, "period": 1}), "runtime/deadline/period can only be"),
            (serde_json::json!({"policy": "SCHED_OTHER", "flags": ["X"]}), "invalid scheduler flag: X"),
        ] {
            let e = planned(json.clone()).unwrap_err().to_string();
            assert!(e.starts_with("process.scheduler: ") && e.contains(text), "{json}: {e}");
        }
    }
}
