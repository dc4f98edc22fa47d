//! User namespaces, new and joined: owners of files, and the rights of root inside (user_namespaces(7)).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, Test, check, namespaces};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};

const UIDS: u32 = 100_000;
const GIDS: u32 = 200_000;
/// The owner of a file whose host ids have no mapping.
const NOBODY: &str = "65534:65534";

/// A bundle whose root is mapped to other ids on the host; the rootfs belongs to these ids.
fn mapped(t: &Test) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.namespace("user", None);
    bundle.set("/linux/uidMappings", json!([{"containerID": 0, "hostID": UIDS, "size": 65_536}]));
    bundle.set("/linux/gidMappings", json!([{"containerID": 0, "hostID": GIDS, "size": 65_536}]));
    give(&bundle.rootfs(""))?;
    Ok(bundle)
}

/// Whether to skip the runtime, because one is known to change the host permanently.
fn unfit(t: &Test) -> bool {
    t.differs("crun<1.24", "gives the host's /dev/null to the container's root")
}

fn give(path: &Path) -> Result<()> {
    lchown(path, Some(UIDS), Some(GIDS))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}

/// Lets `bundle` join the user namespace of `container`.
fn join(bundle: &mut Bundle, container: &Container<'_>) {
    let path = format!("/proc/{}/ns/user", container.pid.as_raw_nonzero());
    bundle.namespace("user", Some(&path)).unset("/linux/uidMappings").unset("/linux/gidMappings");
}

fn namespace_of(container: &Container<'_>, kind: &str) -> Result<Value> {
    Ok(json!(fs::read_link(format!("/proc/{}/ns/{kind}", container.pid.as_raw_nonzero()))?))
}

#[test]
fn root_inside_is_another_outside_and_owns_what_is_made_for_it() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        let mut bundle = mapped(t)?;
        bundle.namespace("cgroup", None).set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        let ipc = if t.differs("runc<1.5", "sets no sysctls of user namespaces") || t.differs("crun", "sets no sysctls of user namespaces")
        {
            // the limit is not set
            i32::MAX.to_string()
        } else {
            bundle.set("/linux/sysctl/user.max_ipc_namespaces", json!("7"));
            "7".to_owned()
        };
        bundle.args(["/bin/payload", "report", "then", "stat", "/dev/mqueue", "/dev/pts", "/proc/1", "then"]);
        let more = ["read", "/proc/sys/net/ipv4/ip_forward", "then", "read", "/proc/sys/user/max_ipc_namespaces", "then", "sleep"];
        bundle.config["process"]["args"].as_array_mut().context("args")?.extend(more.map(Value::from));
        let mut container = Container::start_of(t, &bundle)?;
        let report: Value = serde_json::from_str(&container.line()?)?;
        assert_eq!(report["uid_map"], json!(["0", "100000", "65536"]));
        assert_eq!((&report["uids"], &report["gids"], &report["groups"]), (&json!("0 0 0 0"), &json!("0 0 0 0"), &json!([])));
        for kind in ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"] {
            let own = json!(namespaces::own(kind)?);
            ensure!(report["namespaces"][kind].is_string() && report["namespaces"][kind] != own, "{kind} is not new");
        }
        assert_eq!(report["links"], json!(["lo"]));
        for node in ["null", "zero", "full", "random", "urandom", "tty"] {
            let seen = report["dev"][node].as_str().unwrap_or_default();
            ensure!(seen.starts_with("c ") && seen.ends_with(&format!("666 {NOBODY}")), "{node}: {seen}");
        }
        for place in ["/dev/mqueue", "/dev/pts", "/proc/1"] {
            let line = container.line()?;
            let early = place == "/dev/mqueue" && t.differs("runc", "makes the ipc namespace before it has a group");
            ensure!(line.starts_with(place) && line.ends_with(if early { " 0:65534" } else { " 0:0" }), "{line}");
        }
        assert_eq!((container.line()?, container.line()?), ("1".to_owned(), ipc));
        let process = fs::metadata(format!("/proc/{}", container.pid.as_raw_nonzero()))?;
        assert_eq!((process.uid(), process.gid()), (UIDS, GIDS));
        Ok(())
    });
}

#[test]
fn limits_and_scores_are_set_that_root_inside_may_not_set() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        let mut bundle = mapped(t)?;
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1024);
        // if the test may not raise a limit or lower a score, the runtime cannot either
        let most: u64 = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse()?;
        let (hard, score) = if may_exceed() { ((hard + 7).min(most), -7) } else { (hard - 7, 7) };
        bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": hard, "hard": hard}]));
        bundle.set("/process/oomScoreAdj", json!(score));
        let report = t.report(&mut bundle)?;
        assert_eq!(report["limits"]["RLIMIT_NOFILE"], json!([hard, hard]));
        assert_eq!(report["oom_score_adj"], json!(score.to_string()));

        if t.differs("crun", "executes with the limits of its caller") {
            return Ok(());
        }
        bundle.args(["/bin/sleep"]);
        let report = Container::start_of(t, &bundle)?.exec_report(&[])?;
        assert_eq!(report["limits"]["RLIMIT_NOFILE"], json!([hard, hard]));
        assert_eq!(report["oom_score_adj"], json!(score.to_string()));
        Ok(())
    });
}

fn may_exceed() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).unwrap_or_default()
}

#[test]
fn what_belongs_to_the_host_is_out_of_reach() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        let secret = t.path().join("secret");
        fs::write(&secret, "secret")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let mut bundle = mapped(t)?;
        let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
        bundle.set("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}));
        fs::write(bundle.rootfs("secret"), "")?;
        bundle.mount("/secret", "bind", &secret.to_string_lossy(), &["bind"]).set("/process/noNewPrivileges", json!(false));
        bundle.args([
            "/bin/payload",
            "try-open",
            "/secret",
            "/proc/kcore",
            "/proc/1/environ",
            "then",
            "try-chmod",
            "777",
            "/dev/null",
            "then",
        ]);
        let more = ["try-write", "/proc/sys/kernel/core_pattern", "then", "mknod", "c", "1", "1", "/mem"];
        bundle.config["process"]["args"].as_array_mut().context("args")?.extend(more.map(Value::from));
        let output = t.run(&bundle)?.ok()?;
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(lines[0], "/secret EACCES");
        assert_eq!(&lines[2..4], ["/proc/1/environ ok", "/dev/null EPERM"]);
        ensure!(lines[4].ends_with("EROFS") || lines[4].ends_with("EACCES"), "{}", lines[4]);
        assert_eq!(lines[5], "/mem EPERM");
        Ok(())
    });
}

#[test]
fn sources_are_bound_that_root_inside_may_not_reach() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        let closed = t.path().join("closed");
        fs::create_dir_all(closed.join("folder"))?;
        fs::write(closed.join("folder/file"), "inside")?;
        chown(closed.join("folder/file"), Some(UIDS), Some(GIDS))?;
        chown(&closed, Some(4711), Some(4711))?;
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
        let mut bundle = mapped(t)?;
        bundle.mount("/a", "bind", &closed.join("folder").to_string_lossy(), &["rbind"]);
        bundle.mount("/b", "bind", &closed.join("folder/file").to_string_lossy(), &["bind", "ro"]);
        bundle.args([
            "/bin/payload",
            "read",
            "/a/file",
            "then",
            "say",
            "",
            "then",
            "read",
            "/b",
            "then",
            "say",
            "",
            "then",
            "try-write",
            "/b",
        ]);
        let lines: Vec<String> = t.run(&bundle)?.ok()?.stdout.split_whitespace().map(str::to_owned).collect();
        assert_eq!(lines, ["inside", "inside", "/b", "EROFS"]);

        let mut bundle = mapped(t)?;
        bundle.mount("/a", "bind", &closed.join("nothing").to_string_lossy(), &["bind"]);
        let text = if t.differs("crun", "looks for it as root inside") { "" } else { "no such file or directory" };
        t.run(&bundle)?.fails_with(text)?;
        Ok(())
    });
}

#[test]
fn exec_is_in_it_with_its_ids() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        let mut bundle = mapped(t)?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let report = container.exec_report(&[])?;
        assert_eq!(report["namespaces"]["user"], namespace_of(&container, "user")?);
        assert_eq!((&report["uids"], &report["groups"]), (&json!("0 0 0 0"), &json!([])));
        if t.differs("crun", "has no additional groups for exec, and other words") {
            return Ok(());
        }
        let report = container.exec_report(&["--user", "1000:1001", "--additional-gids", "7"])?;
        assert_eq!((&report["uids"], &report["gids"]), (&json!("1000 1000 1000 1000"), &json!("1001 1001 1001 1001")));
        let groups = report["groups"].as_array().context("groups")?;
        // runc sets them twice
        ensure!(!groups.is_empty() && groups.iter().all(|group| *group == 7), "{groups:?}");
        let output = container.exec(&["--user", "70000"], ["/bin/true"])?;
        ensure!(!output.status.success(), "an id that is not mapped");
        ensure!(output.stderr.contains("unmapped u"), "{}", output.stderr);
        Ok(())
    });
}

#[test]
fn a_container_without_a_process_has_one_too() {
    check(|t| {
        if unfit(t) || t.differs("runc", "refuses a config without a process") {
            return Ok(());
        }
        let mut bundle = mapped(t)?;
        bundle.unset("/process");
        let mut container = Container::create(t, &bundle)?;
        let process = fs::metadata(format!("/proc/{}", container.pid.as_raw_nonzero()))?;
        ensure!(process.uid() == UIDS || process.uid() == 0, "init of uid {}", process.uid());
        ensure!(namespace_of(&container, "user")? != json!(fs::read_link("/proc/self/ns/user")?), "the caller's user namespace");
        let map = fs::read_to_string(format!("/proc/{}/uid_map", container.pid.as_raw_nonzero()))?;
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
        container.kill("KILL")?.ok()?;
        container.wait()?;
        container.delete()?.ok()?;
        Ok(())
    });
}

#[test]
fn one_is_joined_by_path_with_new_namespaces_in_it() {
    check(|t| {
        if unfit(t) || t.differs("runc<1.2", "joins no user namespace without its mappings, and nothing of the host's beside one") {
            return Ok(());
        }
        let mut pod = mapped(t)?;
        pod.args(["/bin/sleep"]).set("/hostname", json!("pod"));
        let pod = Container::start_of(t, &pod)?;
        let mut bundle = mapped(t)?;
        join(&mut bundle, &pod);
        bundle.args(["/bin/payload", "report", "then", "sleep"]);
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            bundle.namespace(kind, Some(&format!("/proc/{}/ns/{file}", pod.pid.as_raw_nonzero())));
        }
        bundle.unset("/hostname").namespace("cgroup", None);
        let mut container = Container::start_of(t, &bundle)?;
        let report: Value = serde_json::from_str(&container.line()?)?;
        for kind in ["user", "net", "ipc", "uts"] {
            assert_eq!(report["namespaces"][kind], namespace_of(&pod, kind)?, "{kind}");
        }
        for kind in ["pid", "mnt"] {
            ensure!(report["namespaces"][kind] != namespace_of(&pod, kind)?, "{kind}");
        }
        assert_eq!((&report["uids"], &report["hostname"], &report["pid"]), (&json!("0 0 0 0"), &json!("pod"), &json!(1)));
        assert_eq!(container.exec_report(&[])?["namespaces"]["user"], namespace_of(&pod, "user")?);
        container.kill("KILL")?.ok()?;
        assert_eq!(container.wait()?, 137);
        container.delete()?.ok()?;
        Ok(())
    });
}

#[test]
fn mappings_beside_a_path_must_be_the_same() {
    check(|t| {
        if unfit(t) || t.differs("runc<1.2", "joins no user namespace without its mappings, and nothing of the host's beside one") {
            return Ok(());
        }
        let mut pod = mapped(t)?;
        pod.args(["/bin/sleep"]);
        let pod = Container::start_of(t, &pod)?;
        let path = format!("/proc/{}/ns/user", pod.pid.as_raw_nonzero());
        // the config of containerd and CRI-O
        let mut same = mapped(t)?;
        same.namespace("user", Some(&path));
        assert_eq!(t.report(&mut same)?["uid_map"], json!(["0", "100000", "65536"]));
        let mut other = mapped(t)?;
        other.namespace("user", Some(&path)).set("/linux/uidMappings/0/size", json!(65_535));
        if !t.differs("crun", "does not compare") {
            t.run(&other)?.fails_with("user namespace")?;
        }
        let mut unmapped = mapped(t)?;
        join(&mut unmapped, &pod);
        unmapped.set("/process/user/uid", json!(70_000));
        t.run(&unmapped)?.fails_with(if t.runtime.kind == "crun" { "" } else { "70000" })?;
        Ok(())
    });
}

#[test]
fn a_namespace_of_the_hosts_is_joined_beside_a_new_user_namespace() {
    check(|t| {
        if unfit(t) || t.differs("runc<1.2", "joins no user namespace without its mappings, and nothing of the host's beside one") {
            return Ok(());
        }
        if t.differs("crun", "fails to set up the network") {
            return Ok(());
        }
        let mut plain = t.bundle()?;
        plain.args(["/bin/sleep"]);
        let plain = Container::start_of(t, &plain)?;
        let mut bundle = mapped(t)?;
        bundle.namespace("network", Some(&format!("/proc/{}/ns/net", plain.pid.as_raw_nonzero())));
        // a new sysfs would need the network namespace to belong to this user namespace
        bundle.unmount("/sys").mount("/sys", "bind", "/sys", &["rbind", "ro"]);
        bundle.args(["/bin/payload", "report", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        let report: Value = serde_json::from_str(&container.line()?)?;
        assert_eq!(report["namespaces"]["net"], namespace_of(&plain, "net")?);
        assert_eq!(report["uid_map"], json!(["0", "100000", "65536"]));
        assert_eq!(container.exec_report(&[])?["namespaces"], report["namespaces"]);
        Ok(())
    });
}

#[test]
fn standard_streams_can_be_opened_again() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        for uid in [0, 1000] {
            let mut bundle = mapped(t)?;
            bundle.set("/process/user/uid", json!(uid)).args([
                "/bin/payload",
                "say",
                "first",
                "then",
                "append",
                "/dev/stdout",
                "again",
                "then",
                "sleep",
            ]);
            if t.runtime.kind != "masu" {
                t.differs(t.runtime.kind, "leaves a pipe of the caller's to its owner");
                return Ok(());
            }
            let mut container = Container::start_of(t, &bundle)?;
            assert_eq!(container.line()?, "first");
            let output = container.exec(&[], ["/bin/payload", "stat", "/dev/console"])?;
            ensure!(output.status.success(), "{}", output.stderr);
            container.kill("KILL")?.ok()?;
            container.wait()?;
            assert_eq!(container.rest()?, "again");
        }
        Ok(())
    });
}

#[test]
fn masks_and_read_only_paths_hold() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        let mut bundle = mapped(t)?;
        bundle.push("/linux/maskedPaths", json!("/etc/passwd")).push("/linux/readonlyPaths", json!("/etc"));
        bundle.set("/root/readonly", json!(true));
        bundle.args(["/bin/payload", "read", "/etc/passwd", "then", "try-write", "/etc/new", "then", "try-write", "/new"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "/etc/new EROFS\n/new EROFS\n");
        Ok(())
    });
}

/// A read-only tmpfs on the host. Dropping this unmounts it.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn mount(at: &'a Path) -> Result<Self> {
        fs::create_dir(at)?;
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::RDONLY | MountFlags::NOSUID, None).context("mount a tmpfs on the host")?;
        Ok(Self(at))
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn what_the_host_has_locked_stays_so() {
    check(|t| {
        if unfit(t) || t.differs("crun", "takes mounts over without what is locked") {
            return Ok(());
        }
        let folder = t.path().join("locked");
        let _mounted = ReadOnly::mount(&folder)?;
        let source = folder.to_string_lossy();
        let mut bundle = mapped(t)?;
        bundle.mount("/m", "bind", &source, &["bind", "rw"]);
        t.run(&bundle)?.fails_with("cannot clear locked flags")?;
        let mut bundle = mapped(t)?;
        bundle.mount("/m", "bind", &source, &["bind", "nodev"]);
        let report = t.report(&mut bundle)?;
        let options = report["mounts"].as_array().into_iter().flatten().find(|mount| mount["point"] == "/m").context("/m")?;
        for option in ["ro", "nosuid", "nodev"] {
            ensure!(options["options"].as_array().is_some_and(|all| all.contains(&json!(option))), "no {option}: {options}");
        }
        Ok(())
    });
}

#[test]
fn a_cgroup_that_is_writable_inside_belongs_to_root_inside() {
    check(|t| {
        if unfit(t) {
            return Ok(());
        }
        if fs::metadata("/sys/fs/cgroup/cgroup.procs").is_err() {
            return t.skip("needs cgroup v2 alone");
        }
        for (options, owner) in [(&["rw"][..], "0:"), (&["ro"], NOBODY)] {
            let mut bundle = mapped(t)?;
            bundle.namespace("cgroup", None).mount("/sys/fs/cgroup", "cgroup", "cgroup", options);
            bundle.args(["/bin/payload", "stat", "/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/cgroup.kill"]);
            let output = t.run(&bundle)?.ok()?.stdout;
            let owners: Vec<&str> = output.lines().filter_map(|line| line.rsplit_once(' ')).map(|(_, owner)| owner).collect();
            if owner != "0:" && t.differs("crun", "hands it over in any case") {
                continue;
            }
            if owner == "0:" && t.differs("runc", "hands over only what systemd made") {
                continue;
            }
            ensure!(owners[0].starts_with(owner) && owners[1].starts_with(owner) && owners[2] == NOBODY, "{options:?}: {output}");
        }
        Ok(())
    });
}

#[test]
fn sec_exec_1_root_inside_sees_into_no_process_of_ours() {
    check(|t| {
        if unfit(t) || t.differs("crun", "leaves an exec unreaped when the container ends beneath it") {
            return Ok(());
        }
        let mut bundle = mapped(t)?;
        let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
        bundle.set("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}));
        bundle.args(["/bin/payload", "spy", "4"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        let mut execs = 0;
        while container.status()? == "running" && execs < 60 {
            // an exec fails if the container ends at the same time
            let _ = container.exec(&[], ["/bin/payload", "sleep", "0.01"])?;
            execs += 1;
        }
        let seen = container.rest()?;
        ensure!(seen.contains("exe /bin/payload") && seen.ends_with("done\n"), "{execs} execs, seen: {seen}");
        for line in seen.lines() {
            // seen while execve closes the close-on-exec descriptors: the socket that tells the runtime about the execve by its
            // end. A socket cannot be opened through /proc
            let fine = ["exe /bin/payload", "root /", "cwd /", "done"].contains(&line)
                || ["fd pipe", "fd /dev/null", "fd socket"].contains(&line)
                // a program linked with glibc reads the size of its stack when it starts
                || (line.starts_with("fd /proc/") && line.ends_with("/maps"))
                || line.starts_with(&format!("fd {}", t.path().display()));
            ensure!(fine, "of a process that was not the program's: {line}");
        }
        container.wait()?;
        Ok(())
    });
}
