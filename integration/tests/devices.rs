//! Device nodes and the links of /dev.

use anyhow::ensure;
use integration::check;
use serde_json::json;

#[test]
fn default_devices_and_links() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let report = t.report(&mut bundle)?;
        let dev = &report["dev"];
        for (name, numbers) in [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")] {
            assert_eq!(dev[name], format!("c {numbers} 666 0:0"), "{name}");
        }
        for (name, target) in
            [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
        {
            assert_eq!(dev[name], format!("link {target}"), "{name}");
        }
        ensure!(dev["ptmx"] == "link pts/ptmx" || dev["ptmx"] == "link /dev/pts/ptmx", "{}", dev["ptmx"]);
        Ok(())
    });
}

#[test]
fn devices_of_the_config() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.set(
            "/linux/devices",
            json!([
                {"path": "/dev/own/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/plain", "type": "c", "major": 1, "minor": 5},
                {"path": "/dev/blk", "type": "b", "major": 7, "minor": 9, "fileMode": 0o600},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
                {"path": "/outside", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
            ]),
        );
        bundle.args(["/bin/payload", "stat", "/dev/own/fuse", "/dev/plain", "/dev/blk", "/dev/pipe", "/outside"]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("/dev/own/fuse c 10:229 640 5:6"));
        ensure!(lines.next().is_some_and(|line| line.starts_with("/dev/plain c 1:5 ")), "{seen}");
        assert_eq!(lines.next(), Some("/dev/blk b 7:9 600 0:0"));
        assert_eq!(lines.next(), Some("/dev/pipe fifo 622 0:0"));
        assert_eq!(lines.next(), Some("/outside c 1:3 666 0:0"));
        Ok(())
    });
}
