//! crun's annotations `run.oci.*` have the same effect here. runc knows none of them.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use integration::terminal::ConsoleSocket;
use integration::{Bundle, Container, Test, cgroups, check};
use serde_json::{Value, json};

fn knows_none(t: &Test) -> bool {
    t.differs("runc", "knows none of crun's annotations")
}

fn annotate(bundle: &mut Bundle, name: &str, value: &str) {
    if bundle.config["annotations"].is_null() {
        bundle.set("/annotations", json!({}));
    }
    bundle.config["annotations"][format!("run.oci.{name}")] = json!(value);
}

#[test]
fn groups_of_the_caller_are_kept() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "report"]).set("/process/user/additionalGids", json!([7]));
        let groups = |bundle: &Bundle| -> Result<Value> {
            bundle.write()?;
            let command = t.launched(&["groups=0,4321"], ["run", "--bundle", &bundle.path().to_string_lossy(), &t.new_id()])?;
            Ok(t.finish(command)?.ok()?.json()?["groups"].clone())
        };
        assert_eq!(groups(&bundle)?, json!([7]));
        annotate(&mut bundle, "keep_original_groups", "1");
        assert_eq!(groups(&bundle)?, json!([0, 4321]));
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let command = t.launched(&["groups=0,4322"], ["exec", &container.id, "/bin/payload", "report"])?;
        assert_eq!(t.finish(command)?.ok()?.json()?["groups"], json!([0, 4322]));
        annotate(&mut bundle, "keep_original_groups", "0");
        bundle.args(["/bin/payload", "report"]);
        assert_eq!(groups(&bundle)?, json!([7]));
        Ok(())
    });
}

#[test]
fn groups_of_the_caller_are_kept_in_a_user_namespace() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 1000}]);
        bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        annotate(&mut bundle, "keep_original_groups", "1");
        bundle.args(["/bin/sleep"]).write()?;
        // one id that the map contains, and one that it does not
        let id = t.new_id();
        let pid_file = t.path().join("pid");
        let path = bundle.path().to_string_lossy().into_owned();
        let pid = pid_file.to_string_lossy().into_owned();
        let groups = &["groups=200007,4321"];
        t.finish(t.launched(groups, ["run", "--detach", "--bundle", &path, "--pid-file", &pid, &id])?)?.ok()?;
        let report = t.finish(t.launched(groups, ["exec", &id, "/bin/payload", "report"])?)?.ok()?.json();
        let status = fs::read_to_string(format!("/proc/{}/status", fs::read_to_string(&pid_file)?))?;
        t.runtime(["delete", "--force", &id])?.ok()?;
        let init = status.lines().find(|line| line.starts_with("Groups:")).unwrap_or_default();
        ensure!(init.contains("4321") && init.contains("200007"), "{init}");
        let mut seen: Vec<i64> = report?["groups"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
        seen.sort_unstable();
        assert_eq!(seen, [7, 65534]);
        Ok(())
    });
}

#[test]
fn hooks_print_into_the_files_that_are_named() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let (out, err) = (t.path().join("hooks.out"), t.path().join("hooks.err"));
        fs::write(&out, "before\n")?;
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        annotate(&mut bundle, "hooks.stdout", &out.to_string_lossy());
        annotate(&mut bundle, "hooks.stderr", &err.to_string_lossy());
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
            let program = if kind == "startContainer" { "/bin/payload".into() } else { t.payload.clone() };
            bundle.push(&format!("/hooks/{kind}"), json!({"path": program, "args": ["payload", "say", kind, "then", "complain", kind]}));
        }
        let container = Container::start_of(t, &bundle)?;
        // the poststart hooks have run when start returns, the startContainer hooks when the program runs
        let report = container.exec_report(&[])?;
        let (said, complained) = (fs::read_to_string(&out)?, fs::read_to_string(&err)?);
        let mut lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.remove(0), "before");
        assert_eq!(lines, complained.lines().collect::<Vec<_>>());
        lines.sort_unstable();
        assert_eq!(lines, ["createContainer", "createRuntime", "poststart", "prestart", "startContainer"]);
        ensure!(!report["fds"].to_string().contains("hooks."), "{}", report["fds"]);
        Ok(())
    });
}

#[test]
fn a_receiver_gets_a_pidfd_of_init() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let path = t.path().join("pidfd.sock");
        let socket = ConsoleSocket::at(path.clone())?;
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        annotate(&mut bundle, "pidfd_receiver", &path.to_string_lossy());
        let container = Container::create(t, &bundle)?;
        let (fd, _) = socket.receive_with_payload()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).context("a pidfd")?;
        assert_eq!(pid.trim(), container.pid.as_raw_nonzero().to_string());
        Ok(())
    });
}

#[test]
fn an_unknown_system_call_fails_on_request() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let rule = json!({"names": ["sync", "no_such_call"], "action": "SCMP_ACT_ERRNO"});
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        t.run(&bundle)?.exits(0)?;
        annotate(&mut bundle, "seccomp_fail_unknown_syscall", "1");
        t.run(&bundle)?.exits(1)?.fails_with("no_such_call")?;
        Ok(())
    });
}

/// Encodes instructions in the form of the annotation.
fn base64(program: &[(u16, u8, u8, u32)]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> =
        program.iter().flat_map(|(code, jt, jf, k)| [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat()).collect();
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        for n in 0..4 {
            text.push(if n <= group.len() { DIGITS[(bits >> (18 - 6 * n) & 63) as usize].into() } else { '=' });
        }
    }
    text
}

/// A filter that answers `sync` with `answer` and allows all other calls.
fn filter_of_sync(answer: u32) -> String {
    const LOAD_NUMBER: (u16, u8, u8, u32) = (0x20, 0, 0, 0);
    const ALLOW: (u16, u8, u8, u32) = (0x06, 0, 0, 0x7fff_0000);
    let sync = u32::try_from(libc::SYS_sync).unwrap_or_default();
    base64(&[LOAD_NUMBER, (0x15, 0, 1, sync), (0x06, 0, 0, answer), ALLOW])
}

#[test]
fn a_ready_made_filter_stands_in_for_the_profile() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        const ERRNO: u32 = 0x0005_0000;
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "call", "sync", "then", "call", "uname", "0"]);
        let kill_all = json!({"defaultAction": "SCMP_ACT_KILL"});
        bundle.set("/linux/seccomp", kill_all);
        annotate(&mut bundle, "seccomp_bpf_data", &filter_of_sync(ERRNO | libc::EXDEV.cast_unsigned()));
        assert_eq!(t.run(&bundle)?.exits(0)?.stdout, "EXDEV\nEFAULT\n");
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        assert_eq!(container.exec(&[], ["/bin/payload", "call", "sync"])?.ok()?.stdout, "EXDEV\n");
        drop(container);
        for bad in ["%", "AAAA", &base64(&[(0x20, 0, 0, 0)])] {
            annotate(&mut bundle, "seccomp_bpf_data", bad);
            let output = t.run(&bundle)?.exits(1)?;
            if !t.differs("crun", "has words of its own") {
                output.fails_with("run.oci.seccomp_bpf_data")?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_receiver_of_notifications_is_named_by_annotation_or_environment() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let path = t.path().join("seccomp.sock");
        let socket = ConsoleSocket::at(path.clone())?;
        let mut bundle = t.bundle()?;
        let rule = json!({"names": ["sync"], "action": "SCMP_ACT_NOTIFY"});
        bundle.args(["/bin/payload", "call", "getpid"]);
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        let told = |bundle: &Bundle, environment: bool| -> Result<()> {
            bundle.write()?;
            let mut command = t.command(["run", "--bundle", &bundle.path().to_string_lossy(), &t.new_id()])?;
            if environment {
                command.env("RUN_OCI_SECCOMP_RECEIVER", &path);
            }
            let mut child = command.spawn()?;
            let (fd, payload) = socket.receive_with_payload()?;
            let state: Value = serde_json::from_str(&payload)?;
            ensure!(state["fds"] == json!(["seccompFd"]) && state["state"]["status"] == "creating", "{state}");
            drop(fd);
            ensure!(integration::runtime::wait(&mut child)?.success(), "the container failed");
            Ok(())
        };
        told(&bundle, true)?;
        annotate(&mut bundle, "seccomp.receiver", &path.to_string_lossy());
        told(&bundle, false)?;
        annotate(&mut bundle, "seccomp.receiver", "relative.sock");
        t.run(&bundle)?.exits(1)?.fails_with("is not an absolute path")?;
        Ok(())
    });
}

#[test]
fn what_is_another_runtime_is_refused() {
    check(|t| {
        if knows_none(t) || t.differs("crun", "runs a process where a handler is not built in") {
            return Ok(());
        }
        for (name, value) in
            [("handler", "krun"), ("handler", "wasm"), ("seccomp.plugins", "/x.so"), ("systemd.force_cgroup_v1", "/sys/fs/cgroup")]
        {
            let mut bundle = t.bundle()?;
            annotate(&mut bundle, name, value);
            t.run(&bundle)?.exits(1)?.fails_with(&format!("run.oci.{name}: "))?;
        }
        let mut bundle = t.bundle()?;
        annotate(&mut bundle, "handler", "crun");
        annotate(&mut bundle, "systemd.subgroup", "x");
        t.run(&bundle)?.exits(0)?;
        Ok(())
    });
}

#[test]
fn a_cgroup_is_delegated() {
    check(|t| {
        if knows_none(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).namespace("cgroup", None);
        annotate(&mut bundle, "delegate-cgroup", "../out");
        t.run(&bundle)?.exits(1)?.fails_with(if cgroups::unified() { "`..` component" } else { "delegate-cgroup" })?;
        annotate(&mut bundle, "delegate-cgroup", "payload/own");
        if !cgroups::unified() {
            t.run(&bundle)?.exits(1)?.fails_with("delegate-cgroup not supported on cgroup v1")?;
            return t.skip("what it does needs cgroup v2 alone");
        }
        let container = Container::start_of(t, &bundle)?;
        let cgroup = cgroups::of(container.pid, "")?;
        ensure!(cgroup.ends_with("payload/own"), "{}", cgroup.display());
        ensure!(cgroup.to_string_lossy().contains(&container.id), "{}", cgroup.display());
        drop(container);
        // with a user namespace, the cgroup belongs to the root of that namespace
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 1000}]);
        bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let container = Container::start_of(t, &bundle)?;
        let cgroup = cgroups::of(container.pid, "")?;
        assert_eq!((fs::metadata(&cgroup)?.uid(), fs::metadata(cgroup.join("cgroup.procs"))?.uid()), (200_000, 200_000));
        // the cgroup namespace begins above the container's own cgroup
        let report = container.exec_report(&[])?;
        ensure!(report["cgroup"].to_string().contains("0::/"), "{}", report["cgroup"]);
        Ok(())
    });
}
