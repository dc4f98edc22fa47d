//! Intel RDT on a machine without it: a config that needs it is refused, and the error names it.

use anyhow::Result;
use integration::{Container, Test, check};
use serde_json::json;

/// A machine with resctrl is skipped, because it needs another test and its administrator's consent.
fn has_resctrl(t: &Test) -> Result<bool> {
    let has = std::fs::read_to_string("/proc/self/mountinfo")?.contains(" - resctrl ");
    if has {
        t.skip("resctrl is mounted here")?;
    }
    Ok(has)
}

#[test]
fn a_class_of_service_without_resctrl_is_refused() {
    check(|t| {
        if has_resctrl(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let text = if t.differs("crun", "has words of its own") { "resctrl" } else { "Intel RDT" };
        for rdt in [json!({"l3CacheSchema": "L3:0=f"}), json!({}), json!({"closID": "gold"}), json!({"enableMonitoring": true})] {
            bundle.set("/linux/intelRdt", rdt);
            t.run(&bundle)?.exits(1)?.fails_with(text)?;
            if t.differs("runc<1.4", "looks for it only where a schema is given") {
                break;
            }
        }
        Ok(())
    });
}

#[test]
fn update_of_what_there_is_not_is_refused() {
    check(|t| {
        if has_resctrl(t)? {
            return Ok(());
        }
        if t.differs("crun", "updates nothing and says nothing") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        for (flag, text) in [
            ("--l3-cache-schema=L3:0=f", "CAT: l3 cache schema is not enabled"),
            ("--mem-bw-schema=MB:0=9", "MBA: memory bandwidth schema is not enabled"),
        ] {
            t.runtime(["update", flag, &container.id])?.exits(1)?.fails_with(text)?;
        }
        Ok(())
    });
}
