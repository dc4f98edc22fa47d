//! `masu check` reports all mistakes of a bundle at once, by their JSON paths, and runs and changes nothing.

use anyhow::{Result, ensure};
use integration::{Bundle, Test, check};
use serde_json::{Value, json};

/// The lines of `check`, which must exit with 1 exactly if one line is an error.
fn lines(t: &Test, bundle: &Bundle) -> Result<Vec<String>> {
    bundle.write()?;
    let output = t.runtime(["check".as_ref(), bundle.path().as_os_str()])?;
    let lines: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    let wrong = lines.iter().any(|line| line.starts_with("error: "));
    ensure!(lines.iter().all(|line| line.starts_with("error: ") || line.starts_with("warning: ")), "{lines:#?}");
    output.exits(i32::from(wrong))?;
    ensure!(!t.root().join("check").exists() && std::fs::read_dir(t.root())?.next().is_none(), "the state directory was changed");
    Ok(lines)
}

fn is_masu(t: &Test) -> Result<bool> {
    if !t.runtime.is("masu") {
        t.skip("only masu has the command check")?;
    }
    Ok(t.runtime.is("masu"))
}

#[test]
fn a_good_bundle_has_no_line() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let bundle = t.bundle()?;
        ensure!(lines(t, &bundle)?.is_empty(), "{:?}", lines(t, &bundle));
        let output = t.runtime(["check".as_ref(), "--format=json".as_ref(), "-b".as_ref(), bundle.path().as_os_str()])?.ok()?;
        ensure!(output.json()? == json!({"errors": [], "warnings": []}), "{}", output.stdout);
        Ok(())
    });
}

#[test]
fn ten_mistakes_are_ten_lines() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/no/such/program"]).set("/process/cwd", json!("tmp")).push("/process/env", json!("NOVALUE"));
        bundle.set("/process/user/uid", json!("root")).set("/process/rlimits", json!([{"type": "RLIMIT_BOGUS", "soft": 1, "hard": 1}]));
        bundle.mount("/data", "bind", "/no/such/source", &["rbind"]).push("/linux/namespaces", json!({"type": "bogus"}));
        bundle.set("/linux/sysctl", json!({"vm.swappiness": "1"})).push("/linux/devices", json!({"path": "/dev/x", "type": "z"}));
        bundle.set("/hooks", json!({"poststop": [{"path": "cleanup"}]}));
        let lines = lines(t, &bundle)?;
        let wanted = [
            "process.user.uid: invalid type: string \"root\", expected u32",
            "linux.namespaces[5]: namespace {\"bogus\" \"\"} does not exist",
            "linux.sysctl[\"vm.swappiness\"]: sysctl \"vm.swappiness\" is not in a separate kernel namespace",
            "linux.devices[0]: /dev/x: invalid device type \"z\"",
            "hooks.poststop[0]: \"cleanup\": the path of a hook must be absolute",
            "process.cwd: Cwd must be an absolute path, and \"tmp\" is not",
            "process.env[1]: invalid environment variable: missing '='",
            "process.rlimits[0]: wrong rlimit value: RLIMIT_BOGUS",
            "mounts[6].source: the source of /data: open /no/such/source: no such file or directory",
            "process.args[0]: exec: \"/no/such/program\": stat /no/such/program: no such file or directory",
        ];
        ensure!(lines.iter().map(|line| line.trim_start_matches("error: ")).eq(wanted), "{lines:#?}");
        // create still fails with the first mistake that it meets
        let run = t.run(&bundle)?.exits(1)?;
        ensure!(run.stderr.contains("process.user.uid: invalid type: string \"root\", expected u32 at line"), "{}", run.stderr);
        Ok(())
    });
}

/// One mistake, and the beginning of its only line.
type Row = (&'static str, fn(&mut Bundle));

const ROWS: [Row; 46] = [
    ("error: root.path: invalid rootfs: stat", |b| _ = b.set("/root/path", json!("nowhere"))),
    ("error: root: root must be specified", |b| _ = b.unset("/root")),
    ("error: root.readonly: invalid type", |b| _ = b.set("/root/readonly", json!("true"))),
    ("error: process: process property must not be empty", |b| _ = b.unset("/process")),
    ("error: process.args: args must not be empty", |b| _ = b.set("/process/args", json!([]))),
    ("error: process.args[1]: invalid type: integer `7`", |b| _ = b.push("/process/args", json!(7))),
    ("error: process.args[0]: exec: \"nosuch\": executable file not found in $PATH", |b| _ = b.args(["nosuch"])),
    ("error: process.args[0]: exec: \"/etc\": is a directory", |b| _ = b.args(["/etc"])),
    ("error: process.args[0]: exec: \"/etc/passwd\": permission denied", |b| _ = b.args(["/etc/passwd"])),
    ("error: process.cwd: Cwd property must not be empty", |b| _ = b.unset("/process/cwd")),
    ("error: process.cwd: chdir to cwd (\"/etc/passwd\"): not a directory", |b| _ = b.set("/process/cwd", json!("/etc/passwd"))),
    ("error: process.user.additionalGids: cannot setuid to unmapped", |b| _ = b.set("/process/user/additionalGids", json!([u32::MAX]))),
    ("error: process.user.umask: 1777 is not a mask", |b| _ = b.set("/process/user/umask", json!(0o1777))),
    ("error: process.oomScoreAdj: 5000 is not between", |b| _ = b.set("/process/oomScoreAdj", json!(5000))),
    ("error: process.consoleSize: 70000x1 is larger", |b| _ = b.set("/process/consoleSize", json!({"height": 70_000, "width": 1}))),
    ("error: process.capabilities.effective: CAP_SYS_ADMIN is effective but", |b| {
        _ = b.push("/process/capabilities/effective", json!("CAP_SYS_ADMIN"));
    }),
    ("warning: process.capabilities: ignoring unknown", |b| _ = b.push("/process/capabilities/bounding", json!("CAP_BOGUS"))),
    ("error: process.scheduler: invalid scheduler policy", |b| _ = b.set("/process/scheduler", json!({"policy": "SCHED_BOGUS"}))),
    ("error: process.ioPriority: ", |b| _ = b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 9}))),
    ("error: process.execCPUAffinity", |b| _ = b.set("/process/execCPUAffinity", json!({"initial": "a"}))),
    ("error: annotations: a key is empty", |b| _ = b.set("/annotations", json!({"": "x"}))),
    ("error: annotations[\"a.b\"]: invalid type: integer `1`", |b| _ = b.set("/annotations", json!({"a.b": 1}))),
    ("error: hostname: unable to set hostname without", |b| _ = b.drop_namespace("uts")),
    ("error: hooks.prestart[0]: exec: \"/no/hook\": stat /no/hook", |b| _ = b.set("/hooks", json!({"prestart": [{"path": "/no/hook"}]}))),
    ("error: hooks.startContainer[0]: exec: \"/bin/no\"", |b| _ = b.set("/hooks", json!({"startContainer": [{"path": "/bin/no"}]}))),
    ("error: hooks.poststart[1]: \"/bin/x\": timeout", |b| {
        _ = b.set("/hooks", json!({"poststart": [{"path": "/proc/self/exe"}, {"path": "/bin/x", "timeout": 0}]}));
    }),
    ("error: mounts[6]: the mount of \"x\" has no destination", |b| _ = b.mount("", "tmpfs", "x", &[])),
    ("error: mounts[6]: error mounting \"x\" to rootfs at \"/proc/x\"", |b| _ = b.mount("/proc/x", "tmpfs", "x", &[])),
    ("warning: mounts[6].type: this kernel has no file system \"nosuchfs\"", |b| _ = b.mount("/x", "nosuchfs", "x", &[])),
    ("error: mounts: invalid type: map, expected a sequence", |b| _ = b.set("/mounts", json!({"destination": "/x"}))),
    ("error: linux.namespaces[5]: malformed spec file: duplicated ns", |b| _ = b.push("/linux/namespaces", json!({"type": "pid"}))),
    ("error: linux.namespaces[4]: namespace path: open /no/ns", |b| _ = b.namespace("network", Some("/no/ns"))),
    (
        "error: linux.namespaces[4]: namespace path: \"/etc/passwd\" is not a namespace|error: linux.namespaces[4]: namespace path: /etc/passwd",
        |b| {
            _ = b.namespace("network", Some("/etc/passwd"));
        },
    ),
    ("error: linux.rootfsPropagation: rootfsPropagation=bogus", |b| _ = b.set("/linux/rootfsPropagation", json!("bogus"))),
    ("error: linux.maskedPaths[0]: the root itself", |b| _ = b.set("/linux/maskedPaths", json!(["/"]))),
    ("error: linux.personality.domain: invalid personality domain X", |b| _ = b.set("/linux/personality", json!({"domain": "X"}))),
    ("error: linux.cgroupsPath: ", |b| _ = b.set("/linux/cgroupsPath", json!("/"))),
    ("error: linux.resources.devices[0]: invalid cgroup device access", |b| {
        _ = b.set("/linux/resources/devices", json!([{"allow": true, "type": "c", "access": "x"}]));
    }),
    ("error: linux.resources.memory.swap: memory+swap limit should be", |b| {
        _ = b.set("/linux/resources/memory", json!({"limit": 200_000_000, "swap": 100_000_000}));
    }),
    ("error: linux.resources.blockIO.weight: invalid weight 5", |b| _ = b.set("/linux/resources/blockIO", json!({"weight": 5}))),
    ("error: linux.resources.hugepageLimits[0]: invalid page size", |b| {
        _ = b.set("/linux/resources/hugepageLimits", json!([{"pageSize": "x", "limit": 1}]));
    }),
    ("error: linux.seccomp.defaultAction: string X is not a valid action", |b| _ = b.set("/linux/seccomp", json!({"defaultAction": "X"}))),
    ("error: linux.seccomp.syscalls[1]: string Y is not a valid action", |b| {
        let rule = |action: &str| json!({"names": ["chmod"], "action": action});
        _ = b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("SCMP_ACT_ERRNO"), rule("Y")]}));
    }),
    ("error: linux.seccomp.listenerPath: open /no/agent", |b| {
        let rule = json!({"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"});
        _ = b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/agent", "syscalls": [rule]}));
    }),
    ("warning: linux.resource: unknown property", |b| _ = b.set("/linux/resource", json!({}))),
    ("warning: ociVersion: \"9.0.0\" is not|warning: ociVersion: ociVersion \"9.0.0\"", |b| _ = b.set("/ociVersion", json!("9.0.0"))),
];

#[test]
fn each_mistake_is_one_line_at_its_place() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let mut wrong = Vec::new();
        for (wanted, edit) in ROWS {
            let mut bundle = t.bundle()?;
            edit(&mut bundle);
            let mut lines = lines(t, &bundle)?;
            // on a host whose memory controller is in another hierarchy
            lines.retain(|line| !line.contains("controller \"memory\" not available in the cgroup v2 of this host"));
            if !matches!(lines.as_slice(), [only] if wanted.split('|').any(|wanted| only.starts_with(wanted))) {
                wrong.push(format!("{wanted}: {lines:#?}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

#[test]
fn what_is_no_config_is_one_line() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let bundle = t.bundle()?;
        for (text, wanted) in [
            ("", "error: EOF"),
            ("{\"process\": ", "error: unexpected EOF"),
            ("null", "error: config cannot be null"),
            ("[", "error: unexpected EOF"),
        ] {
            bundle.write_text(text.as_bytes())?;
            let output = t.runtime(["check".as_ref(), bundle.path().as_os_str()])?.exits(1)?;
            ensure!(output.stdout.starts_with(wanted) && output.stdout.lines().count() == 1, "{text:?}: {}", output.stdout);
        }
        let output = t.runtime(["check", "/no/such/bundle"])?.exits(1)?;
        ensure!(output.stdout == "error: chdir /no/such/bundle: no such file or directory\n", "{}", output.stdout);
        Ok(())
    });
}

/// The JSON output has the same findings, in fields.
#[test]
fn json_has_path_kind_and_text() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.set("/process/cwd", json!("x")).set("/linux/personality", json!({"domain": "LINUX", "flags": ["x"]})).write()?;
        let path = bundle.path().as_os_str();
        let output = t.runtime(["check".as_ref(), "--format".as_ref(), "json".as_ref(), path])?.exits(1)?;
        let report: Value = output.json()?;
        let error =
            json!({"path": "process.cwd", "kind": "invalid-spec", "text": "process.cwd: Cwd must be an absolute path, and \"x\" is not"});
        let warning = json!({"path": "linux.personality.flags", "text": "linux.personality.flags are ignored"});
        ensure!(report == json!({"errors": [error], "warnings": [warning]}), "{report:#}");
        Ok(())
    });
}
