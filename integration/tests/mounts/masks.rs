//! Masked and read-only paths, and the read-only root.

use std::fs;

use anyhow::ensure;
use integration::check;
use serde_json::json;

#[test]
fn a_read_only_rootfs_with_its_mounts_writable() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set("/root/readonly", json!(true)).mount("/tmp", "tmpfs", "tmpfs", &[]);
        bundle.args([
            "/bin/payload",
            "try-write",
            "/new",
            "then",
            "try-write",
            "/etc/passwd",
            "then",
            "try-write",
            "/tmp/new",
            "then",
            "try-write",
            "/dev/new",
        ]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "/new EROFS\n/etc/passwd EROFS\n/tmp/new ok\n/dev/new ok\n");
        Ok(())
    });
}

#[test]
fn masked_and_read_only_paths() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::write(bundle.rootfs("etc/secret"), "secret")?;
        fs::create_dir(bundle.rootfs("hidden"))?;
        fs::write(bundle.rootfs("hidden/file"), "secret")?;
        fs::create_dir(bundle.rootfs("kept"))?;
        bundle.set("/linux/maskedPaths", json!(["/etc/secret", "/hidden", "/no/such", "/proc/version", "/proc/tty", "/sys/kernel"]));
        bundle.set("/linux/readonlyPaths", json!(["/kept", "/proc/sys", "/no/such", "/proc/fs"]));
        bundle.args([
            "/bin/payload",
            "read",
            "/etc/secret",
            "then",
            "ls",
            "/hidden",
            "then",
            "read",
            "/proc/version",
            "then",
            "ls",
            "/proc/tty",
            "then",
            "ls",
            "/sys/kernel",
            "then",
            "try-write",
            "/kept/new",
            "then",
            "try-write",
            "/proc/sys/kernel/hostname",
            "then",
            "try-mkdir",
            "/hidden/new",
            "then",
            "try-put",
            "/etc/secret",
            "x",
        ]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        // three empty directories, two empty files, three read-only paths
        let start = "\n\n\n/kept/new EROFS\n/proc/sys/kernel/hostname EROFS\n";
        ensure!(seen.starts_with(start), "{seen}");
        // the mask of a directory is not writable; the errno depends on the runtime
        ensure!(!seen.contains("/hidden/new ok"), "{seen}");
        assert_eq!(fs::read_to_string(bundle.rootfs("etc/secret"))?, "secret");
        Ok(())
    });
}
