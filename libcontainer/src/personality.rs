//! `linux.personality`: the execution domain (personality(2)).

use crate::error::{Doing, Error, Result};
use crate::spec;

/// PER_LINUX and PER_LINUX32 of `linux/personality.h`.
const DOMAINS: [(&str, u64); 2] = [("LINUX", 0), ("LINUX32", 8)];

/// The domain by number. Flags are not carried out by any runtime; runc warns of them.
pub fn plan(personality: &spec::Personality, warnings: &mut Vec<String>) -> Result<u64> {
    if !personality.flags.is_empty() {
        warnings.push("linux.personality.flags are ignored".into());
    }
    let found = DOMAINS.iter().find(|(name, _)| *name == personality.domain);
    found
        .map(|(_, number)| *number)
        .ok_or_else(|| Error::invalid(format!("linux.personality: invalid personality domain {}", personality.domain)))
}

/// Takes it on. Before the filter, which may forbid the call.
pub(crate) fn apply(domain: u64) -> Result<()> {
    crate::sys::personality::set(domain).doing(|| format!("set personality {domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_by_name() {
        let plan = |domain: &str| plan(&serde_json::from_value(serde_json::json!({ "domain": domain })).unwrap(), &mut Vec::new());
        assert_eq!((plan("LINUX").unwrap(), plan("LINUX32").unwrap()), (0, 8));
        assert!(plan("BOGUS").unwrap_err().to_string().contains("invalid personality domain BOGUS"));
    }
}
