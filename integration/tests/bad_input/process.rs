//! BAD-044 to BAD-097: the process.

use integration::check;
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

const PROGRAM: [Row; 20] = [
    fails(44, "process missing", "process", |b| _ = b.unset("/process")),
    fails(45, "process null", "process", |b| _ = b.set("/process", Value::Null)),
    fails(46, "args missing", "args", |b| _ = b.unset("/process/args")),
    fails(47, "args empty", "args", |b| _ = b.set("/process/args", json!([]))),
    fails(48, "the program an empty string", "executable file not found in $PATH", |b| _ = b.args([""])),
    fails(49, "no such program", "no such file or directory", |b| _ = b.args(["/no/such"])),
    fails(50, "no such program in PATH", "executable file not found in $PATH", |b| _ = b.args(["nosuchcmd"])),
    fails(51, "the program is a folder", "is a directory", |b| _ = b.args(["/etc"])),
    fails(52, "the program is not executable", "permission denied", |b| _ = b.args(["/etc/passwd"])),
    fails(53, "an empty program", "exec format error", |b| {
        use std::os::unix::fs::PermissionsExt;
        let path = b.rootfs("bin/empty");
        let made = std::fs::write(&path, "").and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
        b.args([if made.is_ok() { "/bin/empty" } else { "/bin/true" }]);
    }),
    fails(54, "a NUL in an argument", "args|nul", |b| _ = b.args(["/bin/payload", "exit", "7\0"])),
    fails(55, "an argument of 3 MiB", "argument list too long", |b| _ = b.args(["/bin/payload", "say", &"x".repeat(3 << 20)])),
    fails(56, "cwd missing", "cwd", |b| _ = b.unset("/process/cwd")),
    fails(57, "cwd empty", "cwd", |b| _ = b.set("/process/cwd", json!(""))),
    fails(58, "cwd relative", "cwd", |b| _ = b.set("/process/cwd", json!("tmp"))),
    runs(59, "cwd not there", |b| _ = b.set("/process/cwd", json!("/made/for/it"))),
    fails(60, "cwd a file", "not a directory", |b| _ = b.set("/process/cwd", json!("/etc/passwd"))),
    fails(61, "cwd a descriptor", "/proc/self/fd/7", |b| _ = b.set("/process/cwd", json!("/proc/self/fd/7"))),
    runs(62, "cwd with ..", |b| _ = b.set("/process/cwd", json!("/etc/../tmp"))),
    fails(63, "a NUL in cwd", "cwd|nul", |b| _ = b.set("/process/cwd", json!("/tmp\0x"))),
];

#[test]
fn bad_044_to_063_program() {
    check(|t| table(t, &PROGRAM));
}

fn set(list: &str) -> Value {
    let plain = json!(["CAP_KILL"]);
    match list {
        "effective without permitted" => json!({"bounding": plain, "effective": plain, "permitted": []}),
        "ambient alone" => json!({"bounding": plain, "effective": plain, "permitted": plain, "ambient": plain}),
        name => json!({"bounding": [name], "effective": [name], "permitted": [name]}),
    }
}

const REST: [Row; 34] = [
    fails(64, "env without =", "env", |b| _ = b.push("/process/env", json!("NOVALUE"))),
    fails(65, "env with an empty name", "env", |b| _ = b.push("/process/env", json!("=x"))),
    fails(66, "a NUL in env", "env|nul", |b| _ = b.push("/process/env", json!("A=a\0b"))),
    runs(67, "env twice", |b| _ = b.push("/process/env", json!("A=1")).push("/process/env", json!("A=2"))),
    fails(68, "env an object", "env", |b| _ = b.set("/process/env", json!({"A": "1"}))),
    fails(69, "umask of five digits", "umask", |b| _ = b.set("/process/user/umask", json!(0o1777))).but(&[("runc", "runs")]),
    fails(70, "a group negative", "additionalGids", |b| _ = b.set("/process/user/additionalGids", json!([-5]))),
    runs(71, "a capability that is none", |b| _ = b.set("/process/capabilities", set("CAP_BOGUS"))),
    runs(72, "a capability without CAP_", |b| _ = b.set("/process/capabilities", set("KILL"))),
    runs(73, "a capability in lower case", |b| _ = b.set("/process/capabilities", set("cap_kill"))),
    fails(74, "effective without permitted", "capabilit|effective", |b| {
        _ = b.set("/process/capabilities", set("effective without permitted"))
    }),
    runs(75, "ambient without inheritable", |b| _ = b.set("/process/capabilities", set("ambient alone"))),
    fails(76, "a limit that is none", "RLIMIT_BOGUS", |b| {
        _ = b.set("/process/rlimits", json!([{"type": "RLIMIT_BOGUS", "soft": 1, "hard": 1}]))
    }),
    fails(77, "a soft limit above the hard one", "rlimit", |b| {
        b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]));
    }),
    fails(78, "oomScoreAdj 5000", "oom", |b| _ = b.set("/process/oomScoreAdj", json!(5000))),
    fails(79, "oomScoreAdj a string", "oomScoreAdj", |b| _ = b.set("/process/oomScoreAdj", json!("1"))),
    fails(80, "an AppArmor profile without AppArmor", "apparmor", |b| _ = b.set("/process/apparmorProfile", json!("bogus"))),
    fails(81, "a SELinux label without SELinux", "selinux", |b| _ = b.set("/process/selinuxLabel", json!("a:b:c:d"))),
    fails(85, "consoleSize beyond 16 bits", "consoleSize", |b| {
        b.set("/process/consoleSize", json!({"height": 70_000, "width": 1}));
    })
    .but(&[("runc", "ignores it without a terminal")]),
    fails(86, "a class of I/O that is none", "IOPRIO_CLASS_BOGUS", |b| {
        b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BOGUS", "priority": 1}));
    }),
    fails(87, "an I/O priority of 9", "ioPriority", |b| {
        _ = b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 9}))
    }),
    fails(88, "a scheduler that is none", "scheduler|SCHED_BOGUS", |b| _ = b.set("/process/scheduler", json!({"policy": "SCHED_BOGUS"}))),
    fails(89, "nice 50", "scheduler|nice", |b| _ = b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 50}))),
    fails(90, "a priority for SCHED_OTHER", "scheduler|priority", |b| {
        b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "priority": 10}));
    }),
    fails(91, "a flag of schedulers that is none", "scheduler|SCHED_FLAG_BOGUS", |b| {
        b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_BOGUS"]}));
    }),
    fails(92, "CPUs that are none", "execCPUAffinity", |b| _ = b.set("/process/execCPUAffinity", json!({"initial": "a"}))),
    fails(93, "an argument null", "args|executable file not found in $PATH", |b| _ = b.set("/process/args", json!([null]))),
    fails(94, "rlimits an object", "rlimits", |b| _ = b.set("/process/rlimits", json!({}))),
    fails(95, "a limit without soft", "rlimit|soft", |b| _ = b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "hard": 100}]))),
    runs(96, "user missing", |b| _ = b.unset("/process/user")),
    fails(97, "oomScoreAdj 1.5", "oomScoreAdj", |b| _ = b.set("/process/oomScoreAdj", json!(1.5))),
    fails(97, "a limit twice", "RLIMIT_NOFILE", |b| {
        let limit = json!({"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64});
        b.set("/process/rlimits", json!([limit, limit]));
    })
    .but(&[("runc", "takes the last")]),
    fails(97, "a user by name", "user|username", |b| _ = b.set("/process/user", json!({"username": 5}))),
    runs(97, "capabilities null", |b| _ = b.set("/process/capabilities", Value::Null)),
];

#[test]
fn bad_064_to_097_process() {
    check(|t| table(t, &REST));
}

#[test]
fn bad_082_to_084_terminal() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/process/terminal", json!(true)).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        // in a session without a terminal, because the test may have one
        let command = t.launched(&["session"], ["run", "--bundle", &path, &t.new_id()])?;
        t.finish(command)?.exits(1)?;
        let output = t.runtime(["create", "--console-socket", "/no/such.sock", "--bundle", &path, &t.new_id()])?;
        output.exits(1)?.fails_with("no such file or directory")?.fails_with("/no/such.sock")?;
        Ok(())
    });
}
