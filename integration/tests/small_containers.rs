//! Limits so small that the runtime itself hardly fits: its own memory use must not count for the container.

use anyhow::{Result, ensure};
use integration::{Bundle, Container, Test, cgroups, check};
use serde_json::json;

/// The smallest limit with which crun 1.28 starts `true`, in KiB; runc 1.3 and 1.5 need 4300.
const CRUN: u64 = 236;
/// The size of a page in KiB, because the kernel counts pages.
const STEP: u64 = 4;

fn starts(t: &Test, bundle: &mut Bundle, kibibytes: u64) -> Result<bool> {
    bundle.set("/linux/resources/memory", json!({"limit": kibibytes << 10}));
    for _ in 0..4 {
        if !t.run(bundle)?.status.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `MEMORY_FLOOR=1` searches for the smallest limit and prints it. `RUNTIME=crun` and `RUNTIME=runc` print the peers' limits.
#[test]
fn true_starts_under_the_memory_limit_that_crun_needs() {
    check(|t| {
        if !cgroups::has("memory") {
            return t.skip("no memory controller");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/true"]);
        // page cache counts for the cgroup that first touches it, so one run comes before
        ensure!(starts(t, &mut bundle, 64 << 10)?, "64 MiB are not enough");
        if std::env::var_os("MEMORY_FLOOR").is_some() {
            let (mut too_small, mut enough) = (0, 64 << 10);
            while enough - too_small > STEP {
                let middle = (too_small + enough) / 2 / STEP * STEP;
                *(if starts(t, &mut bundle, middle)? { &mut enough } else { &mut too_small }) = middle;
            }
            eprintln!("{}: smallest memory limit under which true starts 4 times of 4: {enough} KiB", t.runtime.kind);
        }
        if t.differs("runc", "needs 4300 KiB") {
            return Ok(());
        }
        ensure!(starts(t, &mut bundle, CRUN)?, "{CRUN} KiB are not enough");
        Ok(())
    });
}

#[test]
fn a_limit_of_one_process_leaves_room_for_init() {
    check(|t| {
        if !cgroups::has("pids") {
            return t.skip("no pids controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/pids", json!({"limit": 1})).args(["/bin/payload", "children", "1"]);
        t.run(&bundle)?.exits(99)?.fails_with("temporarily unavailable")?;
        bundle.args(["/bin/true"]);
        t.run(&bundle)?.ok()?;

        // with a new user namespace and with a joined one, where a further process takes part
        if t.differs("runc<1.2", "joins no user namespace without its mappings") {
            return Ok(());
        }
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map.clone());
        t.run(&bundle)?.ok()?;
        let mut pod = t.bundle()?;
        pod.args(["/bin/sleep"]).namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let pod = Container::start_of(t, &pod)?;
        let path = |file: &str| format!("/proc/{}/ns/{file}", pod.pid.as_raw_nonzero());
        bundle.namespace("user", Some(&path("user"))).namespace("ipc", Some(&path("ipc")));
        bundle.unset("/linux/uidMappings").unset("/linux/gidMappings");
        let output = t.run(&bundle)?;
        let counts = "the process on its way into the user namespace counts";
        if !output.status.success() && (t.differs("runc", counts) || t.differs("crun", counts)) {
            return Ok(());
        }
        output.ok().map(drop)
    });
}
