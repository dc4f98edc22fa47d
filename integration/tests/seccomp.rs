//! Seccomp filters: their decisions, their errno values, and the time of installation.

use anyhow::{Result, ensure};
use integration::{Bundle, Container, Test, check};
use serde_json::{Value, json};

/// A bundle with the filter `filter`. Its program makes the calls of `steps` and prints a line for each.
fn calls(t: &Test, filter: Value, steps: &[&[&str]]) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    let mut args = vec!["/bin/payload"];
    for step in steps {
        if args.len() > 1 {
            args.push("then");
        }
        args.push("call");
        args.extend(*step);
    }
    bundle.args(args).set("/linux/seccomp", filter);
    Ok(bundle)
}

fn seen(t: &Test, filter: Value, steps: &[&[&str]]) -> Result<Vec<String>> {
    let output = t.run(&calls(t, filter, steps)?)?.ok()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

#[test]
fn errno_with_and_without_a_number() {
    check(|t| {
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getppid", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}
        ]});
        assert_eq!(seen(t, filter, &[&["getppid"], &["sync"], &["getpid"], &["unshare", "0"]])?, ["EPERM", "ENOSYS", "ok", "ok"]);
        Ok(())
    });
}

#[test]
fn allow_list_as_docker_writes_it() {
    check(|t| {
        let filter = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": NEEDED.as_slice(), "action": "SCMP_ACT_ALLOW"}, {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0xffff_ffff_u32, "op": "SCMP_CMP_EQ"}]}]});
        let got = seen(
            t,
            filter,
            &[&["getppid"], &["sync"], &["personality", "0"], &["personality", "8"], &["personality", "4294967295"], &["kexec_load"]],
        )?;
        assert_eq!(got, ["ok", "EPERM", "ok", "EPERM", "ok", "EPERM"]);
        Ok(())
    });
}

#[test]
fn calls_newer_than_the_profile_are_enosys() {
    check(|t| {
        // glibc falls back after ENOSYS, not after EPERM; the running program needs few calls, and only old ones
        let filter = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": NEEDED.as_slice(), "action": "SCMP_ACT_ALLOW"}]});
        let got = seen(t, filter, &[&["sync"], &["480"], &["getpid"]])?;
        assert_eq!(got[0], "EPERM");
        if !t.differs("crun", "answers EPERM to calls that the profile cannot know") {
            assert_eq!(got[1], "ENOSYS");
        }
        assert_eq!(got[2], "ok");
        Ok(())
    });
}

/// The calls of the payload, and of a runtime that waits for `start` behind the filter.
const NEEDED: [&str; 87] = [
    "read",
    "write",
    "writev",
    "readv",
    "open",
    "openat",
    "close",
    "fstat",
    "stat",
    "newfstatat",
    "lstat",
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "ioctl",
    "access",
    "execve",
    "exit",
    "exit_group",
    "arch_prctl",
    "set_tid_address",
    "futex",
    "getrandom",
    "poll",
    "prctl",
    "prlimit64",
    "set_robust_list",
    "rseq",
    "readlink",
    "getpid",
    "getppid",
    "madvise",
    "gettid",
    "tkill",
    "fcntl",
    "capget",
    "capset",
    "setgroups",
    "setuid",
    "setgid",
    "chdir",
    "getcwd",
    "dup",
    "dup2",
    "dup3",
    "close_range",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "sched_yield",
    "sched_getaffinity",
    "nanosleep",
    "faccessat2",
    "statfs",
    "fstatfs",
    "getdents64",
    "uname",
    "pidfd_open",
    "rt_sigreturn",
    "clone",
    "clone3",
    "fchown",
    "lseek",
    "umask",
    "getuid",
    "geteuid",
    "setresuid",
    "setresgid",
    "fchdir",
    "statx",
    "openat2",
    "unlinkat",
    "eventfd2",
    "pipe2",
    "getgid",
    "getegid",
    "tgkill",
    "restart_syscall",
    "sendmsg",
    "recvmsg",
    "sendto",
    "recvfrom",
    "keyctl",
];

#[test]
fn all_operators() {
    check(|t| {
        // personality(value) fails if the comparison matches; the allowed values change nothing that lasts
        let masked = json!({"index": 0, "value": 0xf0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"});
        let plain = |op: &str, value: u64| json!({"index": 0, "value": value, "op": format!("SCMP_CMP_{op}")});
        // the operator, and whether it refuses the arguments 15, 16 and 17
        let table = [
            (plain("EQ", 16), [false, true, false]),
            (plain("NE", 16), [true, false, true]),
            (plain("LT", 16), [true, false, false]),
            (plain("LE", 16), [true, true, false]),
            (plain("GT", 16), [false, false, true]),
            (plain("GE", 16), [false, true, true]),
            (masked, [false, true, true]),
        ];
        for (argument, refused) in table {
            let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "args": [argument]}]});
            // unshare has no such flags, so an allowed call fails with EINVAL
            let got = seen(t, filter, &[&["unshare", "15"], &["unshare", "16"], &["unshare", "17"]])?;
            let expected = refused.map(|refused| if refused { "EOPNOTSUPP" } else { "EINVAL" });
            assert_eq!(got, expected, "{argument}");
        }
        Ok(())
    });
}

#[test]
fn several_arguments_of_one_rule_all_hold() {
    check(|t| {
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "args": [
            {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]}]});
        let got = seen(t, filter, &[&["socket", "2", "1", "0"], &["socket", "2", "2", "0"], &["socket", "1", "1", "0"]])?;
        assert_eq!(got, ["EOPNOTSUPP", "ok", "ok"]);
        Ok(())
    });
}

#[test]
fn kill_trap_and_log() {
    check(|t| {
        let filter = |action: &str| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": action}]});
        // SIGSYS is 31
        for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"] {
            t.run(&calls(t, filter(action), &[&["sync"]])?)?.exits(128 + 31)?;
        }
        t.run(&calls(t, filter("SCMP_ACT_TRAP"), &[&["sync"]])?)?.exits(128 + 31)?;
        assert_eq!(seen(t, filter("SCMP_ACT_LOG"), &[&["sync"]])?, ["ok"]);
        Ok(())
    });
}

#[test]
fn the_filter_is_there_with_and_without_no_new_privileges_and_for_users() {
    check(|t| {
        for privileges in [true, false] {
            for uid in [0, 1000] {
                let mut bundle = t.bundle()?;
                bundle.set("/process/noNewPrivileges", json!(privileges)).set("/process/user", json!({"uid": uid, "gid": uid}));
                let rule = json!({"names": ["sync"], "action": "SCMP_ACT_ERRNO"});
                bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
                let report = t.report(&mut bundle)?;
                assert_eq!(report["seccomp"], "2");
                assert_eq!(report["no_new_privileges"], if privileges { "1" } else { "0" });
            }
        }
        Ok(())
    });
}

#[test]
fn exec_has_the_filter_too() {
    check(|t| {
        let mut bundle =
            calls(t, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_ERRNO"}]}), &[])?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        assert_eq!(container.exec(&[], ["/bin/payload", "call", "sync"])?.ok()?.stdout, "EPERM\n");
        assert_eq!(container.exec_report(&[])?["seccomp"], "2");
        Ok(())
    });
}

#[test]
fn no_filter_where_none_is_asked_for() {
    check(|t| {
        let mut bundle = t.bundle()?;
        assert_eq!(t.report(&mut bundle)?["seccomp"], "0");
        Ok(())
    });
}

#[test]
fn flags() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let rule = json!({"names": ["sync"], "action": "SCMP_ACT_ERRNO"});
        for flags in [json!([]), json!(["SECCOMP_FILTER_FLAG_LOG"]), json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"])]
        {
            bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "flags": flags}));
            let report = t.report(&mut bundle)?;
            assert_eq!(report["seccomp"], "2");
        }
        Ok(())
    });
}

#[test]
fn a_listener_gets_the_notifications() {
    check(|t| {
        let path = t.path().join("seccomp.sock");
        let socket = integration::terminal::ConsoleSocket::at(path.clone())?;
        let mut bundle = t.bundle()?;
        let rule = json!({"names": ["sync"], "action": "SCMP_ACT_NOTIFY"});
        bundle.args(["/bin/payload", "call", "getpid"]).set(
            "/linux/seccomp",
            json!({
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "listenerPath": path, "listenerMetadata": "meta"}),
        );
        bundle.write()?;
        let bundle_path = bundle.path().to_string_lossy().into_owned();
        let mut child = t.command(["run", "--bundle", &bundle_path, &t.new_id()])?.spawn()?;
        let (fd, payload) = socket.receive_with_payload()?;
        let state: Value = serde_json::from_str(&payload)?;
        ensure!(state["fds"] == json!(["seccompFd"]) && state["metadata"] == "meta" && state["pid"].is_number(), "{state}");
        ensure!(state["state"]["status"] == "creating" && state["state"]["bundle"] == bundle_path.as_str(), "{state}");
        drop(fd);
        ensure!(integration::runtime::wait(&mut child)?.success(), "the container failed");
        Ok(())
    });
}

#[test]
fn a_filter_may_refuse_what_the_runtime_asks_for() {
    check(|t| {
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getcwd", "chdir", "fchdir", "statx"], "action": "SCMP_ACT_ERRNO"}
        ]});
        for no_new_privileges in [true, false] {
            let mut bundle = calls(t, filter.clone(), &[&["getppid"]])?;
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            if no_new_privileges || !t.differs("runc", "asks for the working directory under the filter") {
                t.run(&bundle)?.ok()?;
            }
        }
        Ok(())
    });
}
