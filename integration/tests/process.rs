//! The program has the ids, groups, capabilities, limits and environment of the config's `process`.

use anyhow::{Result, ensure};
use integration::{Bundle, Test, check};
use serde_json::{Value, json};

#[test]
fn arguments_and_environment_arrive_as_they_are() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let args = ["/bin/payload", "report", "then", "say", "", "then", "say", "two words\nand a line", "then", "say", "ünï"];
        bundle.args(args);
        bundle.set("/process/env", json!(["PATH=/bin", "EMPTY=", "LINES=a\nb", "TWICE=1", "EQUAL==x=", "TWICE=2", "HOME=/x"]));
        let output = t.run(&bundle)?.ok()?;
        let first = output.stdout.lines().next().unwrap_or_default();
        let report: Value = serde_json::from_str(first)?;
        assert_eq!(report["args"], json!(args));
        let mut env: Vec<_> = report["env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if t.differs("runc<1.3", "keeps duplicates") || t.differs("crun", "keeps duplicates") {
            env.retain(|entry| *entry != "TWICE=1");
        }
        env.sort_unstable();
        assert_eq!(env, ["EMPTY=", "EQUAL==x=", "HOME=/x", "LINES=a\nb", "PATH=/bin", "TWICE=2"]);
        assert_eq!(output.stdout.get(first.len() + 1..), Some("\ntwo words\nand a line\nünï\n"));
        Ok(())
    });
}

#[test]
fn home_comes_from_passwd_by_uid() {
    check(|t| {
        let mut bundle = t.bundle()?;
        // SEC-user-1: a user named like a number is not the user with that id
        let passwd = "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0:trap:/trap:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        std::fs::write(bundle.rootfs("etc/passwd"), passwd)?;
        let home =
            |report: &Value| report["env"].as_array().into_iter().flatten().find(|entry| entry.to_string().contains("HOME=")).cloned();
        assert_eq!(home(&t.report(&mut bundle)?), Some(json!("HOME=/root")));
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let report = t.report(&mut bundle)?;
        assert_eq!(home(&report), Some(json!("HOME=/home/user")));
        assert_eq!(report["uids"], "1000 1000 1000 1000");
        bundle.set("/process/user", json!({"uid": 77, "gid": 77}));
        assert_eq!(home(&t.report(&mut bundle)?), Some(json!("HOME=/")));
        bundle.push("/process/env", json!("HOME=/own"));
        assert_eq!(home(&t.report(&mut bundle)?), Some(json!("HOME=/own")));
        Ok(())
    });
}

#[test]
fn ids_groups_and_umask() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let report = t.report(&mut bundle)?;
        assert_eq!(report["umask"], "0022");
        assert_eq!(report["groups"], json!([]));
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1002], "umask": 0o77}));
        let report = t.report(&mut bundle)?;
        assert_eq!(report["uids"], "1000 1000 1000 1000");
        assert_eq!(report["gids"], "1001 1001 1001 1001");
        assert_eq!(report["groups"], json!([5, 1002]));
        assert_eq!(report["umask"], "0077");
        Ok(())
    });
}

#[test]
fn sec_grp_1_groups_of_the_caller_are_dropped() {
    check(|t| {
        let mut bundle = t.bundle()?;
        for (user, groups) in [(json!({"uid": 0, "gid": 0}), json!([])), (json!({"uid": 5, "gid": 6, "additionalGids": [9]}), json!([9]))] {
            bundle.set("/process/user", user).args(["/bin/payload", "report"]).write()?;
            let path = bundle.path().to_string_lossy().into_owned();
            let command = t.launched(&["groups=7,8"], ["run", "--bundle", &path, &t.new_id()])?;
            assert_eq!(t.finish(command)?.ok()?.json()?["groups"], groups);
        }
        Ok(())
    });
}

#[test]
fn working_directory() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/process/cwd", json!("/etc"));
        assert_eq!(t.report(&mut bundle)?["cwd"], "/etc");
        bundle.set("/process/cwd", json!("/not/there/yet"));
        assert_eq!(t.report(&mut bundle)?["cwd"], "/not/there/yet");
        bundle.set("/process/cwd", json!("/etc/../tmp"));
        assert_eq!(t.report(&mut bundle)?["cwd"], "/tmp");
        Ok(())
    });
}

#[test]
fn working_directory_that_the_user_alone_may_enter() {
    check(|t| {
        use std::os::unix::fs::{PermissionsExt, chown};
        let mut bundle = t.bundle()?;
        let folder = bundle.rootfs("own");
        std::fs::create_dir(&folder)?;
        chown(&folder, Some(1000), Some(1000))?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/process/cwd", json!("/own"));
        assert_eq!(t.report(&mut bundle)?["cwd"], "/own");
        Ok(())
    });
}

#[test]
fn sec_cap_1_capability_sets_are_those_of_the_config() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let none = json!([]);
        let some = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]);
        let one = json!(["CAP_KILL"]);
        // the sets in the config, the uid, and the resulting sets: effective, permitted, inheritable, bounding, ambient
        let table: [(Value, u32, [&Value; 5]); 7] = [
            (json!({"bounding": some, "effective": some, "permitted": some}), 0, [&some, &some, &none, &some, &none]),
            // execve gives root the bounding set
            (json!({"bounding": one, "effective": one, "permitted": one}), 0, [&one, &one, &none, &one, &none]),
            (json!({}), 0, [&none, &none, &none, &none, &none]),
            (json!({"bounding": some, "effective": some, "permitted": some}), 1000, [&none, &none, &none, &some, &none]),
            (
                json!({"bounding": some, "effective": one, "permitted": one, "inheritable": one, "ambient": one}),
                1000,
                [&one, &one, &one, &some, &one],
            ),
            (json!({"bounding": some, "effective": some, "permitted": some, "inheritable": one}), 1000, [&none, &none, &one, &some, &none]),
            (json!({"bounding": some}), 1000, [&none, &none, &none, &some, &none]),
        ];
        for (sets, uid, seen) in table {
            bundle.set("/process/user", json!({"uid": uid, "gid": uid})).set("/process/capabilities", sets.clone());
            let report = t.report(&mut bundle)?;
            for (name, expected) in ["effective", "permitted", "inheritable", "bounding", "ambient"].into_iter().zip(seen) {
                assert_eq!(&report["capabilities"][name], expected, "{name} with {sets} as uid {uid}");
            }
        }
        Ok(())
    });
}

#[test]
fn no_new_privileges_as_asked() {
    check(|t| {
        let mut bundle = t.bundle()?;
        assert_eq!(t.report(&mut bundle)?["no_new_privileges"], "1");
        bundle.set("/process/noNewPrivileges", json!(false));
        assert_eq!(t.report(&mut bundle)?["no_new_privileges"], "0");
        bundle.unset("/process/noNewPrivileges");
        assert_eq!(t.report(&mut bundle)?["no_new_privileges"], "0");
        Ok(())
    });
}

#[test]
fn limits_are_set_and_others_kept() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let before = t.report(&mut bundle)?;
        let limit = |name: &str, soft: u64, hard: u64| json!({"type": name, "soft": soft, "hard": hard});
        bundle.set(
            "/process/rlimits",
            json!([limit("RLIMIT_NOFILE", 100, 200), limit("RLIMIT_CORE", 0, 0), limit("RLIMIT_STACK", 1 << 22, 1 << 23)]),
        );
        let after = t.report(&mut bundle)?;
        assert_eq!(after["limits"]["RLIMIT_NOFILE"], json!([100, 200]));
        assert_eq!(after["limits"]["RLIMIT_CORE"], json!([0, 0]));
        assert_eq!(after["limits"]["RLIMIT_STACK"], json!([1 << 22, 1 << 23]));
        for name in ["RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_MEMLOCK", "RLIMIT_FSIZE"] {
            assert_eq!(after["limits"][name], before["limits"][name], "{name}");
        }
        Ok(())
    });
}

#[test]
fn oom_score() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")?;
        assert_eq!(t.report(&mut bundle)?["oom_score_adj"], own.trim());
        for score in [0, 500, 1000] {
            if score < own.trim().parse::<i32>()? {
                continue;
            }
            bundle.set("/process/oomScoreAdj", json!(score));
            assert_eq!(t.report(&mut bundle)?["oom_score_adj"], score.to_string());
        }
        Ok(())
    });
}

#[test]
fn the_first_process_has_pid_1_in_a_session_of_its_own_without_signals_blocked() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let report = t.report(&mut bundle)?;
        assert_eq!(report["pid"], 1);
        assert_eq!(report["processes"], json!([1]));
        assert_eq!(report["session_leader"], true);
        assert_eq!(report["signals"]["blocked"], "0000000000000000");
        // the payload itself ignores SIGPIPE, as the Rust standard library does
        assert_eq!(report["signals"]["ignored"], "0000000000001000");
        Ok(())
    });
}

#[test]
fn a_session_keyring_of_its_own_unless_told_not_to() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "report"]).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let keyring = |flags: &[&str]| -> Result<Value> {
            let id = t.new_id();
            let words = ["run"].into_iter().chain(flags.iter().copied()).chain(["--bundle", &path, &id]);
            Ok(t.runtime(words)?.ok()?.json()?["session_keyring"].clone())
        };
        let (first, second) = (keyring(&[])?, keyring(&[])?);
        ensure!(first.is_number() && second.is_number(), "{first} {second}");
        assert_ne!(first, second);
        assert_eq!(keyring(&["--no-new-keyring"])?, keyring(&["--no-new-keyring"])?);
        Ok(())
    });
}

#[test]
fn program_is_found_in_the_path_of_the_container() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["payload", "exit", "5"]);
        t.run(&bundle)?.exits(5)?;
        bundle.set("/process/env", json!(["PATH=/nowhere:/bin"]));
        t.run(&bundle)?.exits(5)?;
        bundle.set("/process/env", json!(["PATH=/nowhere"]));
        let crun = t.differs("crun", "has a text of its own for a program that is not found");
        missing(t, &bundle, if crun { "not found in $PATH" } else { "executable file not found in $PATH" })
    });
}

#[test]
fn errors_of_the_program_come_at_create_with_the_texts_that_callers_match() {
    check(|t| {
        let mut bundle = t.bundle()?;
        std::fs::write(bundle.rootfs("etc/plain"), "text")?;
        bundle.args(["/no/such"]);
        missing(t, &bundle, "no such file or directory")?;
        bundle.args(["/etc/plain"]);
        let crun = t.differs("crun", "has texts of its own for a program that cannot be executed");
        missing(t, &bundle, if crun { "not executable" } else { "permission denied" })?;
        bundle.args(["/etc"]);
        missing(t, &bundle, if crun { "not a regular file" } else { "is a directory" })
    });
}

/// Checks that `create` fails with `text` and names the program.
fn missing(t: &Test, bundle: &Bundle, text: &str) -> Result<()> {
    bundle.write()?;
    let path = bundle.path().to_string_lossy().into_owned();
    let program = bundle.config["process"]["args"][0].as_str().unwrap_or_default();
    t.runtime(["create", "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with(text)?.fails_with(program)?;
    Ok(())
}

#[test]
fn hostname_and_domainname() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/hostname", json!("h.example")).set("/domainname", json!("d.example"));
        let report = t.report(&mut bundle)?;
        assert_eq!(report["hostname"], "h.example");
        assert_eq!(report["domainname"], "d.example");
        Ok(())
    });
}

#[test]
fn sysctls_of_the_namespaces() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "net/ipv4/ip_default_ttl": "77"}));
        bundle.args([
            "/bin/payload",
            "read",
            "/proc/sys/net/ipv4/ip_forward",
            "then",
            "read",
            "/proc/sys/kernel/shm_rmid_forced",
            "then",
            "read",
            "/proc/sys/net/ipv4/ip_default_ttl",
        ]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "1\n1\n77\n");
        Ok(())
    });
}

#[test]
fn personality_of_a_32_bit_machine() {
    check(|t| {
        if std::env::consts::ARCH != "x86_64" {
            return t.skip("the machine names of 32-bit personalities are known for x86_64 only");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
        assert_eq!(t.report(&mut bundle)?["machine"], "i686");
        Ok(())
    });
}
