//! `ro` makes the superblock of a new file system read-only. So nothing is written to a device that is declared read-only, and a
//! read-only device can be mounted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Test, check};
use serde_json::json;

/// The options of the last mount at `point` in mountinfo, and those of its superblock.
fn options_at(mountinfo: &str, point: &str) -> Result<(Vec<String>, Vec<String>)> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(point));
    let line = line.with_context(|| format!("nothing is mounted at {point}: {mountinfo}"))?;
    let split = |options: Option<&str>| options.unwrap_or_default().split(',').map(str::to_owned).collect();
    Ok((split(line.split(' ').nth(5)), split(line.rsplit(' ').next())))
}

fn mountinfo(t: &Test, bundle: &mut Bundle) -> Result<String> {
    bundle.args(["/bin/payload", "read", "/proc/self/mountinfo"]);
    Ok(t.run(bundle)?.ok()?.stdout)
}

/// An ext4 image with a journal, in the test's directory.
struct Image(PathBuf);

impl Image {
    fn make(t: &Test) -> Result<Self> {
        let path = t.path().join("ext4");
        fs::File::create(&path)?.set_len(16 << 20)?;
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-t", "ext4"]).arg(&path);
        t.run_command(command)?.ok()?;
        Ok(Self(path))
    }

    /// Leaves transactions in the journal, as after a power loss: copies the image while it is mounted.
    fn leave_a_journal(&self, t: &Test) -> Result<()> {
        let (point, copy) = (t.path().join("point"), t.path().join("copy"));
        fs::create_dir(&point)?;
        {
            let device = Loop::over(&self.0, false)?;
            rustix::mount::mount(&device.0, &point, "ext4", rustix::mount::MountFlags::empty(), None)?;
            let written = (|| -> Result<()> {
                fs::write(point.join("file"), "text")?;
                rustix::fs::fsync(fs::File::open(point.join("file"))?)?;
                fs::copy(&self.0, &copy)?;
                Ok(())
            })();
            rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty())?;
            written?;
        }
        Ok(fs::rename(&copy, &self.0)?)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        Ok(fs::read(&self.0)?)
    }
}

/// A loop device. Dropping this detaches it.
struct Loop(PathBuf);

impl Loop {
    fn over(image: &Path, read_only: bool) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(read_only.then_some("--read-only")).args(["--find", "--show"]).arg(image);
        let output = command.output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(String::from_utf8(output.stdout)?.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // an unmount in progress may still use the device
        let end = Instant::now() + Duration::from_secs(5);
        while !Command::new("losetup").arg("--detach").arg(&self.0).output().is_ok_and(|output| output.status.success())
            && Instant::now() < end
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn can_loop(t: &Test) -> Result<bool> {
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    let can = Path::new("/dev/loop-control").exists() && Path::new("/dev/loop0").exists() && has("losetup") && has("mke2fs");
    if !can {
        t.skip("needs loop devices, losetup and mke2fs")?;
    }
    Ok(can)
}

/// With `ro` each new superblock is read-only, as its mount is. Without `ro` neither is.
#[test]
fn ro_reaches_the_superblock_of_each_new_file_system() {
    check(|t| {
        let folders = ["lower", "upper", "work"].map(|name| t.path().join(name));
        for folder in &folders {
            fs::create_dir(folder)?;
        }
        let [lower, upper, work] = folders.each_ref().map(|path| path.to_string_lossy());
        let (lower, upper, work) = (format!("lowerdir={lower}"), format!("upperdir={upper}"), format!("workdir={work}"));
        for read_only in [true, false] {
            let mut bundle = t.bundle()?;
            // without second mounts of these file systems, because the mounts would share one superblock
            bundle.unmount("/dev/pts").unmount("/sys");
            let mut points = Vec::new();
            for (kind, options) in
                [("sysfs", &[][..]), ("devpts", &["newinstance"]), ("overlay", &[&*lower, &upper, &work]), ("ramfs", &[])]
            {
                let point = format!("/mnt-{kind}");
                let options = [options, &["nosuid", if read_only { "ro" } else { "rw" }]].concat();
                bundle.mount(&point, kind, kind, &options);
                points.push((kind, point));
            }
            let mounts = mountinfo(t, &mut bundle)?;
            for (kind, point) in points {
                let (own, superblock) = options_at(&mounts, &point)?;
                let word = if read_only { "ro" } else { "rw" };
                ensure!(own.iter().any(|option| option == word), "{kind} with {word}: {own:?}");
                let known = read_only && t.differs("crun", "makes mounts read-only, and no superblock but that of an overlay");
                ensure!(known || superblock.iter().any(|option| option == word), "{kind} with {word}: its superblock has {superblock:?}");
            }
        }
        Ok(())
    });
}

/// The superblock of a tmpfs becomes read-only too, after files were made in it.
#[test]
fn ro_reaches_the_superblock_of_a_tmpfs() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::create_dir(bundle.rootfs("full"))?;
        fs::write(bundle.rootfs("full/file"), "text")?;
        bundle.mount("/mnt", "tmpfs", "tmpfs", &["ro"]).mount("/full", "tmpfs", "tmpfs", &["ro", "tmpcopyup"]);
        bundle.mount("/mnt/below", "tmpfs", "tmpfs", &["ro"]);
        let mounts = mountinfo(t, &mut bundle)?;
        for point in ["/mnt", "/full", "/mnt/below"] {
            let (own, superblock) = options_at(&mounts, point)?;
            ensure!(own.iter().any(|option| option == "ro"), "{point}: {own:?}");
            let known = !t.runtime.is("masu") && t.differs(t.runtime.kind, "makes a tmpfs read-only as a mount");
            ensure!(known || superblock.iter().any(|option| option == "ro"), "{point}: its superblock has {superblock:?}");
        }
        bundle.args(["/bin/payload", "read", "/full/file"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "text");
        Ok(())
    });
}

/// A bundle that mounts the disk as the config names it, with `options`.
fn with_disk(t: &Test, device: &Path, options: &[&str]) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    // a path that is missing in the rootfs, because sources are paths of the host
    let name = t.path().join("disk");
    let _ = fs::remove_file(&name);
    symlink(device, &name)?;
    // crun mounts after its device rules are active
    bundle.set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
    bundle.mount("/disk", "ext4", &name.to_string_lossy(), options);
    Ok(bundle)
}

/// A read-only device is mounted with `ro`. Without `ro` it is refused, because the kernel could not write to it.
#[test]
fn a_read_only_device_is_mounted_with_ro() {
    check(|t| {
        if !can_loop(t)? || t.differs("crun", "mounts a disk writable, and makes the mount read-only") {
            return Ok(());
        }
        let image = Image::make(t)?;
        let device = Loop::over(&image.0, true)?;
        let before = image.bytes()?;
        let mounts = mountinfo(t, &mut with_disk(t, &device.0, &["ro"])?).context("a read-only device, with ro")?;
        let (own, superblock) = options_at(&mounts, "/disk")?;
        ensure!(own.contains(&"ro".to_owned()) && superblock.contains(&"ro".to_owned()), "{own:?} {superblock:?}");
        // a peer may try again with `ro`, as mount(8) does
        let without = t.run(&with_disk(t, &device.0, &[])?)?;
        ensure!(!without.status.success() || !t.runtime.is("masu"), "a read-only device was mounted without ro");
        ensure!(image.bytes()? == before, "it was written to");
        Ok(())
    });
}

/// Nothing is written to a clean disk that is declared read-only, not even its mount time or state.
#[test]
fn a_disk_that_is_declared_read_only_is_not_written_to() {
    check(|t| {
        if !can_loop(t)? || t.differs("crun", "mounts a disk writable, and makes the mount read-only") {
            return Ok(());
        }
        let image = Image::make(t)?;
        let device = Loop::over(&image.0, false)?;
        let before = image.bytes()?;
        let mounts = mountinfo(t, &mut with_disk(t, &device.0, &["ro"])?)?;
        let (_, superblock) = options_at(&mounts, "/disk")?;
        rustix::fs::fsync(fs::File::open(&device.0)?)?;
        ensure!(image.bytes()? == before, "a disk that was mounted with ro was written to; its superblock had {superblock:?}");
        ensure!(superblock.contains(&"ro".to_owned()), "{superblock:?}");
        Ok(())
    });
}

/// With `ro` and `noload` the journal of a disk is not replayed after a power loss, so nothing is written. A read-only device can
/// be mounted with them too.
#[test]
fn a_journal_is_left_alone_on_a_disk_that_is_declared_read_only() {
    check(|t| {
        if !can_loop(t)? || t.differs("crun", "mounts a disk writable, and makes the mount read-only") {
            return Ok(());
        }
        let image = Image::make(t)?;
        image.leave_a_journal(t)?;
        let before = image.bytes()?;
        for read_only in [true, false] {
            let device = Loop::over(&image.0, read_only)?;
            let mounts = mountinfo(t, &mut with_disk(t, &device.0, &["ro", "noload"])?)?;
            let (_, superblock) = options_at(&mounts, "/disk")?;
            rustix::fs::fsync(fs::File::open(&device.0)?)?;
            ensure!(superblock.contains(&"ro".to_owned()), "{superblock:?}");
            ensure!(image.bytes()? == before, "the disk was written to, read-only device: {read_only}");
        }
        // this proves that there was a journal to replay
        let device = Loop::over(&image.0, false)?;
        mountinfo(t, &mut with_disk(t, &device.0, &[])?)?;
        rustix::fs::fsync(fs::File::open(&device.0)?)?;
        ensure!(image.bytes()? != before, "the image is not what this test needs");
        Ok(())
    });
}
