//! `linux.personality`: the execution domain (personality(2)).

use crate::error::{Doing, Result};
use crate::findings::Findings;
use crate::spec;

/// PER_LINUX and PER_LINUX32 of `linux/personality.h`.
const DOMAINS: [(&str, u64); 2] = [("LINUX", 0), ("LINUX32", 8)];

/// The number of the domain. Flags are only a warning, as in runc, because no runtime applies them.
pub(crate) fn plan(personality: &spec::Personality, found: &mut Findings) -> Option<u64> {
    if !personality.flags.is_empty() {
        found.warn("linux.personality.flags", "linux.personality.flags are ignored");
    }
    let domain = DOMAINS.iter().find(|(name, _)| *name == personality.domain).map(|(_, number)| *number);
    if domain.is_none() {
        let text = format!("linux.personality: invalid personality domain {}", personality.domain);
        found.invalid("linux.personality.domain", text);
    }
    domain
}

/// Sets the domain. It runs before the seccomp filter, which may forbid the call.
pub(crate) fn apply(domain: u64) -> Result<()> {
    masu_host::sys::personality::set(domain).doing(|| format!("set personality {domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_by_name() {
        let mut found = Findings::new();
        let mut plan = |domain: &str| plan(&serde_json::from_value(serde_json::json!({ "domain": domain })).unwrap(), &mut found);
        assert_eq!((plan("LINUX").unwrap(), plan("LINUX32").unwrap()), (0, 8));
        assert_eq!(plan("BOGUS"), None);
        assert!(found.unless_wrong(()).unwrap_err().to_string().contains("invalid personality domain BOGUS"));
    }
}
