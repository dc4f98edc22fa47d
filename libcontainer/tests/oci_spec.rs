//! Compares the types of config.json with those of the crate oci-spec, an independent reader: both must read the bundles alike.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "all of this is a test")]

use std::fmt::Debug;
use std::path::Path;

use libcontainer::spec::Spec;
use oci_spec::runtime::Spec as Theirs;

fn bundles() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles");
    let configs = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("config.json"));
    configs.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// The sorted names of a set. oci-spec has sets and enums where [`Spec`] has the text of the file.
fn sorted<T: ToString>(names: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    names.sort();
    names
}

fn list<T: Clone>(list: &Option<Vec<T>>) -> Vec<T> {
    list.clone().unwrap_or_default()
}

#[track_caller]
fn same<T: PartialEq + Debug>(bundle: &str, what: &str, ours: T, theirs: T) {
    assert_eq!(ours, theirs, "{bundle}: {what}");
}

#[test]
fn both_read_the_same_from_the_bundles() {
    let bundles = bundles();
    assert!(bundles.len() >= 8, "bundles are missing");
    for (bundle, bytes) in bundles {
        let ours = Spec::from_slice(&bytes).unwrap();
        let theirs: Theirs = serde_json::from_slice(&bytes).unwrap();
        same(&bundle, "ociVersion", ours.oci_version.clone(), theirs.version().clone());
        same(&bundle, "hostname", ours.hostname.clone(), theirs.hostname().clone().unwrap_or_default());
        let root = theirs.root().as_ref().unwrap();
        same(&bundle, "root.path", ours.root.as_ref().unwrap().path.clone(), root.path().display().to_string());
        same(&bundle, "root.readonly", ours.root.as_ref().unwrap().readonly, root.readonly().unwrap_or(false));
        process(&bundle, &ours, &theirs);
        mounts(&bundle, &ours, &theirs);
        linux(&bundle, &ours, &theirs);
    }
}

fn process(bundle: &str, ours: &Spec, theirs: &Theirs) {
    let (ours, theirs) = (ours.process.as_ref().unwrap(), theirs.process().as_ref().unwrap());
    same(bundle, "args", ours.args.iter().flatten().cloned().collect(), list(theirs.args()));
    same(bundle, "env", ours.env.clone(), list(theirs.env()));
    same(bundle, "cwd", ours.cwd.clone(), theirs.cwd().display().to_string());
    same(bundle, "terminal", ours.terminal, theirs.terminal().unwrap_or(false));
    same(bundle, "noNewPrivileges", ours.no_new_privileges, theirs.no_new_privileges().unwrap_or(false));
    same(bundle, "oomScoreAdj", ours.oom_score_adj, theirs.oom_score_adj());
    same(bundle, "user", (ours.user.uid, ours.user.gid), (theirs.user().uid(), theirs.user().gid()));
    same(bundle, "additionalGids", ours.user.additional_gids.clone(), list(theirs.user().additional_gids()));
    let limits = list(theirs.rlimits()).iter().map(|l| (l.typ().to_string(), Some(l.hard()), Some(l.soft()))).collect::<Vec<_>>();
    same(bundle, "rlimits", ours.rlimits.iter().map(|l| (l.kind.clone(), l.hard, l.soft)).collect(), limits);
    let Some(sets) = &ours.capabilities else { return assert!(theirs.capabilities().is_none()) };
    let other = theirs.capabilities().as_ref().unwrap();
    for (what, ours, theirs) in [
        ("bounding", &sets.bounding, other.bounding()),
        ("effective", &sets.effective, other.effective()),
        ("inheritable", &sets.inheritable, other.inheritable()),
        ("permitted", &sets.permitted, other.permitted()),
        ("ambient", &sets.ambient, other.ambient()),
    ] {
        // oci-spec writes the names without CAP_
        let theirs = theirs.iter().flatten().map(|c| format!("CAP_{}", c.to_string().trim_start_matches("CAP_")));
        same(bundle, what, sorted(ours), sorted(theirs));
    }
}

fn mounts(bundle: &str, ours: &Spec, theirs: &Theirs) {
    let theirs = list(theirs.mounts());
    same(bundle, "mounts", ours.mounts.len(), theirs.len());
    for (ours, theirs) in ours.mounts.iter().zip(&theirs) {
        same(bundle, "destination", ours.destination.clone(), theirs.destination().display().to_string());
        same(bundle, "type", ours.fs_type.clone(), theirs.typ().clone().unwrap_or_default());
        let source = theirs.source().as_ref().map(|s| s.display().to_string()).unwrap_or_default();
        same(bundle, "source", ours.source.clone(), source);
        same(bundle, "options", ours.options.clone(), list(theirs.options()));
    }
}

fn linux(bundle: &str, ours: &Spec, theirs: &Theirs) {
    let (ours, theirs) = (ours.linux.as_ref().unwrap(), theirs.linux().as_ref().unwrap());
    let path = theirs.cgroups_path().as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    same(bundle, "cgroupsPath", ours.cgroups_path.clone(), path);
    same(bundle, "maskedPaths", ours.masked_paths.clone(), list(theirs.masked_paths()));
    same(bundle, "readonlyPaths", ours.readonly_paths.clone(), list(theirs.readonly_paths()));
    let namespaces = list(theirs.namespaces());
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    // as JSON, because Display of oci-spec has other names
    let kind = |n: &oci_spec::runtime::LinuxNamespace| serde_json::to_value(n.typ()).unwrap().as_str().unwrap().to_owned();
    let namespaces: Vec<_> = namespaces.iter().map(|n| (kind(n), path(n.path()))).collect();
    same(bundle, "namespaces", ours.namespaces.iter().map(|n| (n.kind.clone(), n.path.clone())).collect(), namespaces);
    let Some(seccomp) = &ours.seccomp else { return assert!(theirs.seccomp().is_none()) };
    let other = theirs.seccomp().as_ref().unwrap();
    same(bundle, "defaultAction", seccomp.default_action.clone(), other.default_action().to_string());
    same(bundle, "defaultErrnoRet", seccomp.default_errno_ret, other.default_errno_ret());
    let rules = list(other.syscalls());
    same(bundle, "syscalls", seccomp.syscalls.len(), rules.len());
    for (ours, theirs) in seccomp.syscalls.iter().zip(&rules) {
        same(bundle, "names", &ours.names, theirs.names());
        same(bundle, "action", ours.action.clone(), theirs.action().to_string());
        same(bundle, "errnoRet", ours.errno_ret, theirs.errno_ret());
        let args = list(theirs.args()).iter().map(|a| (a.index() as u32, a.value(), a.value_two().unwrap_or(0))).collect();
        same(bundle, "args", ours.args.iter().map(|a| (a.index, a.value, a.value_two)).collect::<Vec<_>>(), args);
    }
}

#[cfg(feature = "oci-spec")]
#[test]
fn theirs_become_ours() {
    for (bundle, bytes) in bundles() {
        let theirs: Theirs = serde_json::from_slice(&bytes).unwrap();
        let ours = Spec::try_from(&theirs).unwrap();
        process(&bundle, &ours, &theirs);
        mounts(&bundle, &ours, &theirs);
        linux(&bundle, &ours, &theirs);
    }
}
