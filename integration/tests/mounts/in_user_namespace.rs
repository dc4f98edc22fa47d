//! Mounts of containers in a user namespace: mapped ids, and flags that the kernel locks.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};

use anyhow::{Result, ensure};
use integration::{Bundle, Container, Test, check};
use rustix::mount::MountFlags;
use serde_json::json;

use super::id_mapped::owners;
use super::links::knows_no_words_for_links;
use super::{HostMount, at, has};

const HOST: u32 = 100_000;

/// A bundle whose root is mapped to other ids on the host.
fn mapped(t: &Test) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.namespace("user", None);
    for key in ["uidMappings", "gidMappings"] {
        bundle.set(&format!("/linux/{key}"), json!([{"containerID": 0, "hostID": HOST, "size": 65_536}]));
    }
    for folder in ["", "dev", "proc", "sys", "tmp", "etc"] {
        lchown(bundle.rootfs(folder), Some(HOST), Some(HOST))?;
    }
    Ok(bundle)
}

/// A directory on the host, readable only by its root: a file of 7:8, and a mount below it with the same. The mount below is
/// locked in a user namespace, so the bind must be recursive.
fn source(t: &Test) -> Result<(String, HostMount)> {
    let outer = t.path().join("outer");
    let source = outer.join("source");
    fs::create_dir_all(source.join("inner"))?;
    let inner = HostMount::tmpfs(&source.join("inner"))?;
    for file in [source.join("file"), source.join("inner/file")] {
        fs::write(&file, "")?;
        lchown(file, Some(7), Some(8))?;
    }
    fs::set_permissions(outer, Permissions::from_mode(0o700))?;
    Ok((source.to_string_lossy().into_owned(), inner))
}

#[test]
fn ids_are_mapped_by_the_container_s_map_or_another() {
    check(|t| {
        if t.differs("runc<1.2", "knows no option idmap") || t.differs("crun<1.9", "knows no ridmap") {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let mut bundle = mapped(t)?;
        let map = |outside: u32| json!([{"containerID": 0, "hostID": outside, "size": 100}]);
        bundle.mount("/plain", "bind", &source, &["rbind"]).mount("/own", "bind", &source, &["rbind", "idmap"]);
        bundle.mount("/all", "bind", &source, &["rbind", "ridmap"]);
        for (destination, outside) in [("/other", HOST + 500), ("/elsewhere", 0)] {
            bundle.push(
                "/mounts",
                json!({
                    "destination": destination, "type": "bind", "source": source, "options": ["rbind"],
                    "uidMappings": map(outside), "gidMappings": map(outside),
                }),
            );
        }
        let files = ["/plain/file", "/own/file", "/own/inner/file", "/all/file", "/all/inner/file", "/other/file", "/elsewhere/file"];
        let nobody = "65534:65534";
        let seen = owners(t, &mut bundle, &files);
        if seen.as_ref().is_err_and(|e| format!("{e:#}").contains("on this kernel")) {
            return t.skip("tmpfs takes no id map on this kernel (6.3)");
        }
        assert_eq!(seen?, [nobody, "7:8", nobody, "7:8", "7:8", "507:508", nobody]);
        // the container's root may write there, because it is root of the mount's id mapping
        lchown(&source, Some(0), Some(0))?;
        bundle.args(["/bin/payload", "write", "/own/new", "x", "then", "stat", "/own/new"]);
        ensure!(t.run(&bundle)?.ok()?.stdout.contains(" 0:0"), "the file is not its maker's");
        assert_eq!(fs::symlink_metadata(format!("{source}/new")).map(|data| std::os::unix::fs::MetadataExt::uid(&data))?, 0);
        Ok(())
    });
}

#[test]
fn ids_are_mapped_by_a_user_namespace_that_is_joined() {
    check(|t| {
        if t.differs("runc<1.2", "knows no option idmap") || t.differs("crun", "does not map this mount") {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let mut first = mapped(t)?;
        first.args(["/bin/sleep"]);
        let first = Container::start_of(t, &first)?;
        let mut bundle = mapped(t)?;
        let path = format!("/proc/{}/ns/user", first.pid.as_raw_nonzero());
        bundle.namespace("user", Some(&path)).unset("/linux/uidMappings").unset("/linux/gidMappings");
        bundle.mount("/own", "bind", &source, &["rbind", "idmap"]);
        assert_eq!(owners(t, &mut bundle, &["/own/file"])?, ["7:8"]);
        Ok(())
    });
}

#[test]
fn file_systems_are_mapped_and_ranges_are_relative_as_crun_does() {
    check(|t| {
        if t.differs("runc", "maps binds only, and knows no mappings in the option") {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let mut bundle = mapped(t)?;
        bundle.mount("/relative", "bind", &source, &["rbind", "idmap=uids=@7-3-1;gids=@8-4-1"]);
        bundle.mount("/tmpfs", "tmpfs", "tmpfs", &["idmap=uids=@0-9-1;gids=@0-10-1", "mode=1711"]);
        bundle.mount("/own", "tmpfs", "tmpfs", &["idmap", "mode=1711"]);
        if t.differs("crun", "makes a mapped file system without its options") {
            return Ok(());
        }
        bundle.args(["/bin/payload", "stat", "/relative/file", "/tmpfs", "/own"]);
        let output = t.run(&bundle)?;
        if output.stderr.contains("on this kernel") {
            return t.skip("a tmpfs of a user namespace takes no id map on this kernel");
        }
        assert_eq!(output.ok()?.stdout, "/relative/file file 0 644 3:4\n/tmpfs dir 1711 9:10\n/own dir 1711 0:0\n");
        Ok(())
    });
}

#[test]
fn links_behind_a_closed_folder_are_not_followed_when_they_are_meant_themselves() {
    check(|t| {
        if knows_no_words_for_links(t) || t.differs("crun", "follows a link that root inside may not reach") {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let link = format!("{source}/link");
        symlink("file", &link)?;
        let mut bundle = mapped(t)?;
        symlink("old", bundle.rootfs("upon"))?;
        bundle.mount("/copied", "bind", &link, &["bind", "copy-symlink"]);
        bundle.mount("/upon", "bind", &link, &["bind", "src-nofollow", "dest-nofollow"]);
        bundle.mount("/followed", "bind", &link, &["bind"]);
        bundle.args(["/bin/payload", "stat", "/copied", "/upon", "/followed"]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        ensure!(seen.starts_with("/copied link file\n/upon link file\n/followed file 0 "), "{seen}");
        Ok(())
    });
}

type Words = &'static [&'static str];

/// Flags of the source, options of the bind besides `bind`, the resulting flags, and flags that must be absent.
const KEPT: [(MountFlags, Words, Words, Words); 5] = [
    (MountFlags::RDONLY, &["nosuid"], &["ro", "nosuid"], &["rw"]),
    (MountFlags::NODEV.union(MountFlags::NOEXEC), &["ro", "suid"], &["ro", "nodev", "noexec"], &["nosuid"]),
    (MountFlags::NOATIME, &["ro"], &["ro", "noatime"], &["relatime"]),
    (MountFlags::NOATIME, &["ro", "noatime"], &["ro", "noatime"], &["relatime"]),
    (MountFlags::from_bits_retain(libc::MS_NOSYMFOLLOW as u32).union(MountFlags::NOSUID), &["ro"], &["ro", "nosuid"], &["nosymfollow"]),
];

/// Flags of the source, options that are refused, and a part of the error.
const REFUSED: [(MountFlags, Words, &str); 4] = [
    (MountFlags::RDONLY, &["rw"], "cannot clear locked flags MS_RDONLY"),
    (MountFlags::NODEV.union(MountFlags::NOSUID), &["dev", "suid"], "cannot clear locked flags MS_NOSUID|MS_NODEV"),
    (MountFlags::NOATIME, &["relatime"], "cannot change locked atime flags MS_NOATIME"),
    (MountFlags::NODIRATIME, &["strictatime"], "cannot change locked atime flags"),
];

#[test]
fn locked_flags_are_kept_and_not_cleared_when_asked() {
    check(|t| {
        if t.differs("runc<1.2", "keeps them only when it must") || t.differs("crun", "keeps flags of the source") {
            return Ok(());
        }
        let source = t.path().join("source");
        fs::create_dir(&source)?;
        let host = HostMount::tmpfs(&source)?;
        let bundle = |flags: MountFlags, options: &[&str]| -> Result<Bundle> {
            host.flags(flags)?;
            let mut bundle = mapped(t)?;
            let mut all = vec!["bind"];
            all.extend(options);
            bundle.mount("/mnt", "bind", &source.to_string_lossy(), &all);
            Ok(bundle)
        };
        for (flags, options, with, without) in KEPT {
            let report = t.report(&mut bundle(flags, options)?)?;
            let mount = at(&report, "/mnt")?;
            for flag in with {
                ensure!(has(mount, "options", flag), "bind,{options:?} of {flags:?} lacks {flag}: {mount}");
            }
            for flag in without {
                ensure!(!has(mount, "options", flag), "bind,{options:?} of {flags:?} has {flag}: {mount}");
            }
        }
        for (flags, options, text) in REFUSED {
            let output = t.run(&bundle(flags, options)?)?;
            let refused = output.stderr.contains(text) && output.stderr.contains("operation not permitted");
            ensure!(!output.status.success() && refused, "bind,{options:?} of {flags:?}: {output:?}");
        }
        Ok(())
    });
}
