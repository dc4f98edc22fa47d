//! `process.rlimits` (getrlimit(2)).

use rustix::process::{Resource, Rlimit};

use crate::error::{Doing, Error, Result};
use crate::findings::{Findings, Item};
use crate::outline::Outline;
use crate::spec;

const NAMES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// The limits, in the order of the config.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rlimits(Vec<(Resource, Rlimit, &'static str)>);

impl Rlimits {
    /// Checks the names, duplicates, and that no soft limit is above its hard limit.
    pub(crate) fn plan(list: &[spec::Rlimit], found: &mut Findings) -> Rlimits {
        let mut plan = Rlimits(Vec::with_capacity(list.len()));
        for (i, limit) in list.iter().enumerate() {
            if let Some(planned) = found.at(Item("process.rlimits", i), plan.plan_one(limit)) {
                plan.0.push(planned);
            }
        }
        plan
    }

    fn plan_one(&self, limit: &spec::Rlimit) -> Result<(Resource, Rlimit, &'static str)> {
        let Some((name, resource)) = NAMES.iter().find(|(name, _)| *name == limit.kind) else {
            return Err(Error::invalid(format!("process.rlimits: wrong rlimit value: {}", limit.kind)));
        };
        let (Some(soft), Some(hard)) = (limit.soft, limit.hard) else {
            return Err(Error::invalid(format!("process.rlimits: {name} needs both soft and hard")));
        };
        if soft > hard {
            let text = format!("process.rlimits: {name}: soft limit {soft} is above hard limit {hard}: invalid argument");
            return Err(Error::invalid(text));
        }
        if self.0.iter().any(|(_, _, n)| n == name) {
            return Err(Error::invalid(format!("process.rlimits: duplicated {name}")));
        }
        let value = |n: u64| if n == u64::MAX { None } else { Some(n) };
        Ok((*resource, Rlimit { current: value(soft), maximum: value(hard) }, name))
    }

    /// Whether there are no limits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the limits of the process `pid`.
    pub(crate) fn apply_to(&self, pid: i32) -> Result<()> {
        for (resource, limit, name) in &self.0 {
            rustix::process::prlimit(rustix::process::Pid::from_raw(pid), *resource, *limit)
                .doing(|| format!("error setting rlimit {name}"))?;
        }
        Ok(())
    }

    /// The name, soft limit and hard limit of each.
    pub(crate) fn describe(&self) -> Vec<Outline> {
        let value = |limit: Option<u64>| limit.map_or_else(|| Outline::Text("unlimited".into()), Outline::Number);
        let one = |(_, limit, name): &(Resource, Rlimit, &str)| {
            Outline::Map(vec![("limit", Outline::Text((*name).to_owned())), ("soft", value(limit.current)), ("hard", value(limit.maximum))])
        };
        self.0.iter().map(one).collect()
    }

    /// Sets the limits of the caller. It runs after the last open descriptor, and before the capabilities are dropped.
    pub(crate) fn apply(&self) -> Result<()> {
        for (resource, limit, name) in &self.0 {
            rustix::process::setrlimit(*resource, *limit).doing(|| format!("error setting rlimit {name}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_limits_are_refused() {
        for (json, text) in [
            (r#"[{"type":"RLIMIT_BOGUS","soft":1,"hard":1}]"#, "wrong rlimit value: RLIMIT_BOGUS"),
            (r#"[{"type":"RLIMIT_NOFILE","soft":2,"hard":1}]"#, "soft limit 2 is above hard limit 1"),
            (r#"[{"type":"RLIMIT_NOFILE","hard":1}]"#, "needs both"),
            (r#"[{"type":"RLIMIT_CORE","soft":1,"hard":1},{"type":"RLIMIT_CORE","soft":1,"hard":1}]"#, "duplicated RLIMIT_CORE"),
        ] {
            let mut found = Findings::new();
            Rlimits::plan(&serde_json::from_str::<Vec<_>>(json).unwrap(), &mut found);
            let e = found.unless_wrong(()).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
        }
    }
}
