//! `--dry-run` prints the plan as a page or as JSON, and makes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use integration::{Test, cgroups, check};
use serde_json::json;

/// Adds every file below `folder`, with the metadata that would show a change.
fn files(folder: &Path, all: &mut BTreeMap<PathBuf, (u64, u32, i64, i64)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let data = fs::symlink_metadata(&path)?;
        all.insert(path.clone(), (data.ino(), data.mode(), data.mtime_nsec(), data.ctime_nsec()));
        if data.is_dir() {
            files(&path, all)?;
        }
    }
    Ok(())
}

/// The state of the directories that a container would change: the bundle and the state root.
fn seen(t: &Test, bundle: &Path) -> Result<BTreeMap<PathBuf, (u64, u32, i64, i64)>> {
    let mut all = BTreeMap::new();
    files(bundle, &mut all)?;
    files(&t.root(), &mut all)?;
    Ok(all)
}

#[test]
fn nothing_is_made() {
    check(|t| {
        if !t.runtime.is("masu") {
            return t.skip("only masu has --dry-run");
        }
        let mut bundle = t.bundle()?;
        let mark = t.path().join("mark");
        bundle.set("/hooks", json!({"createRuntime": [{"path": "/bin/touch", "args": ["touch", mark]}]}));
        bundle.set("/process/cwd", json!("/made/for/it")).mount("/new/place", "tmpfs", "tmpfs", &["ro"]);
        bundle.args(["/bin/payload", "say", "two words"]).write()?;
        let before = seen(t, bundle.path())?;
        let path = bundle.path().to_owned();
        let path = path.as_os_str();
        let id = t.new_id();
        for command in ["create", "run"] {
            let page = t.runtime([command.as_ref(), "--dry-run".as_ref(), "-b".as_ref(), path, id.as_ref()])?.ok()?.stdout;
            for line in [
                &format!("container            {id}"),
                "  arguments          /bin/payload say \"two words\"",
                "  directory          /made/for/it",
                "  no new privileges  yes",
                "  made                  ipc uts network pid mount",
                "    /dev/pts  new devpts  source devpts  attributes nosuid,noexec  options ptmxmode=0666,mode=0620,gid=5",
                "    /new/place  new tmpfs  source tmpfs  attributes ro",
                "    /dev/null  node CharacterDevice 1:3  mode 0666 of 0:0",
                "  read-only paths  /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger",
            ] {
                let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                ensure!(page.lines().any(|l| words(l) == words(line)), "{line:?} is not in\n{page}");
            }
            let plan = t.runtime([command.as_ref(), "--dry-run=json".as_ref(), "-b".as_ref(), path, id.as_ref()])?.ok()?.json()?;
            ensure!(plan["process"]["arguments"] == json!(["/bin/payload", "say", "\"two words\""]), "{plan:#}");
            ensure!(plan["rootfs"]["mounts"][0]["target"] == "/proc" && plan["process"]["noNewPrivileges"] == true, "{plan:#}");
            ensure!(plan["hooks"]["createRuntime"][0]["program"] == "/bin/touch", "{plan:#}");
        }
        ensure!(seen(t, bundle.path())? == before && !mark.exists(), "something was made");
        t.runtime(["state", &id])?.exits(1)?.fails_with("does not exist")?;
        // --dry-run refuses the same mistakes as create
        let refused = t.runtime(["create".as_ref(), "--dry-run=xml".as_ref(), "-b".as_ref(), path, id.as_ref()])?.exits(1)?;
        ensure!(refused.stderr.contains("one of text, json"), "{}", refused.stderr);
        bundle.set("/process/cwd", json!("x")).write()?;
        t.runtime(["create".as_ref(), "--dry-run".as_ref(), "-b".as_ref(), path, id.as_ref()])?
            .exits(1)?
            .fails_with("Cwd must be an absolute path")?;
        Ok(())
    });
}

#[test]
fn dockers_container_is_a_page() {
    check(|t| {
        if !t.runtime.is("masu") {
            return t.skip("only masu has --dry-run");
        }
        let bundle = t.bundle()?;
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles/docker-default/config.json");
        let place = cgroups::path_for("web");
        bundle.write_text(fs::read_to_string(config)?.replace("/docker/ID", &place).as_bytes())?;
        let page = t.runtime(["create".as_ref(), "--dry-run".as_ref(), "-b".as_ref(), bundle.path().as_os_str(), "web".as_ref()])?.ok()?;
        let lines: Vec<&str> = page.stdout.lines().collect();
        let lists = ["DeviceAllow", "rooted anew  v1"];
        let fits = |line: &&str| line.len() <= 160 || lists.iter().any(|list| line.contains(list));
        ensure!(lines.len() < 120 && lines.iter().all(fits), "{}", page.stdout);
        for part in ["capabilities", "seccomp", "answers", "/sys/fs/cgroup", "/etc/resolv.conf  bind of", "allow c 5:1 rwm", "masked paths"]
        {
            ensure!(page.stdout.contains(part), "{part} is not in\n{}", page.stdout);
        }
        Ok(())
    });
}
