//! The texts and formats that callers need from the runtime. Each check is the caller's own rule. The name of a module is the
//! caller, and each test cites the rule's file and version. Where a peer's text fails the rule, the difference is recorded.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::runtime::Output;
use integration::{Bundle, Container, Test, check};
use serde_json::{Value, json};

fn sleeper(t: &Test) -> Result<Container<'_>> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/sleep"]);
    Container::start_of(t, &bundle)
}

/// Creates `bundle` as engines do, with a log of JSON lines. Returns the output and the log.
fn create(t: &Test, bundle: &Bundle) -> Result<(Output, String)> {
    bundle.write()?;
    let (log, id) = (t.path().join("log.json"), t.new_id());
    let path = bundle.path().to_string_lossy().into_owned();
    let output = t.runtime(["--log", &log.to_string_lossy(), "--log-format", "json", "create", "--bundle", &path, &id])?;
    if output.status.success() {
        t.runtime(["delete", "--force", &id])?.ok()?;
    }
    Ok((output, fs::read_to_string(&log).unwrap_or_default()))
}

/// A create that fails because of its program.
fn create_of(t: &Test, program: &str) -> Result<(Output, String)> {
    let mut bundle = t.bundle()?;
    fs::write(bundle.rootfs("etc/text"), "no program")?;
    bundle.args([program]);
    let (output, log) = create(t, &bundle)?;
    ensure!(!output.status.success(), "{program} was created");
    Ok((output, log))
}

/// containerd v2.3.4.
mod containerd {
    use super::*;

    /// cmd/containerd-shim-runc-v2/process/utils.go, getLastRuntimeError: takes the last object whose level is `error`. The file
    /// must contain only JSON objects, each with an RFC 3339 time.
    fn last_runtime_error(log: &str) -> Result<String> {
        let mut message = String::new();
        for entry in serde_json::Deserializer::from_str(log).into_iter::<Value>() {
            let entry = entry.context("the decoder stops here")?;
            let time = entry["time"].as_str().context("time")?;
            ensure!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time} is not RFC 3339");
            if entry["level"] == "error" {
                message = entry["msg"].as_str().context("msg")?.trim().to_owned();
            }
        }
        Ok(message)
    }

    #[test]
    fn the_reason_of_a_failure_is_in_the_log() {
        check(|t| {
            let (_, log) = create_of(t, "/no/such")?;
            let message = last_runtime_error(&log)?;
            ensure!(message.contains("no such file or directory") || t.differs("crun", "words of its own"), "{message:?}");
            ensure!(!message.is_empty() && !message.contains('\n'), "{message:?}");
            Ok(())
        });
    }

    /// The same file, checkKillError: the errors that the shim takes as success. After any other error it tries again without
    /// end.
    fn is_gone(error: &str) -> bool {
        error.contains("os: process already finished")
            || error.contains("container not running")
            || error.to_lowercase().contains("no such process")
    }

    #[test]
    fn a_kill_of_what_has_ended_is_known() {
        check(|t| {
            let mut container = sleeper(t)?;
            container.kill("KILL")?.ok()?;
            container.wait()?;
            let output = container.kill("TERM")?.exits(1)?;
            ensure!(is_gone(&output.stderr), "{}", output.stderr);
            Ok(())
        });
    }

    /// The same function, and process/init.go, delete: "does not exist" means that the container is gone.
    #[test]
    fn a_container_that_is_gone_is_known() {
        check(|t| {
            for words in [&["kill", "nosuch", "9"][..], &["delete", "nosuch"], &["state", "nosuch"]] {
                let output = t.runtime(words)?.exits(1)?;
                let known = output.stderr.contains("does not exist");
                ensure!(known || t.differs("crun", "tells of a directory when it deletes"), "{words:?}: {}", output.stderr);
            }
            Ok(())
        });
    }

    /// process/init.go, kill with All, and then delete --force: neither may fail for a stopped container.
    #[test]
    fn cleaning_up_what_is_over_succeeds() {
        check(|t| {
            let mut container = sleeper(t)?;
            container.kill("KILL")?.ok()?;
            container.wait()?;
            if !t.differs("crun", "does not find the processes of a container that has ended") {
                t.runtime(["kill", "--all", &container.id, "9"])?.ok()?;
            }
            container.delete_by_force()?.ok()?;
            t.runtime(["delete", "--force", &container.id])?.ok()?;
            Ok(())
        });
    }

    /// cmd/containerd-shim-runc-v2/manager, Info: `features` writes to standard output only.
    #[test]
    fn features_are_json_with_code_0() {
        check(|t| {
            let output = t.runtime(["features"])?.ok()?;
            ensure!(output.json()?["linux"].is_object() && output.stderr.is_empty(), "{output:?}");
            Ok(())
        });
    }
}

/// go-runc v1.2.0.
mod go_runc {
    use super::*;

    /// runc.go, Version: the first line begins with `runc version `, two further lines with `commit: ` and `spec: `.
    #[test]
    fn version_is_taken_apart() {
        check(|t| {
            let link = t.path().join("runc");
            std::os::unix::fs::symlink(&t.runtime.path, &link)?;
            let output = std::process::Command::new(&link).arg("--version").output()?;
            let text = String::from_utf8(output.stdout)?;
            if t.differs("crun", "says its own name") {
                return Ok(());
            }
            let mut lines = text.lines();
            ensure!(lines.next().is_some_and(|l| l.strip_prefix("runc version ").is_some_and(|v| !v.trim().is_empty())), "{text}");
            for prefix in ["commit: ", "spec: "] {
                ensure!(
                    text.lines().any(|l| l.starts_with(prefix)) || t.differs("runc<1.2", "is built without a commit"),
                    "{prefix}: {text}"
                );
            }
            Ok(())
        });
    }

    /// runc.go, State and Ps: decoded into a struct of id, pid, status, bundle, rootfs, created (a time), annotations; and into
    /// []int.
    #[test]
    fn state_and_ps_are_decoded() {
        check(|t| {
            let container = sleeper(t)?;
            let state = container.state()?;
            ensure!(state["pid"].is_i64() && state["id"] == container.id.as_str() && state["status"] == "running", "{state}");
            ensure!(state["created"].as_str().is_some_and(|c| c.ends_with('Z') && c.as_bytes()[10] == b'T'), "{state}");
            ensure!(state["bundle"].is_string() && state["rootfs"].is_string(), "{state}");
            let ps = t.runtime(["ps", "--format", "json", &container.id])?.ok()?.json()?;
            ensure!(ps.as_array().is_some_and(|l| l.iter().all(Value::is_i64) && l.len() == 1), "{ps}");
            Ok(())
        });
    }

    /// runc.go, Events and Stats: one object each with `type`, `id` and `data`.
    #[test]
    fn events_are_decoded() {
        check(|t| {
            if t.differs("crun", "has no such command") {
                return Ok(());
            }
            let container = sleeper(t)?;
            let event = t.runtime(["events", "--stats", &container.id])?.ok()?.json()?;
            ensure!(event["type"] == "stats" && event["id"] == container.id.as_str(), "{event}");
            ensure!(event["data"]["pids"].is_object() && event["data"]["cpu"].is_object(), "{event}");
            Ok(())
        });
    }

    /// command_linux.go and runc.go, Restore: a long flag after one dash.
    #[test]
    fn one_dash_is_enough() {
        check(|t| {
            if t.differs("crun", "takes one dash for letters alone") {
                return Ok(());
            }
            let output = t.runtime(["restore", "-no-subreaper", "--help"])?.ok()?;
            ensure!(!output.stdout.is_empty(), "{output:?}");
            Ok(())
        });
    }
}

/// moby v29.7.
mod moby {
    use super::*;

    /// daemon/info_unix.go, parseRuntimeVersion: the last line with the word `version` counts.
    #[test]
    fn one_line_has_the_version() {
        check(|t| {
            let output = std::process::Command::new(&t.runtime.path).arg("--version").output()?;
            let text = String::from_utf8(output.stdout)?;
            let lines: Vec<_> = text.lines().filter(|l| l.contains("version")).collect();
            ensure!(lines.len() == 1 && lines[0].split("version").nth(1).is_some_and(|v| !v.trim().is_empty()), "{text}");
            Ok(())
        });
    }

    /// daemon/errors.go, setExitCodeFromError: the exit code of `docker run`.
    fn exit_code(error: &str) -> Option<u8> {
        let error = error.to_lowercase();
        let contains = |words: &[&str]| words.iter().any(|word| error.contains(word));
        if contains(&["executable file not found", "no such file or directory", "system cannot find the file specified"]) {
            return Some(127);
        }
        if contains(&["not a directory"]) {
            return Some(127);
        }
        contains(&["permission denied", "is a directory"]).then_some(126)
    }

    #[test]
    fn docker_runs_codes_126_and_127() {
        check(|t| {
            for (program, code, crun) in [
                ("nosuch", 127, true),
                ("/no/such", 127, true),
                ("/etc/text", 126, false),
                ("/etc", 126, false),
                ("/etc/text/x", 127, false),
            ] {
                let (output, _) = create_of(t, program)?;
                let is = exit_code(&output.stderr);
                let known = t.runtime.is("crun") && !crun && t.differs("crun", "has words of its own for what cannot be executed");
                ensure!(is == Some(code) || known, "{program}: {is:?} for {}", output.stderr);
            }
            Ok(())
        });
    }

    /// The tests of the docker command, and scripts made after them, match Go's text of exec.LookPath.
    #[test]
    fn a_program_that_is_not_found_is_named() {
        check(|t| {
            if t.differs("crun", "has words of its own") {
                return Ok(());
            }
            let (output, _) = create_of(t, "nosuch")?;
            ensure!(output.stderr.contains("exec: \"nosuch\": executable file not found in $PATH"), "{}", output.stderr);
            Ok(())
        });
    }

    /// daemon/errors.go: "is a directory" and "not a directory" in a mount's error become advice.
    #[test]
    fn a_file_over_a_directory_is_told() {
        check(|t| {
            let mut bundle = t.bundle()?;
            let file = t.path().join("file");
            fs::write(&file, "")?;
            bundle.args(["/bin/true"]).mount("/etc", "bind", &file.to_string_lossy(), &["bind"]);
            let (output, _) = create(t, &bundle)?;
            ensure!(!output.status.success(), "it was mounted");
            let error = output.stderr.to_lowercase();
            ensure!(error.contains("not a directory") || error.contains("is a directory"), "{error}");
            Ok(())
        });
    }
}

/// podman v5.4.
mod podman {
    use super::*;

    /// libpod/oci_conmon_common.go, readConmonPipeData: the whole log is one JSON object {level, time, msg}.
    #[test]
    fn a_failure_is_one_object_in_the_log() {
        check(|t| {
            let (_, log) = create_of(t, "/no/such")?;
            let entry: Value = serde_json::from_str(&log).with_context(|| log.clone())?;
            ensure!(entry["level"] == "error" && entry["msg"].is_string() && entry["time"].is_string(), "{entry}");
            Ok(())
        });
    }

    /// libpod/oci_util.go: two expressions, any case, decide between 126, 127 and 125.
    #[test]
    fn exec_codes_by_expression() {
        check(|t| {
            let container = sleeper(t)?;
            let denied = |e: &str| ["permission denied", "operation not permitted"].iter().any(|w| e.to_lowercase().contains(w));
            let missing = |e: &str| {
                ["executable file not found in", "no such file or directory", "open executable"]
                    .iter()
                    .any(|w| e.to_lowercase().contains(w))
            };
            let output = container.exec(&[], ["/etc/passwd"])?;
            ensure!(denied(&output.stderr) || t.differs("crun", "older ones say not executable"), "{}", output.stderr);
            for program in ["nosuch", "/no/such"] {
                let output = container.exec(&[], [program])?;
                ensure!(missing(&output.stderr), "{program}: {}", output.stderr);
            }
            Ok(())
        });
    }

    /// pkg/checkpoint/crutils/checkpoint_restore_utils.go: two probes. The second one matches a text, not an exit code.
    #[test]
    fn probes_for_checkpoints() {
        check(|t| {
            let output = t.runtime(["restore", "--lsm-mount-context"])?;
            let said = format!("{}{}", output.stdout, output.stderr);
            ensure!(said.contains("flag needs an argument") || said.contains("requires an argument"), "{said}");
            t.runtime(["checkpoint", "--help"])?.ok()?;
            Ok(())
        });
    }
}

/// CRI-O v1.36.
mod cri_o {
    use super::*;

    /// internal/oci/runtime_oci.go, runtimeCmd: texts in the standard error of any command that mean "not found".
    #[test]
    fn gone_is_known_by_the_error() {
        check(|t| {
            let mut container = sleeper(t)?;
            container.kill("KILL")?.ok()?;
            container.wait()?;
            let error = container.kill("TERM")?.exits(1)?.stderr;
            let known = ["no such process", "container not running", "invalid process"].iter().any(|w| error.contains(w));
            ensure!(known || t.differs("crun", "writes it with a capital"), "{error}");
            Ok(())
        });
    }

    /// internal/oci/runtime_oci.go, UpdateContainerStatus: decodes the state into CRI-O's own struct, where `created` is a time.
    #[test]
    fn created_is_a_time_and_nothing_else_is_set() {
        check(|t| {
            let state = sleeper(t)?.state()?;
            ensure!(state["created"].as_str().is_some_and(|c| c.len() >= 20 && c.ends_with('Z')), "{state}");
            for key in ["started", "finished", "exitCode", "oomKilled", "error", "initPid"] {
                ensure!(state.get(key).is_none(), "{key} in {state}");
            }
            Ok(())
        });
    }

    /// pkg/config/config.go, LoadRuntimeFeatures: both streams are parsed as one document, and these keys must be there.
    #[test]
    fn features_have_what_user_namespaces_need() {
        check(|t| {
            let output = t.runtime(["features"])?.ok()?;
            let features: Value = serde_json::from_str(&format!("{}{}", output.stdout, output.stderr))?;
            ensure!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(), "{features}");
            ensure!(features["mountOptions"].as_array().is_some_and(|l| l.contains(&json!("rro"))), "{features}");
            Ok(())
        });
    }
}

/// conmon v2.2.1.
mod conmon {
    use super::*;

    /// src/conmon.c: a pid file is the sign of success, and contains only a number.
    #[test]
    fn a_pid_file_is_a_number_and_means_success() {
        check(|t| {
            let container = sleeper(t)?;
            let file = t.path().join("pid");
            let path = file.to_string_lossy().into_owned();
            container.exec(&["--detach", "--pid-file", &path], ["/no/such"])?;
            ensure!(!file.exists() || t.differs("crun", "writes it before it knows"), "written without a process");
            let _ = fs::remove_file(&file);
            container.exec(&["--pid-file", &path], ["/bin/true"])?.ok()?;
            ensure!(fs::read_to_string(&file)?.parse::<u32>().is_ok(), "not a number alone");
            Ok(())
        });
    }

    /// src/conmon.c: shows the runtime's standard error to the user, so it should be one line.
    #[test]
    fn the_error_is_one_line() {
        check(|t| {
            let (output, _) = create_of(t, "/no/such")?;
            let lines: Vec<_> = output.stderr.lines().collect();
            ensure!(lines.len() == 1 || t.differs("runc<1.2", "says it twice"), "{lines:?}");
            Ok(())
        });
    }
}

/// kubelet v1.34, through the runtime's CRI.
mod kubelet {
    use super::*;

    /// pkg/kubelet/prober: an exec probe fails by the command's exit code, which is passed through unchanged.
    #[test]
    fn codes_of_probes_are_the_programs() {
        check(|t| {
            let container = sleeper(t)?;
            for code in [0, 1, 2, 125, 126, 127, 137] {
                container.exec(&[], ["/bin/payload", "exit", &code.to_string()])?.exits(code)?;
            }
            Ok(())
        });
    }

    /// containerd passes a pod's resize to the runtime together with the config's devices, which must not change
    /// (internal/cri/server/container_update_resources_linux.go, getResources).
    #[test]
    fn a_resize_leaves_devices_alone() {
        check(|t| {
            if !integration::cgroups::has("pids") {
                return t.skip("no limit to change here");
            }
            let container = sleeper(t)?;
            let open = || Ok::<_, anyhow::Error>(container.exec(&[], ["/bin/payload", "try-open", "/dev/null", "/dev/zero"])?.ok()?.stdout);
            let before = open()?;
            let resources = json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 50}});
            let mut command = t.command(["update", "--resources", "-", &container.id])?;
            let file = t.path().join("resources");
            fs::write(&file, resources.to_string())?;
            command.stdin(fs::File::open(&file)?);
            if t.differs("crun", "reads no standard input") {
                return Ok(());
            }
            t.finish(command)?.ok()?;
            assert_eq!(open()?, before);
            assert_eq!(integration::cgroups::read(container.pid, "pids", "pids.max")?.trim(), "50");
            Ok(())
        });
    }
}
