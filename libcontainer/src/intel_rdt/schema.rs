//! Lines of a schemata file: `L3:0=ff;1=c0`.

/// Whether a class with the schemata `there` has the values of `line`. Order, spaces and leading zeros do not matter.
pub(super) fn is_in(line: &str, there: &str) -> bool {
    let Some((resource, wanted)) = parse(line) else { return false };
    let Some((_, has)) = there.lines().filter_map(parse).find(|(name, _)| *name == resource) else { return false };
    wanted.len() == has.len() && wanted.iter().all(|domain| has.contains(domain))
}

/// Reads the resource, and each domain with its value.
fn parse(line: &str) -> Option<(&str, Vec<(&str, String)>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let parsed: Option<Vec<_>> = domains.split(';').filter(|part| !part.trim().is_empty()).map(domain).collect();
    Some((resource.trim(), parsed?))
}

fn domain(text: &str) -> Option<(&str, String)> {
    let (id, value) = text.split_once('=')?;
    Some((id.trim().trim_start_matches('0'), value.trim().trim_start_matches('0').to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_count() {
        let there = "    MB:0= 20;1= 70\n    L3:0=0ff;1=c0\n";
        for line in ["L3:0=ff;1=c0", "L3:1=C0;0=ff;", "L3: 1=0c0; 00=ff", "MB:0=20;1=70"] {
            assert!(is_in(line, there), "{line}");
        }
        for line in ["L3:0=ff", "L3:0=ff;1=c1", "L2:0=ff;1=c0", "MB:0=20;1=70;2=1", "L3:x", "L3", "", "MB:0=2;1=70"] {
            assert!(!is_in(line, there), "{line}");
        }
    }
}
