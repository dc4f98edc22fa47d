//! The directory of a test stands for the file system: the tests show what is read, written and removed. They do not imitate
//! the kernel, which puts files into a new group.

use std::fs;
use std::path::Path;

use super::*;

fn planned(json: serde_json::Value) -> Result<IntelRdt, String> {
    IntelRdt::plan(&serde_json::from_value(json).unwrap(), "box").map_err(|e| e.to_string())
}

#[test]
fn lines_and_the_class() {
    let plan = planned(serde_json::json!({"l3CacheSchema": "L3:0=f\nMB:0=9", "memBwSchema": "MB:0=20", "schemata": ["L2:0=1"]})).unwrap();
    assert_eq!((plan.clos.as_str(), plan.named, plan.monitoring), ("box", false, false));
    assert_eq!((plan.schema, plan.schemata), (vec!["L3:0=f".to_owned(), "MB:0=20".to_owned()], vec!["L2:0=1".to_owned()]));
    let root = planned(serde_json::json!({"closID": "/", "enableMonitoring": true})).unwrap();
    assert_eq!((root.clos.as_str(), root.named, root.monitoring), ("", true, true));
    assert_eq!(planned(serde_json::json!({"closID": "..a"})).unwrap().clos, "..a");
    for bad in [".", "..", "a/b", "/a", "info", "mon_groups", "a\0"] {
        let e = planned(serde_json::json!({ "closID": bad })).unwrap_err();
        assert!(e.contains("invalid intelRdt.ClosID"), "{bad:?}: {e}");
    }
}

/// A directory with a root class and the class `gold`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (file, text) in [
        ("schemata", "    MB:0=100\n    L3:0=fffff\n"),
        ("tasks", ""),
        ("info/L3/cbm_mask", "fffff\n"),
        ("info/L3/min_cbm_bits", "1\n"),
        ("info/L3/num_closids", "16\n"),
        ("info/last_cmd_status", "ok\n"),
        ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\n"),
        ("gold/schemata", "    L3:0=00ff\n"),
        ("gold/tasks", ""),
        ("gold/mon_groups/box/tasks", ""),
        ("gold/mon_groups/box/mon_data/mon_L3_00/llc_occupancy", "4096\n"),
        ("gold/mon_groups/box/mon_data/mon_L3_00/mbm_total_bytes", "77\n"),
    ] {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn at(root: &Path) -> Resctrl {
    Resctrl::at(root.to_str().unwrap()).unwrap()
}

#[test]
fn a_class_of_others_is_joined_and_stays() {
    let dir = folder();
    let root = dir.path();
    let plan = planned(serde_json::json!({"closID": "gold", "l3CacheSchema": "L3:0=ff", "schemata": ["L3:0=f0"]})).unwrap();
    let group = Group::intend_in(&at(root), &plan, "box").unwrap();
    assert!(!group.made && group.monitor.is_none());
    group.make_in(at(root), &plan).unwrap().keep();
    // lines that the class has already are not written again
    assert!(fs::read_to_string(root.join("gold/schemata")).unwrap().starts_with("L3:0=f0\n"));
    group.remove_in(&at(root)).unwrap();
    assert!(root.join("gold").exists());

    fs::write(root.join("gold/schemata"), "    L3:0=00ff\n").unwrap();
    let other = planned(serde_json::json!({"closID": "gold", "l3CacheSchema": "L3:0=1"})).unwrap();
    let e = group.make_in(at(root), &other).unwrap_err();
    assert!(e.to_string().ends_with("gold has a different configuration than L3:0=1"), "{e}");
}

#[test]
fn a_class_that_nobody_made_and_one_that_the_machine_lacks_are_refused() {
    let dir = folder();
    let refused = |json| Group::intend_in(&at(dir.path()), &planned(json).unwrap(), "box").unwrap_err().to_string();
    assert!(refused(serde_json::json!({"closID": "none"})).contains("clos dir not accessible (must be pre-created"));
    let e = refused(serde_json::json!({"memBwSchema": "MB:0=20"}));
    assert_eq!(e, "linux.intelRdt: intelRdt.memBwSchema is specified in config, but Intel RDT/MBA is not enabled");
}

#[test]
fn what_was_made_goes_and_nothing_else() {
    let dir = folder();
    let root = dir.path();
    let plan = planned(serde_json::json!({"enableMonitoring": true})).unwrap();
    let group = Group::intend_in(&at(root), &plan, "box").unwrap();
    assert!(group.made && group.made_monitor);
    // no kernel puts mon_groups into the new class, so making the second directory fails, and the first must be removed
    group.make_in(at(root), &plan).unwrap_err();
    assert!(!root.join("box").exists());
    // the record on disk is enough to remove it
    let recorded: Group = serde_json::from_str(&serde_json::to_string(&group).unwrap()).unwrap();
    assert_eq!(recorded, group);
    fs::create_dir(root.join("box")).unwrap();
    recorded.remove_in(&at(root)).unwrap();
    recorded.remove_in(&at(root)).unwrap();
    assert!(!root.join("box").exists());
    // another program has made a class of that name meanwhile: it is not taken, and not removed
    fs::create_dir(root.join("box")).unwrap();
    group.make_in(at(root), &plan).unwrap_err();
    assert!(root.join("box").exists());
    // resctrl is not mounted: nothing to do
    group.remove().unwrap();
}

#[test]
fn numbers_of_a_group() {
    let dir = folder();
    let root = dir.path();
    let plan = planned(serde_json::json!({"closID": "gold", "enableMonitoring": true})).unwrap();
    let group = Group::intend_in(&at(root), &plan, "box").unwrap();
    assert_eq!(group.monitor.as_deref(), Some("gold/mon_groups/box"));
    let stats = stats::read(&at(root), &group.file("schemata"), group.monitor.as_deref().unwrap()).unwrap();
    let seen = serde_json::to_value(stats).unwrap();
    assert_eq!(
        seen,
        serde_json::json!({
            "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
            "l3_cache_schema_root": "L3:0=fffff", "l3_cache_schema": "L3:0=00ff", "schemata": ["L3:0=00ff"],
            "mbm_stats": [{"mbm_total_bytes": 77, "mbm_local_bytes": 0}], "cmt_stats": [{"llc_occupancy": 4096}],
        })
    );
    assert_eq!(serde_json::to_string(&Stats::default()).unwrap(), "{}");
}
