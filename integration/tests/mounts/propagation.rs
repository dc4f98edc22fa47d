//! Propagation, of mounts and of the root.

use std::fs;

use anyhow::{Result, ensure};
use integration::check;
use serde_json::json;

use super::{HostMount, at};

#[test]
fn propagation() {
    check(|t| {
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let _mount = HostMount::tmpfs(&source)?;
        rustix::mount::mount_change(&source, rustix::mount::MountPropagationFlags::SHARED)?;
        let source = source.to_string_lossy().into_owned();
        let mut bundle = t.bundle()?;
        // the caller's own mounts become slaves otherwise, and all that is bound from them
        bundle.set("/linux/rootfsPropagation", json!("shared"));
        for option in ["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable"] {
            bundle.mount(&format!("/{option}"), "bind", &source, &["rbind", option]);
        }
        let report = t.report(&mut bundle)?;
        let tags = |option: &str| -> Result<String> {
            let tags = at(&report, &format!("/{option}"))?["propagation"].clone();
            let words: Vec<_> = tags.as_array().into_iter().flatten().filter_map(|tag| tag.as_str()?.split(':').next()).collect();
            Ok(words.join(" "))
        };
        for (option, expected) in [("private", ""), ("slave", "master"), ("unbindable", "unbindable")] {
            assert_eq!(tags(option)?, expected, "{option}");
            assert_eq!(tags(&format!("r{option}"))?, expected, "r{option}");
        }
        for option in ["shared", "rshared"] {
            ensure!(tags(option)?.contains("shared"), "{option}: {}", tags(option)?);
        }
        Ok(())
    });
}

#[test]
fn propagation_of_the_rootfs() {
    check(|t| {
        for (mode, expected) in [("private", ""), ("rslave", ""), ("shared", "shared"), ("unbindable", "unbindable")] {
            let mut bundle = t.bundle()?;
            bundle.set("/linux/rootfsPropagation", json!(mode));
            let report = t.report(&mut bundle)?;
            let root = at(&report, "/")?;
            let tags = root["propagation"].to_string();
            // a slave of a group that has no one else has no tag
            ensure!(if expected.is_empty() { !tags.contains("shared") } else { tags.contains(expected) }, "{mode}: {tags}");
        }
        Ok(())
    });
}
