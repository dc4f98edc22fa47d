//! Changes of a running container: mounts, device rules and device nodes. Either all of them happen or none.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use integration::runtime::Output;
use integration::{Bundle, Container, Test, check};
use serde_json::{Value, json};

fn sleeper<'t>(t: &'t Test, change: impl FnOnce(&mut Bundle)) -> Result<(Bundle, Container<'t>)> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/sleep"]);
    change(&mut bundle);
    let container = Container::start_of(t, &bundle)?;
    Ok((bundle, container))
}

/// Runs `VERB... FILE` with `document` in the file.
fn with_file(t: &Test, words: &[&str], id: &str, document: &Value) -> Result<Output> {
    let file = t.path().join("document.json");
    fs::write(&file, document.to_string())?;
    let file = file.to_string_lossy().into_owned();
    match words {
        ["update"] => t.runtime(["update", "--resources", &file, id]),
        words => t.runtime(words.iter().copied().chain([id, &file])),
    }
}

fn seen(container: &Container<'_>, point: &str) -> Result<Option<Value>> {
    let report = container.exec_report(&[])?;
    let mounts = report["mounts"].as_array().context("mounts")?;
    Ok(mounts.iter().rev().find(|m| m["point"] == point).cloned())
}

#[test]
fn mounts_come_and_go() {
    check(|t| {
        if t.differs("runc", "has no such command") {
            return Ok(());
        }
        let (_, container) = sleeper(t, |_| {})?;
        let source = t.path().join("data");
        fs::create_dir(&source)?;
        fs::write(source.join("file"), "outside")?;
        let bind = json!({"destination": "/mnt/data", "type": "bind", "source": source, "options": ["bind", "ro"]});
        with_file(t, &["mounts", "add"], &container.id, &json!([bind]))?.ok()?;
        assert_eq!(container.exec(&[], ["/bin/payload", "read", "/mnt/data/file"])?.ok()?.stdout, "outside");
        assert_eq!(container.exec(&[], ["/bin/payload", "try-write", "/mnt/data/file"])?.ok()?.stdout, "/mnt/data/file EROFS\n");
        with_file(t, &["mounts", "remove"], &container.id, &json!([{"destination": "/mnt/data"}]))?.ok()?;
        assert_eq!(seen(&container, "/mnt/data")?, None);
        if t.differs("crun", "takes no sources but binds, and no options of a file system") {
            return Ok(());
        }
        let tmpfs = json!({"destination": "/mnt/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "ro"]});
        let file = json!({"destination": "/etc/added", "source": source.join("file"), "options": ["bind"]});
        with_file(t, &["mounts", "add"], &container.id, &json!([tmpfs, file]))?.ok()?;
        let mount = seen(&container, "/mnt/tmp")?.context("the tmpfs")?;
        ensure!(mount["options"].to_string().contains("\"ro\"") && mount["super"].to_string().contains("size=64k"), "{mount}");
        assert_eq!(container.exec(&[], ["/bin/payload", "read", "/etc/added"])?.ok()?.stdout, "outside");
        // replaced by another mount in one step
        let update = json!({"mounts": {"remove": [{"destination": "/mnt/tmp"}], "add": [{"destination": "/mnt/tmp", "source": source, "options": ["bind"]}]}});
        with_file(t, &["update"], &container.id, &update)?.ok()?;
        assert_eq!(container.exec(&[], ["/bin/payload", "read", "/mnt/tmp/file"])?.ok()?.stdout, "outside");
        Ok(())
    });
}

#[test]
fn mounts_are_all_made_or_none() {
    check(|t| {
        if t.differs("runc", "has no such command") || t.differs("crun", "leaves what it made before the failure") {
            return Ok(());
        }
        let (bundle, container) = sleeper(t, |_| {})?;
        let source = t.path().join("data");
        fs::create_dir(&source)?;
        let bind = |to: &str| json!({"destination": to, "source": source, "options": ["bind"]});
        // the second mount fails, because a file is in its path
        let bad = json!([bind("/new/dir"), bind("/etc/passwd/x")]);
        with_file(t, &["mounts", "add"], &container.id, &bad)?.exits(1)?.fails_with("not a directory")?;
        assert_eq!(seen(&container, "/new/dir")?, None);
        ensure!(!bundle.rootfs("new/dir").exists(), "the mount point was left");
        // a removed mount is restored
        with_file(t, &["mounts", "add"], &container.id, &json!([bind("/srv")]))?.ok()?;
        let update = json!({"mounts": {"remove": [{"destination": "/srv"}], "add": [bind("/etc/passwd/x")]}});
        with_file(t, &["update"], &container.id, &update)?.exits(1)?;
        ensure!(seen(&container, "/srv")?.is_some(), "the mount is gone");
        for (remove, text) in [
            (json!([{"destination": "/bin"}]), "unmount /bin: it is not a mount"),
            (json!([{"destination": "/"}]), "top of rootfs"),
            (json!([{"destination": "/nosuch"}]), "no such file or directory"),
            (json!({"destination": "/srv"}), "expected a sequence"),
        ] {
            with_file(t, &["mounts", "remove"], &container.id, &remove)?.exits(1)?.fails_with(text)?;
        }
        t.runtime(["mounts", "rename", &container.id, "/dev/null"])?.exits(1)?.fails_with("unknown command rename")?;
        // limits are restored together with the mounts
        let update = json!({"pids": {"limit": 77}, "mounts": {"add": [bind("/etc/passwd/x")]}});
        if integration::cgroups::has("pids") {
            let before = integration::cgroups::read(container.pid, "pids", "pids.max")?;
            with_file(t, &["update"], &container.id, &update)?.exits(1)?;
            assert_eq!(integration::cgroups::read(container.pid, "pids", "pids.max")?, before);
        }
        Ok(())
    });
}

#[test]
fn no_destination_leads_out_or_into_what_is_masked() {
    check(|t| {
        if t.differs("runc", "has no such command") || t.differs("crun", "follows links to what it unmounts") {
            return Ok(());
        }
        let (bundle, container) = sleeper(t, |_| {})?;
        let outside = t.path().join("outside");
        fs::create_dir(&outside)?;
        symlink(&outside, bundle.rootfs("absolute"))?;
        symlink("../../../../../../../../../..", bundle.rootfs("up"))?;
        symlink("/proc", bundle.rootfs("p"))?;
        let bind = |to: &str| json!([{"destination": to, "source": outside, "options": ["bind"]}]);
        with_file(t, &["mounts", "add"], &container.id, &bind("/absolute/a"))?.ok()?;
        with_file(t, &["mounts", "add"], &container.id, &bind("/up/b/c"))?.ok()?;
        assert_eq!(fs::read_dir(&outside)?.count(), 0);
        ensure!(bundle.rootfs("b/c").is_dir(), "not inside the root");
        with_file(t, &["mounts", "add"], &container.id, &bind("/p/sys"))?.exits(1)?.fails_with("inside /proc")?;
        let masked = json!([{"destination": "/p/kcore"}]);
        with_file(t, &["mounts", "remove"], &container.id, &masked)?.exits(1)?.fails_with("a symbolic link leads there")?;
        Ok(())
    });
}

#[test]
fn devices_are_allowed_made_and_taken_away() {
    check(|t| {
        if t.differs("runc", "leaves devices out of an update")
            || t.differs("crun", "writes the list of the update alone, and makes no nodes")
        {
            return Ok(());
        }
        let (_, container) = sleeper(t, |_| {})?;
        // a device number without a driver: ENODEV shows that the open was allowed
        let device = |allow: bool, minor: u32| json!({"allow": allow, "type": "c", "major": 10, "minor": minor, "access": "rwm", "path": format!("/dev/own/{minor}"), "fileMode": 0o640, "uid": 5, "gid": 6});
        let open = |name: &str| Ok::<_, anyhow::Error>(container.exec(&[], ["/bin/payload", "try-open", name])?.ok()?.stdout);
        with_file(t, &["update"], &container.id, &json!({"devices": [device(true, 250)]}))?.ok()?;
        assert_eq!(open("/dev/own/250")?, "/dev/own/250 ENODEV\n");
        let stat = container.exec(&[], ["/bin/payload", "stat", "/dev/own/250"])?.ok()?.stdout;
        assert_eq!(stat, "/dev/own/250 c 10:250 640 5:6\n");
        // earlier rules stay
        with_file(t, &["update"], &container.id, &json!({"devices": [device(true, 251)]}))?.ok()?;
        assert_eq!((open("/dev/own/250")?, open("/dev/own/251")?), ("/dev/own/250 ENODEV\n".into(), "/dev/own/251 ENODEV\n".into()));
        // an update without devices changes no rule, even with the config's own list, which engines send
        if integration::cgroups::has("pids") {
            with_file(t, &["update"], &container.id, &json!({"pids": {"limit": 100}}))?.ok()?;
        }
        with_file(t, &["update"], &container.id, &json!({"devices": [{"allow": false, "access": "rwm"}]}))?.ok()?;
        assert_eq!(open("/dev/own/250")?, "/dev/own/250 ENODEV\n");
        // both are removed: the node and the rule
        let plain = json!({"allow": false, "type": "c", "major": 10, "minor": 251, "access": "rwm"});
        with_file(t, &["update"], &container.id, &json!({"devices": [device(false, 250), plain]}))?.ok()?;
        assert_eq!(open("/dev/own/250")?, "/dev/own/250 ENOENT\n");
        assert_eq!(open("/dev/own/251")?, "/dev/own/251 EPERM\n");
        assert_eq!(open("/dev/null")?, "/dev/null ok\n");
        // a list that begins with a rule for all devices replaces all earlier rules
        let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
        with_file(t, &["update"], &container.id, &all)?.ok()?;
        assert_eq!(open("/dev/own/251")?, "/dev/own/251 ENODEV\n");
        // an invalid rule, and a path with another node: nothing is changed
        let refused = json!({"devices": [{"allow": false, "access": "rwm", "type": "a"}, {"allow": true, "type": "c", "major": 10, "minor": 251, "access": "x"}]});
        with_file(t, &["update"], &container.id, &refused)?.exits(1)?.fails_with("invalid cgroup device access")?;
        let taken = json!({"devices": [{"allow": false, "access": "rwm", "type": "a"}, {"allow": true, "type": "c", "major": 10, "minor": 250, "access": "rwm", "path": "/dev/null"}]});
        with_file(t, &["update"], &container.id, &taken)?.exits(1)?.fails_with("is not that device")?;
        assert_eq!(open("/dev/own/251")?, "/dev/own/251 ENODEV\n");
        Ok(())
    });
}

#[test]
fn binds_come_into_a_container_with_a_user_namespace() {
    check(|t| {
        if t.differs("runc", "has no such command") || t.differs("crun", "takes file systems too, as the host's root's") {
            return Ok(());
        }
        let (_, container) = sleeper(t, |bundle| {
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
            bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        })?;
        let source = t.path().join("data");
        fs::create_dir(&source)?;
        fs::write(source.join("file"), "outside")?;
        let bind = json!([{"destination": "/mnt/data", "source": source, "options": ["bind", "ro"]}]);
        with_file(t, &["mounts", "add"], &container.id, &bind)?.ok()?;
        assert_eq!(container.exec(&[], ["/bin/payload", "read", "/mnt/data/file"])?.ok()?.stdout, "outside");
        with_file(t, &["mounts", "remove"], &container.id, &bind)?.ok()?;
        assert_eq!(seen(&container, "/mnt/data")?, None);
        let tmpfs = json!([{"destination": "/mnt/tmp", "type": "tmpfs", "source": "tmpfs"}]);
        with_file(t, &["mounts", "add"], &container.id, &tmpfs)?.exits(1)?.fails_with("takes bind mounts, and no file system")?;
        let node = json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm", "path": "/dev/fuse"}]});
        with_file(t, &["update"], &container.id, &node)?.exits(1)?.fails_with("takes a node as a bind mount")?;
        Ok(())
    });
}
