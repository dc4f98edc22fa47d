//! Root file systems in the Create request: mounted before the container is made, and unmounted with it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::message::Message;
use integration::shim::{Answer, Shim, refused};
use integration::{Bundle, Test, check, host, namespaces};
use serde_json::json;

use super::{INVALID, NOT_FOUND, of, refuses, with_shim};

/// The host's user and group to which the container's root is mapped.
const OWNER: (u32, u32) = (100_000, 200_000);
const MAPS: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

fn mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> Message {
    let message = Message::new().text(1, kind).text(2, &source.to_string_lossy()).text(3, target);
    options.iter().fold(message, |message, option| message.text(4, option))
}

/// Moves the root file system out of the bundle. Returns its directory.
fn take_root(t: &Test, bundle: &Bundle, name: &str) -> Result<PathBuf> {
    let to = t.path().join(name);
    fs::create_dir_all(to.parent().context("a parent")?)?;
    fs::rename(bundle.rootfs(""), &to)?;
    Ok(to)
}

/// Makes an ext4 image of the root file system.
fn image(t: &Test, root: &Path) -> Result<PathBuf> {
    let image = t.path().join("image");
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(root).arg(&image).arg("32m");
    t.run_command(command)?.ok()?;
    Ok(image)
}

fn create(shim: &mut Shim<'_>, bundle: &Bundle, id: &str, stdout: &str, mounts: &[Message]) -> Result<Answer> {
    // containerd's shim fails if only one of standard output and error is a regular file
    let message = shim.create_message(bundle, id, stdout).text(7, stdout);
    shim.call("Create", mounts.iter().fold(message, |message, mount| message.message(3, mount.clone())))
}

/// Runs a container to its end. Returns its status and its output.
fn run(t: &Test, shim: &mut Shim<'_>, bundle: &Bundle, id: &str, mounts: &[Message]) -> Result<(u64, String)> {
    let said = t.path().join(format!("{id}.said"));
    create(shim, bundle, id, &format!("file://{}", said.display()), mounts)?.map_err(refused)?;
    let wait = shim.begin("Wait", of(id))?;
    shim.call("Start", of(id))?.map_err(refused)?;
    let status = shim.finish(wait)?.map_err(refused)?.number(1);
    shim.call("Delete", of(id))?.map_err(refused)?;
    let text = fs::read_to_string(&said)?;
    fs::remove_file(&said)?;
    Ok((status, text))
}

/// Waits until no loop device uses a file of this test. The kernel detaches them after their last user.
fn no_loop_devices(t: &Test) -> Result<()> {
    let shown = || -> Result<Vec<String>> {
        let devices = fs::read_dir("/sys/block")?.flatten().map(|entry| entry.path().join("loop/backing_file"));
        Ok(devices.filter_map(|file| fs::read_to_string(file).ok()).filter(|file| file.contains(t.token())).collect())
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !shown()?.is_empty() {
        ensure!(Instant::now() < end, "loop devices are left: {:?}", shown()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether this is a peer's shim without support for mapped root file systems.
fn knows_no_maps(t: &Test, answer: &Answer) -> bool {
    !t.runtime.is("masu") && answer.as_ref().is_err_and(|e| e.text.contains("invalid argument"))
}

fn can_loop(t: &Test) -> Result<bool> {
    // where the kernel makes device nodes, loop nodes appear with the first use
    let comes = || fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.contains(" /dev ") && table.contains(" - devtmpfs "));
    let lacks = if fs::File::open("/dev/loop-control").is_err() || !(Path::new("/dev/loop0").exists() || comes()) {
        Some("no loop devices here")
    } else {
        Command::new("mke2fs").arg("-V").output().err().map(|_| "no mke2fs, which makes the image")
    };
    lacks.map_or(Ok(()), |reason| t.skip(reason))?;
    Ok(lacks.is_none())
}

#[test]
fn a_loop_device_shows_an_image_and_goes_with_its_container() {
    check(|t| {
        if !can_loop(t)? {
            return Ok(());
        }
        with_shim(t, &["/bin/payload", "write", "/left", "kept"], |shim, bundle, id| {
            let root = take_root(t, bundle, "root")?;
            let image = image(t, &root)?;
            let writable = mount("ext4", &image, "", &["loop"]);
            ensure!(run(t, shim, bundle, id, &[writable])?.0 == 0, "it cannot write");
            no_loop_devices(t)?;
            // the written file is in the image; with `ro` no file can be written
            let mut bundle = bundle.clone();
            bundle.args(["/bin/payload", "read", "/left", "then", "say", "", "then", "try-write", "/more"]).write()?;
            let read_only = mount("ext4", &image, "", &["loop", "ro", "direct-io"]);
            let (status, said) = run(t, shim, &bundle, &t.new_id(), &[read_only])?;
            ensure!((status, &*said) == (0, "kept\n/more EROFS\n"), "{status}: {said}");
            no_loop_devices(t)
        })
    });
}

#[test]
fn an_image_that_cannot_be_mounted_leaves_no_loop_device() {
    check(|t| {
        if !can_loop(t)? {
            return Ok(());
        }
        with_shim(t, &["/bin/true"], |shim, bundle, id| {
            let root = take_root(t, bundle, "root")?;
            let damaged = t.path().join("damaged");
            fs::write(&damaged, vec![0; 1 << 20])?;
            for image in [damaged, t.path().join("missing")] {
                let below = mount("bind", &root, "", &["rbind"]);
                let answer = create(shim, bundle, id, "", &[below, mount("ext4", &image, "tmp", &["loop"])])?;
                ensure!(answer.is_err_and(|e| e.text.contains("mount rootfs component")), "mounted {}", image.display());
                refuses(shim.call("State", of(id))?, NOT_FOUND, "not found")?;
                no_loop_devices(t)?;
            }
            Ok(())
        })
    });
}

#[test]
fn a_killed_shims_loop_device_goes_with_delete() {
    check(|t| {
        if !can_loop(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let id = t.new_id();
        bundle.args(["/bin/payload", "sleep"]).write()?;
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "delete of containerd's own shim fails outside of containerd");
            return Ok(());
        }
        let root = take_root(t, &bundle, "root")?;
        let image = image(t, &root)?;
        let mut shim = Shim::start(t, &bundle, &id)?;
        let mounts = [mount("ext4", &image, "", &["loop"]), mount("tmpfs", Path::new("tmpfs"), "tmp", &[])];
        create(&mut shim, &bundle, &id, "", &mounts)?.map_err(refused)?;
        shim.call("Start", of(&id))?.map_err(refused)?;
        shim.kill()?;
        ensure!(shim.delete_action(&bundle, &id)?.1 == 137, "another status");
        ensure!(shim.delete_action(&bundle, &id)?.1 == 137, "another status the second time");
        no_loop_devices(t)
    });
}

/// Gives the container a user namespace with the maps of its root file system.
fn in_user_namespace(bundle: &mut Bundle) -> Result<()> {
    let map = |outside: u32| json!([{"containerID": 0, "hostID": outside, "size": 65536}]);
    bundle.namespace("user", None).set("/linux/uidMappings", map(OWNER.0)).set("/linux/gidMappings", map(OWNER.1)).write()
}

#[test]
fn the_layers_of_an_overlay_are_mapped() {
    check(|t| {
        let words = ["/bin/payload", "stat", "/bin/payload", "/low/file", "/low/foreign", "then", "write", "/low/new", "x"];
        with_shim(t, &words, |shim, bundle, id| {
            let mut bundle = bundle.clone();
            in_user_namespace(&mut bundle)?;
            let top = take_root(t, &bundle, "layers/12/fs")?;
            let low = t.path().join("layers/1/fs");
            fs::create_dir_all(low.join("low"))?;
            for (name, uid, gid) in [("file", 7, 8), ("foreign", 65_536, 65_536)] {
                fs::write(low.join("low").join(name), "")?;
                chown(low.join("low").join(name), Some(uid), Some(gid))?;
            }
            let [upper, work] = ["upper", "work"].map(|name| t.path().join(name));
            for dir in [&upper, &work] {
                fs::create_dir(dir)?;
                chown(dir, Some(OWNER.0), Some(OWNER.1))?;
            }
            let layers = format!("lowerdir={}:{}", top.display(), low.display());
            let places = [format!("upperdir={}", upper.display()), format!("workdir={}", work.display())];
            let overlay = |layers: &str| mount("overlay", Path::new("overlay"), "", &[layers, &places[0], &places[1], MAPS[0], MAPS[1]]);
            let answer = create(shim, &bundle, id, "", &[overlay(&layers)])?;
            if knows_no_maps(t, &answer) {
                return t.skip("a shim that is older than mapped root file systems");
            }
            answer.map_err(refused)?;
            let pid = shim.call("State", of(id))?.map_err(refused)?.number(3);
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
            ensure!(!mounts.lines().any(|line| line.contains("layers/") && !line.contains("overlay")), "it sees the layers: {mounts}");
            shim.call("Start", of(id))?.map_err(refused)?;
            shim.end(id)?;
            let (status, said) = run(t, shim, &bundle, &t.new_id(), &[overlay(&layers)])?;
            let owners: Vec<_> = said.lines().filter_map(|line| line.rsplit(' ').next()).collect();
            ensure!((status, &*owners) == (0, &["0:0", "7:8", "65534:65534"][..]), "{status}: {said}");
            let new = fs::metadata(upper.join("low/new"))?;
            ensure!((new.uid(), new.gid()) == OWNER, "{}:{}", new.uid(), new.gid());
            // more layers than mount(2) accepts, so this needs a newer kernel
            let many: Vec<_> = (0..100).map(|n| t.path().join(format!("layers/{n:060}"))).collect();
            for layer in &many {
                fs::create_dir(layer)?;
            }
            let names: Vec<_> = many.iter().map(|path| path.to_string_lossy()).collect();
            let many = [overlay(&format!("{layers}:{}", names.join(":")))];
            if !t.runtime.is("masu") && t.differs(t.runtime.kind, "containerd's shim takes as many layers as fit a page") {
                return Ok(());
            }
            if host::kernel() < (6, 7) {
                let said = create(shim, &bundle, &t.new_id(), "", &many)?.err().context("more than a page of layers")?;
                ensure!(said.text.contains("mount options is too long"), "{said:?}");
                return t.skip("no more than a page of layers before Linux 6.7");
            }
            let (status, said) = run(t, shim, &bundle, &t.new_id(), &many)?;
            ensure!(status == 0 && said.contains("/low/file") && said.contains("7:8"), "{status}: {said}");
            Ok(())
        })
    });
}

#[test]
fn a_bind_and_an_image_are_mapped() {
    check(|t| {
        with_shim(t, &["/bin/payload", "stat", "/bin/payload", "/file"], |shim, bundle, id| {
            let mut bundle = bundle.clone();
            in_user_namespace(&mut bundle)?;
            fs::write(bundle.rootfs("file"), "")?;
            chown(bundle.rootfs("file"), Some(7), Some(8))?;
            let root = take_root(t, &bundle, "root")?;
            let mut mounts = vec![mount("bind", &root, "", &["rbind", MAPS[0], MAPS[1]])];
            if can_loop(t)? {
                mounts.push(mount("ext4", &image(t, &root)?, "", &["loop", MAPS[0], MAPS[1]]));
            }
            let answer = create(shim, &bundle, id, "", &mounts[..1])?;
            if knows_no_maps(t, &answer) {
                return t.skip("a shim that is older than mapped root file systems");
            }
            answer.map_err(refused)?;
            shim.end(id)?;
            for mount in mounts {
                let (status, said) = run(t, shim, &bundle, &t.new_id(), &[mount])?;
                let owners: Vec<_> = said.lines().filter_map(|line| line.rsplit(' ').next()).collect();
                ensure!((status, &*owners) == (0, &["0:0", "7:8"][..]), "{status}: {said}");
            }
            no_loop_devices(t)
        })
    });
}

#[test]
fn what_cannot_be_mounted_is_refused_before_anything_exists() {
    check(|t| {
        with_shim(t, &["/bin/true"], |shim, bundle, id| {
            let root = take_root(t, bundle, "root")?;
            let layers = format!("lowerdir={}:/usr", root.display());
            for (kind, target, options, text) in [
                ("bind", "", &["rbind", "uidmap=0:1:x", MAPS[1]][..], "no list of"),
                ("format/ext4", "", &[], "mount manager"),
                ("overlay", "", &[&layers, MAPS[0], MAPS[1]], "no folder in common"),
                // a peer's shim interprets these in another way
                ("bind", "", &["rbind", MAPS[0]], "without the other"),
                ("bind", "", &["rbind", "X-containerd.mkdir.path=/x"], "not for a shim"),
                ("bind", "", &["rbind", "loop"], "not for a bind"),
                ("tmpfs", "../x", &[], "leads out"),
            ] {
                if !t.runtime.is("masu") && text == "without the other" {
                    break;
                }
                let mounts = [mount("bind", &root, "", &["rbind"]), mount(kind, &root, target, options)];
                let answer = create(shim, bundle, id, "", &mounts)?;
                if t.runtime.is("masu") {
                    refuses(answer, INVALID, text)?;
                    ensure!(!bundle.rootfs("").exists() && !bundle.path().join("options.json").exists(), "{options:?} left something");
                } else {
                    ensure!(answer.is_err(), "mounted {kind} with {options:?}");
                }
                refuses(shim.call("State", of(id))?, NOT_FOUND, "not found")?;
            }
            Ok(())
        })
    });
}

#[test]
fn a_link_of_the_image_leads_no_mount_out_of_it() {
    check(|t| {
        with_shim(t, &["/bin/payload", "write", "/in/new", "x"], |shim, bundle, id| {
            let victim = t.path().join("victim");
            fs::create_dir(&victim)?;
            symlink(&victim, bundle.rootfs("out"))?;
            fs::create_dir(bundle.rootfs("there"))?;
            symlink("/there", bundle.rootfs("in"))?;
            let root = take_root(t, bundle, "root")?;
            let mounts = |below: &str| [mount("bind", &root, "", &["rbind"]), mount("tmpfs", Path::new("tmpfs"), below, &[])];
            let table = namespaces::mountinfo;
            let victim = victim.to_string_lossy().into_owned();
            let answer = create(shim, bundle, id, "", &mounts("out"))?;
            ensure!(answer.is_err() && !table()?.contains(&victim), "mounted on the host: {}", table()?);
            ensure!(run(t, shim, bundle, id, &mounts("in"))?.0 == 0, "it cannot write");
            ensure!(!root.join("there/new").exists(), "it was not mounted");
            ensure!(!root.join("in/new").exists(), "it was not mounted");
            Ok(())
        })
    });
}

/// `ro` of a root file system from the shim reaches its superblock: an image that is declared read-only is not written, not even
/// by mounting it. The same holds for a tmpfs below, and for an overlay.
#[test]
fn ro_reaches_the_superblock_of_a_root_file_system() {
    check(|t| {
        if !can_loop(t)? {
            return Ok(());
        }
        with_shim(t, &["/bin/payload", "read", "/proc/self/mountinfo"], |shim, bundle, id| {
            let root = take_root(t, bundle, "root")?;
            let image = image(t, &root)?;
            let before = fs::read(&image)?;
            let (upper, work) = (t.path().join("upper"), t.path().join("work"));
            for folder in [&upper, &work] {
                fs::create_dir(folder)?;
            }
            let layers =
                [("lowerdir", &root), ("upperdir", &upper), ("workdir", &work)].map(|(name, path)| format!("{name}={}", path.display()));
            let mut overlay: Vec<_> = layers.iter().map(String::as_str).collect();
            overlay.push("ro");
            for mount in [mount("ext4", &image, "", &["loop", "ro"]), mount("overlay", Path::new("overlay"), "", &overlay)] {
                let id = if bundle.rootfs("").exists() { t.new_id() } else { id.to_owned() };
                let (status, said) = run(t, shim, bundle, &id, &[mount])?;
                ensure!(status == 0, "{status}: {said}");
                let line = said.lines().find(|line| line.split(' ').nth(4) == Some("/")).context("a root in mountinfo")?;
                let superblock = line.rsplit(' ').next().unwrap_or_default();
                ensure!(superblock.split(',').any(|option| option == "ro"), "its superblock has {superblock}: {line}");
            }
            no_loop_devices(t)?;
            ensure!(fs::read(&image)? == before, "the image was written to");
            Ok(())
        })
    });
}
