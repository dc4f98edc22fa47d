//! Hostile root file systems and configs: the tests with names SEC-… come from past advisories. No test may change a file outside
//! the rootfs, or hang.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, Output, Test, check};
use rustix::fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat};
use serde_json::json;

/// A directory outside the rootfs, with files that an attack would change.
fn canary(t: &Test, names: &[&str]) -> Result<PathBuf> {
    let folder = t.path().join("canary");
    fs::create_dir(&folder)?;
    for name in names {
        fs::write(folder.join(name), "marker")?;
    }
    Ok(folder)
}

fn untouched(folder: &Path, names: &[&str]) -> Result<()> {
    let mut found: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    found.sort();
    ensure!(found == names, "the folder outside has now {found:?}");
    for name in names {
        let text = fs::read_to_string(folder.join(name)).with_context(|| format!("read {name}, once a file"))?;
        ensure!(text == "marker", "the file {name} outside has now {text:?}");
    }
    Ok(())
}

#[test]
fn sec_dev_2_dev_is_a_link_to_the_host() {
    check(|t| {
        let outside = canary(t, &["null", "ptmx", "stdin"])?;
        let mut bundle = t.bundle()?;
        fs::remove_dir(bundle.rootfs("dev"))?;
        symlink(&outside, bundle.rootfs("dev"))?;
        bundle.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
        // in the rootfs the link is dangling: running and refusing are both right
        t.run(&bundle)?;
        untouched(&outside, &["null", "ptmx", "stdin"])
    });
}

#[test]
fn sec_dev_2_dev_is_a_link_to_the_host_with_mounts() {
    check(|t| {
        let outside = canary(t, &["null", "ptmx"])?;
        let bundle = t.bundle()?;
        fs::remove_dir(bundle.rootfs("dev"))?;
        symlink(&outside, bundle.rootfs("dev"))?;
        t.run(&bundle)?;
        untouched(&outside, &["null", "ptmx"])
    });
}

#[test]
fn sec_proc_1_a_bind_on_proc_is_refused() {
    check(|t| {
        let fake = t.path().join("fake");
        fs::create_dir_all(fake.join("self/attr/apparmor"))?;
        fs::create_dir_all(fake.join("sys/net/ipv4"))?;
        for file in ["self/attr/exec", "self/attr/apparmor/exec", "sys/net/ipv4/ip_forward", "self/oom_score_adj"] {
            fs::write(fake.join(file), "marker")?;
        }
        let mut bundle = t.bundle()?;
        bundle.unmount("/proc").unset("/linux/maskedPaths").unset("/linux/readonlyPaths");
        let source = fake.to_string_lossy().into_owned();
        bundle.push("/mounts", json!({"destination": "/proc", "type": "bind", "source": source, "options": ["bind"]}));
        bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).set("/process/oomScoreAdj", json!(1000));
        let output = t.run(&bundle)?;
        if !t.differs("crun", "accepts a bind on /proc") {
            output.fails_with("/proc")?;
        }
        for file in ["self/attr/exec", "self/attr/apparmor/exec", "sys/net/ipv4/ip_forward", "self/oom_score_adj"] {
            assert_eq!(fs::read_to_string(fake.join(file))?, "marker", "{file}");
        }
        Ok(())
    });
}

#[test]
fn sec_proc_2_file_systems_inside_proc_are_refused() {
    check(|t| {
        let crun = t.differs("crun", "accepts file systems inside /proc");
        for point in ["/proc/sys", "/proc/self", "/proc/1/attr", "/proc/../proc/sys", "//proc/sys"] {
            let mut bundle = t.bundle()?;
            bundle.mount(point, "tmpfs", "tmpfs", &[]);
            let output = t.run(&bundle)?;
            if !crun {
                output.fails_with("").with_context(|| format!("a tmpfs on {point}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn sec_proc_3_proc_and_sys_must_be_real_directories() {
    check(|t| {
        for name in ["proc", "sys"] {
            let bundle = t.bundle()?;
            fs::remove_dir(bundle.rootfs(name))?;
            symlink("/tmp", bundle.rootfs(name))?;
            let output = t.run(&bundle)?;
            let text = if t.differs("crun", "has a text of its own") { "" } else { "must be mounted on ordinary directory" };
            output.fails_with(text).with_context(|| format!("/{name} is a link"))?;
        }
        Ok(())
    });
}

/// The kinds of files at /dev/null in the rootfs.
const FALSE_NULLS: [&str; 6] = ["link", "file", "fifo", "folder", "zero", "missing"];

#[test]
fn sec_mask_1_a_false_dev_null_masks_nothing_or_is_refused() {
    check(|t| {
        for kind in FALSE_NULLS {
            if kind == "link" && t.differs("crun", "writes to what the link at /dev/null leads to, inside the rootfs") {
                continue;
            }
            let target = t.path().join(format!("target-{kind}"));
            fs::write(&target, "marker")?;
            let mut bundle = t.bundle()?;
            let null = bundle.rootfs("dev/null");
            match kind {
                "link" => symlink("/etc/secret2", &null)?,
                "file" => fs::write(&null, "not null")?,
                "fifo" => mkfifoat(CWD, &null, Mode::from_raw_mode(0o666))?,
                "folder" => fs::create_dir(&null)?,
                "zero" => mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5))?,
                _ => {}
            }
            fs::write(bundle.rootfs("etc/secret"), "SECRET")?;
            fs::write(bundle.rootfs("etc/secret2"), "OTHER")?;
            bundle.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
            bundle.set("/linux/maskedPaths", json!(["/etc/secret"]));
            bundle.args(["/bin/payload", "read", "/etc/secret", "then", "try-put", "/etc/secret", "written"]);
            let output = t.run(&bundle)?;
            ensure!(!output.stdout.contains("SECRET") && !output.stdout.contains("OTHER"), "{kind}: {output:?}");
            assert_eq!(fs::read_to_string(bundle.rootfs("etc/secret"))?, "SECRET", "{kind}");
            assert_eq!(fs::read_to_string(bundle.rootfs("etc/secret2"))?, "OTHER", "{kind}");
            assert_eq!(fs::read_to_string(&target)?, "marker", "{kind}");
        }
        Ok(())
    });
}

#[test]
fn sec_pw_1_passwd_that_is_no_plain_file_never_hangs() {
    check(|t| {
        let known = t.differs("runc", "opens a FIFO and waits for ever") | t.differs("crun", "opens a FIFO and waits for ever");
        for kind in ["fifo", "link to zero", "folder", "sparse", "long line", "nul"] {
            if known && (kind == "fifo" || kind == "link to zero") {
                continue;
            }
            let mut bundle = t.bundle()?;
            let passwd = bundle.rootfs("etc/passwd");
            fs::remove_file(&passwd)?;
            match kind {
                "fifo" => mkfifoat(CWD, &passwd, Mode::from_raw_mode(0o644))?,
                "link to zero" => symlink("/dev/zero", &passwd)?,
                "folder" => fs::create_dir(&passwd)?,
                "sparse" => fs::File::create(&passwd)?.set_len(2 << 30)?,
                "long line" => fs::write(&passwd, "x".repeat(32 << 20))?,
                _ => fs::write(&passwd, "\0\0:\0::0\n")?,
            }
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            // running and refusing are both right; hanging and eating memory are not
            t.run(&bundle).with_context(|| format!("/etc/passwd is a {kind}"))?;
        }
        Ok(())
    });
}

#[test]
fn sec_fd_1_no_descriptor_leads_out() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let host_root = fs::metadata("/")?.ino();
        for fd in 3..24 {
            for tail in ["", "/.."] {
                bundle.set("/process/cwd", json!(format!("/proc/self/fd/{fd}{tail}"))).args(["/bin/payload", "read", "etc/hostname"]);
                let output = t.run(&bundle)?;
                ensure!(output.status.code() != Some(0), "cwd /proc/self/fd/{fd}{tail} led to {output:?} (host root is inode {host_root})");
            }
            bundle.set("/process/cwd", json!("/")).args([format!("/proc/self/fd/{fd}/bin/true")]);
            ensure!(t.run(&bundle)?.status.code() != Some(0), "a program at /proc/self/fd/{fd}/bin/true");
        }
        Ok(())
    });
}

#[test]
fn sec_fd_2_the_waiting_init_holds_no_directory_of_the_host() {
    check(|t| {
        let bundle = t.bundle()?;
        let container = Container::create(t, &bundle)?;
        let folder = format!("/proc/{}/fd", container.pid.as_raw_nonzero());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let link = fs::read_link(entry.path())?;
            if fs::metadata(entry.path()).is_ok_and(|data| data.is_dir()) {
                let known = t.differs("runc", "keeps directories of procfs and its state open until the program starts");
                let known = known || t.differs("crun", "keeps directories open until the program starts");
                ensure!(known, "descriptor {} of the waiting init is the folder {}", entry.file_name().display(), link.display());
            }
        }
        Ok(())
    });
}

#[test]
fn sec_stdio_1_the_hosts_dev_null_keeps_its_owner() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        // standard input is the host's /dev/null; the guard compares its owner and mode
        t.run(&bundle)?.ok()?;
        Ok(())
    });
}

#[test]
fn sec_state_1_others_cannot_look_into_the_state() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let id = t.new_id();
        // a caller with an unsafe umask
        let command = t.launched(&["umask=0"], ["run", "--detach", "--bundle", &path, &id])?;
        t.finish(command)?.ok()?;
        let look = || -> Result<()> {
            let mut folders = vec![t.root().join(&id)];
            while let Some(folder) = folders.pop() {
                let mode = fs::metadata(&folder)?.mode();
                ensure!(mode & 0o026 == 0, "{} is {:o}", folder.display(), mode & 0o7777);
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    let data = entry.metadata()?;
                    if data.is_dir() {
                        folders.push(entry.path());
                    } else if data.is_file() {
                        let known = t.differs("crun", "leaves its files readable behind a closed folder");
                        ensure!(data.mode() & 0o022 == 0 || known, "{} is {:o}", entry.path().display(), data.mode() & 0o7777);
                    }
                }
            }
            Ok(())
        };
        let seen = look();
        t.runtime(["delete", "--force", &id])?.ok()?;
        seen
    });
}

#[test]
fn sec_log_1_values_of_the_environment_are_never_told() {
    check(|t| {
        let secret = "s3cr3t-value";
        let breakages: [fn(&mut Bundle); 4] = [
            |bundle| _ = bundle.args(["/no/such"]),
            |bundle| _ = bundle.set("/process/rlimits", json!([{"type": "RLIMIT_BOGUS", "soft": 1, "hard": 1}])),
            |bundle| _ = bundle.mount("/x", "bind", "/no/such/source", &["bind"]),
            |bundle| _ = bundle.push("/hooks/createRuntime", json!({"path": "/bin/false"})),
        ];
        for breakage in breakages {
            let mut bundle = t.bundle()?;
            bundle.push("/process/env", json!(format!("PASSWORD={secret}")));
            breakage(&mut bundle);
            bundle.write()?;
            let log = t.path().join("log");
            let path = bundle.path().to_string_lossy().into_owned();
            let mut command = integration_command(t, &log)?;
            command.args(["run", "--bundle", &path, &t.new_id()]);
            let output: Output = t.finish(command)?;
            ensure!(!output.status.success(), "{output:?}");
            ensure!(!output.stderr.contains(secret) && !fs::read_to_string(&log)?.contains(secret), "the secret is told");
        }
        Ok(())
    });
}

fn integration_command(t: &Test, log: &Path) -> Result<std::process::Command> {
    t.command(["--debug", "--log", &log.to_string_lossy()])
}

#[test]
fn sec_exe_1_a_script_of_our_own_executable_gets_no_hold_of_it() {
    check(|t| {
        use std::os::unix::fs::PermissionsExt;
        let before = fs::read(&t.runtime.path)?;
        let mut bundle = t.bundle()?;
        fs::write(bundle.rootfs("bin/script"), "#!/proc/self/exe\n")?;
        fs::set_permissions(bundle.rootfs("bin/script"), fs::Permissions::from_mode(0o755))?;
        bundle.args(["/bin/script"]);
        t.run(&bundle)?;
        // a container that waits for an exec, to read the executable of its process
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        container.exec(&[], ["/bin/script"])?;
        drop(container);
        ensure!(fs::read(&t.runtime.path)? == before, "the runtime's binary changed");
        // the executable of the waiting init cannot be opened for writing from inside
        bundle.args(["/bin/true"]);
        let created = Container::create(t, &bundle)?;
        let exe = format!("/proc/{}/exe", created.pid.as_raw_nonzero());
        let opened = fs::OpenOptions::new().write(true).open(&exe);
        ensure!(opened.is_err(), "{exe} can be opened for writing");
        Ok(())
    });
}

#[test]
fn sec_user_2_the_uid_seen_is_the_uid_asked_for() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let max = "4294967294";
        for (given, uid) in [("1", "1"), ("1:2", "1"), ("1000:1000", "1000"), (max, max)] {
            if given == max && t.differs("crun", "takes uids up to 2^31 only") {
                continue;
            }
            let report = container.exec_report(&["--user", given])?;
            assert_eq!(report["uids"], format!("{uid} {uid} {uid} {uid}"), "--user {given}");
        }
        for given in ["0x1", "1:2:3", "-1", "4294967296", "nobody", "1x", "1:", ":1", " 1", ""] {
            let output = container.exec(&["--user", given], ["/bin/payload", "report"])?;
            if output.status.success() {
                // a runtime that accepts the text must use the user in it, never root by default
                let uids = output.json()?["uids"].to_string();
                let first = given.split(':').next().unwrap_or_default().trim();
                let known = given.is_empty() && t.differs("runc", "takes an empty --user as none given");
                let known = known || given == "4294967296" && t.differs("runc<1.4", "runs --user 4294967296 as root");
                let known = known || t.differs("crun", "reads as much of the text as is a number");
                ensure!(known || !first.is_empty() && uids.contains(&format!("{first} {first}")), "--user {given:?} ran as {uids}");
            }
        }
        Ok(())
    });
}

#[test]
fn sec_mask_4_a_mask_is_not_the_hosts_dev_null() {
    check(|t| {
        let before = fs::metadata("/dev/null")?.mode();
        let mut bundle = t.bundle()?;
        // the container's root owns the file of the mask, and has CAP_FOWNER
        bundle.args(["/bin/payload", "try-chmod", "602", "/proc/keys", "then", "stat", "/proc/keys"]);
        let output = t.run(&bundle)?.ok()?;
        let after = fs::metadata("/dev/null")?.mode();
        fs::set_permissions("/dev/null", fs::Permissions::from_mode(before & 0o7777))?;
        ensure!(output.stdout.contains("/proc/keys c 1:3"), "not masked: {}", output.stdout);
        ensure!(after == before, "the host's /dev/null has now mode {after:o}; inside: {}", output.stdout);
        Ok(())
    });
}
