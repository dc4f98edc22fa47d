//! The commands about the runtime itself: version, features, spec, help. Callers parse their output.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::{Container, Test, check};
use serde_json::{Value, json};

#[test]
fn version_as_go_runc_and_docker_parse_it() {
    check(|t| {
        // under the name runc, by a symbolic link
        let link = t.path().join("runc");
        symlink(&t.runtime.path, &link)?;
        let output = Command::new(&link).arg("--version").output()?;
        ensure!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        ensure!(first.starts_with("runc version ") || t.differs("crun", "says its own name"), "{first}");
        ensure!(text.lines().any(|line| line.starts_with("spec: 1.")), "{text}");
        // Docker takes the last line with that word
        ensure!(lines.all(|line| !line.contains("version")), "{text}");
        Ok(())
    });
}

#[test]
fn features_as_containerd_and_crio_read_them() {
    check(|t| {
        if t.differs("crun<1.10", "has no such command") {
            return Ok(());
        }
        let output = t.runtime(["features"])?.ok()?;
        // CRI-O parses both streams as one
        assert_eq!(output.stderr, "");
        let features = output.json()?;
        for key in ["ociVersionMin", "ociVersionMax"] {
            ensure!(features[key].as_str().is_some_and(|version| version.starts_with("1.")), "{key}: {}", features[key]);
        }
        let all = |pointer: &str, names: &[&str]| -> Result<()> {
            let list = features.pointer(pointer).and_then(Value::as_array).with_context(|| format!("no {pointer}"))?;
            for name in names {
                ensure!(list.contains(&json!(name)), "{pointer} lacks {name}: {list:?}");
            }
            Ok(())
        };
        all("/hooks", &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"])?;
        all("/mountOptions", &["bind", "rbind", "ro", "rro", "nosuid", "rnosuid", "relatime", "shared", "rslave", "tmpcopyup"])?;
        all("/linux/namespaces", &["mount", "network", "uts", "pid", "ipc", "cgroup"])?;
        all("/linux/capabilities", &["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"])?;
        all("/linux/seccomp/actions", &["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_NOTIFY"])?;
        all("/linux/seccomp/operators", &["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"])?;
        ensure!(features["linux"]["seccomp"]["enabled"] == true && features["linux"]["cgroup"]["v1"] == true, "{features}");
        ensure!(features["linux"]["cgroup"]["v2"] == true, "{features}");
        Ok(())
    });
}

/// Each key of the specification's features-schema.json and features-linux.json, with the form of its value: `version`, `bool`,
/// strings by key (`map`), or a list of strings with this prefix.
const FEATURES: [(&str, &str); 28] = [
    ("/ociVersionMin", "version"),
    ("/ociVersionMax", "version"),
    ("/hooks", "list:"),
    ("/mountOptions", "list:"),
    ("/annotations", "map"),
    ("/potentiallyUnsafeConfigAnnotations", "list:"),
    ("/linux/namespaces", "list:"),
    ("/linux/capabilities", "list:CAP_"),
    ("/linux/cgroup/v1", "bool"),
    ("/linux/cgroup/v2", "bool"),
    ("/linux/cgroup/systemd", "bool"),
    ("/linux/cgroup/systemdUser", "bool"),
    ("/linux/cgroup/rdma", "bool"),
    ("/linux/seccomp/enabled", "bool"),
    ("/linux/seccomp/actions", "list:SCMP_ACT_"),
    ("/linux/seccomp/operators", "list:SCMP_CMP_"),
    ("/linux/seccomp/archs", "list:SCMP_ARCH_"),
    ("/linux/seccomp/knownFlags", "list:SECCOMP_FILTER_FLAG_"),
    ("/linux/seccomp/supportedFlags", "list:SECCOMP_FILTER_FLAG_"),
    ("/linux/apparmor/enabled", "bool"),
    ("/linux/selinux/enabled", "bool"),
    ("/linux/intelRdt/enabled", "bool"),
    // from the specification's text (features-linux.md), because its schema lacks them
    ("/linux/intelRdt/schemata", "bool"),
    ("/linux/intelRdt/monitoring", "bool"),
    ("/linux/memoryPolicy/modes", "list:MPOL_"),
    ("/linux/memoryPolicy/flags", "list:MPOL_F_"),
    ("/linux/mountExtensions/idmap/enabled", "bool"),
    ("/linux/netDevices/enabled", "bool"),
];

fn has_form(value: &Value, form: &str) -> bool {
    match form.split_once(':') {
        Some((_, begin)) => value.as_array().is_some_and(|list| {
            list.iter().all(|item| item.as_str().is_some_and(|text| text.len() > begin.len() && text.starts_with(begin)))
        }),
        None => match form {
            "bool" => value.is_boolean(),
            "map" => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
            _ => value.as_str().is_some_and(|text| {
                let numbers = text.split(['-', '+']).next().unwrap_or_default();
                numbers.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3
            }),
        },
    }
}

/// The pointers to all values in `value` that are not objects, and to the annotations.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if at != "/annotations" => map.iter().for_each(|(key, value)| leaves(value, &format!("{at}/{key}"), found)),
        _ => found.push(at.to_owned()),
    }
}

#[test]
fn features_have_the_keys_and_types_of_the_schema() {
    check(|t| {
        if t.differs("crun<1.10", "has no such command") {
            return Ok(());
        }
        let features = t.runtime(["features"])?.ok()?.json()?;
        for (pointer, form) in FEATURES {
            match features.pointer(pointer) {
                Some(value) => ensure!(has_form(value, form), "{pointer} is no {form}: {value}"),
                // absent means unknown, which the schema allows
                None => ensure!(t.runtime.kind != "masu", "no {pointer}: {features}"),
            }
        }
        let mut found = Vec::new();
        leaves(&features, "", &mut found);
        found.retain(|pointer| !FEATURES.iter().any(|(known, _)| known == pointer));
        ensure!(found.is_empty(), "keys that the schema does not have: {found:?}");
        Ok(())
    });
}

#[test]
fn spec_writes_a_config_that_runs_and_never_writes_over_one() {
    check(|t| {
        let bundle = t.bundle()?;
        let path = bundle.path().to_string_lossy().into_owned();
        t.runtime(["spec", "--bundle", &path])?.ok()?;
        let file = bundle.path().join("config.json");
        let text = fs::read_to_string(&file)?;
        t.runtime(["spec", "--bundle", &path])?.exits(1)?.fails_with("exists")?;
        assert_eq!(fs::read_to_string(&file)?, text);
        let mut config: Value = serde_json::from_str(&text)?;
        // SEC-cap-1: the template has no inheritable capabilities
        let inheritable = config.pointer("/process/capabilities/inheritable").cloned().unwrap_or_default();
        ensure!(inheritable.as_array().is_none_or(Vec::is_empty), "inheritable: {inheritable}");
        let masked = config["linux"]["maskedPaths"].as_array().context("masked paths")?;
        for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/proc/acpi"] {
            ensure!(masked.contains(&json!(path)), "{path} is not masked");
        }
        config["process"]["args"] = json!(["/bin/payload", "exit", "7"]);
        config["process"]["terminal"] = json!(false);
        bundle.write_text(config.to_string().as_bytes())?;
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(7)?;
        Ok(())
    });
}

#[test]
fn every_command_has_help() {
    check(|t| {
        for verb in
            ["create", "start", "run", "exec", "kill", "delete", "state", "list", "ps", "pause", "resume", "update", "spec", "features"]
        {
            if verb == "features" && t.differs("crun", "takes no flags there") {
                continue;
            }
            let output = t.runtime([verb, "--help"])?.ok().with_context(|| verb.to_owned())?;
            ensure!(!output.stdout.is_empty(), "{verb} --help prints nothing");
        }
        t.runtime(["--help"])?.ok()?;
        Ok(())
    });
}

/// Runs one create, with its flags written in one of the ways that Go programs or their callers use.
fn create(t: &Test, flags: impl FnOnce(&str, &str) -> Vec<String>) -> Result<()> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/true"]).write()?;
    let id = t.new_id();
    let pid_file = t.path().join(format!("{id}.pid"));
    let mut words = vec!["create".to_owned()];
    words.extend(flags(&bundle.path().to_string_lossy(), &pid_file.to_string_lossy()));
    words.push(id.clone());
    t.runtime(&words)?.ok().with_context(|| format!("{words:?}"))?;
    ensure!(pid_file.exists(), "no pid file with {words:?}");
    t.runtime(["delete", "--force", &id])?.ok()?;
    Ok(())
}

#[test]
fn flags_in_every_way_callers_write_them() {
    check(|t| {
        let own = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        create(t, |bundle, pid| own(&["--bundle", bundle, "--pid-file", pid]))?;
        create(t, |bundle, pid| vec![format!("--bundle={bundle}"), format!("--pid-file={pid}")])?;
        create(t, |bundle, pid| own(&["-b", bundle, "--pid-file", pid, "--no-new-keyring"]))?;
        if t.differs("crun", "takes one dash for letters alone") {
            return Ok(());
        }
        create(t, |bundle, pid| own(&["-bundle", bundle, &format!("-pid-file={pid}")]))
    });
}

#[test]
fn the_state_directory_is_not_the_root() {
    check(|t| {
        if t.differs("crun", "takes / as its root") || t.differs("runc<1.2", "takes / as its root") {
            return Ok(());
        }
        let output = Command::new(&t.runtime.path).args(["--root", "/", "list"]).output()?;
        ensure!(!output.status.success(), "{output:?}");
        Ok(())
    });
}

#[test]
fn state_and_list_have_a_megabyte_of_annotations() {
    check(|t| {
        let mut annotations = serde_json::Map::new();
        for i in 0..1000 {
            annotations.insert(format!("org.example/{i}"), json!(format!("{i} {}", "x".repeat(1000))));
        }
        annotations.insert("odd \"key\" \\ \u{1f433}".into(), json!("two\nlines,\ta tab, \u{1} and \u{2028}"));
        annotations.insert("empty".into(), json!(""));
        let annotations = Value::Object(annotations);
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).set("/annotations", annotations.clone());
        let mut container = Container::start_of(t, &bundle)?;
        let state = container.command("state")?.ok()?;
        assert_eq!(state.json()?["annotations"], annotations);
        // to a pipe that is read slowly, and to a file opened for appending
        let id = state.json()?["id"].as_str().context("no id")?.to_owned();
        let mut command = t.command(["state", &id])?;
        let piped = command.stdout(std::process::Stdio::piped()).output()?;
        ensure!(piped.stdout == state.stdout.as_bytes(), "another text through a pipe");
        let path = t.path().join("appended");
        fs::write(&path, "")?;
        ensure!(t.command(["state", &id])?.stdout(fs::OpenOptions::new().append(true).open(&path)?).status()?.success());
        ensure!(fs::read_to_string(&path)? == state.stdout, "another text in a file that is appended to");
        let list = t.runtime(["list", "--format", "json"])?.ok()?.json()?;
        ensure!(list[0]["annotations"] == annotations || t.differs("crun", "lists without annotations"), "the list has others");
        container.delete_by_force()?.ok()?;
        Ok(())
    });
}

#[test]
fn list_needs_no_descriptor_for_each_container() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/true"]).write()?;
        let ids: Vec<String> = (0..24).map(|_| t.new_id()).collect();
        for id in &ids {
            t.runtime(["create", "--bundle", &bundle.path().to_string_lossy(), id])?.ok()?;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 20 && exec \"$@\"", "sh"]);
        let output = command.arg(&t.runtime.path).arg("--root").arg(t.root()).args(["list", "--quiet"]).output()?;
        let mut listed: Vec<_> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
        listed.sort();
        for id in &ids {
            t.runtime(["delete", "--force", id])?.ok()?;
        }
        let mut expected = ids.clone();
        expected.sort();
        assert_eq!(listed, expected);
        Ok(())
    });
}
