//! Id-mapped mounts of containers without a user namespace.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Test, check};
use serde_json::{Value, json};

use super::HostMount;

type Ranges<'a> = &'a [[u32; 3]];

/// A mapping of the config: ids from `inside` on become ids from `outside` on.
fn maps(ranges: Ranges<'_>) -> Value {
    ranges.iter().map(|[inside, outside, size]| json!({"containerID": inside, "hostID": outside, "size": size})).collect()
}

fn mount(bundle: &mut Bundle, destination: &str, source: &Path, options: &[&str], uids: Ranges<'_>, gids: Ranges<'_>) {
    bundle.push(
        "/mounts",
        json!({
            "destination": destination, "type": "bind", "source": source, "options": options,
            "uidMappings": maps(uids), "gidMappings": maps(gids),
        }),
    );
}

/// Whether the runtime lacks these mounts.
fn lacks(t: &Test) -> bool {
    t.differs("runc<1.2", "has id-mapped mounts only with a user namespace") || t.differs("crun<1.9", "knows no ridmap")
}

/// A directory on the host with files of several owners, and a mount below it with the same files.
fn source(t: &Test) -> Result<(std::path::PathBuf, HostMount)> {
    let source = t.path().join("source");
    fs::create_dir_all(source.join("inner"))?;
    let inner = HostMount::tmpfs(&source.join("inner"))?;
    for folder in [source.clone(), source.join("inner")] {
        for (name, uid, gid) in [("root", 0, 0), ("first", 100, 211), ("second", 101, 222)] {
            fs::write(folder.join(name), "")?;
            lchown(folder.join(name), Some(uid), Some(gid))?;
        }
    }
    Ok((source, inner))
}

/// The owners of files as the container sees them.
pub(super) fn owners(t: &Test, bundle: &mut Bundle, files: &[&str]) -> Result<Vec<String>> {
    let mut words = vec!["/bin/payload", "stat"];
    words.extend(files);
    let seen = t.run(bundle.args(words))?.ok()?.stdout;
    seen.lines().map(|line| line.rsplit(' ').next().map(str::to_owned).context("an owner")).collect()
}

#[test]
fn owners_are_mapped() {
    check(|t| {
        if lacks(t) {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let mut bundle = t.bundle()?;
        let (uids, gids) = ([[0, 100_000, 65_536]], [[0, 200_000, 65_536]]);
        mount(&mut bundle, "/same", &source, &["bind"], &uids, &gids);
        mount(&mut bundle, "/again", &source, &["bind", "ro"], &uids, &gids);
        // several ranges, in any order, and an id outside all ranges
        mount(&mut bundle, "/ranges", &source, &["bind", "idmap"], &[[101, 7, 1], [100, 9, 1]], &[[200, 1000, 12], [222, 5, 1]]);
        bundle.mount("/plain", "bind", &source.to_string_lossy(), &["bind"]);
        let files = ["/same/root", "/same/second", "/again/first", "/ranges/first", "/ranges/second", "/ranges/root", "/plain/first"];
        let expected = ["100000:200000", "100101:200222", "100100:200211", "9:1011", "7:5", "65534:65534", "100:211"];
        assert_eq!(owners(t, &mut bundle, &files)?, expected);
        // in the other direction: an unmapped id cannot own a file, and a mapped id is stored translated
        bundle.args(["/bin/payload", "try-write", "/same/new"]);
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "/same/new EOVERFLOW\n");
        Ok(())
    });
}

#[test]
fn a_file_made_is_stored_mapped_back() {
    check(|t| {
        use std::os::unix::fs::MetadataExt;
        if lacks(t) {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let mut bundle = t.bundle()?;
        mount(&mut bundle, "/mnt", &source, &["bind"], &[[1000, 0, 10]], &[[2000, 0, 10]]);
        // nobody may write a file with an unmapped owner
        lchown(&source, Some(1000), Some(2000))?;
        bundle.args(["/bin/payload", "write", "/mnt/new", "x", "then", "stat", "/mnt/new"]);
        ensure!(t.run(&bundle)?.ok()?.stdout.contains(" 0:0"), "the file is not its maker's");
        let data = fs::metadata(source.join("new"))?;
        assert_eq!((data.uid(), data.gid()), (1000, 2000));
        Ok(())
    });
}

#[test]
fn mounts_below_are_mapped_only_by_ridmap() {
    check(|t| {
        if lacks(t) {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let (uids, gids) = ([[0, 1000, 500]], [[0, 2000, 500]]);
        for (option, expected) in [(None, "100:211"), (Some("idmap"), "100:211"), (Some("ridmap"), "1100:2211")] {
            let mut bundle = t.bundle()?;
            let mut options = vec!["rbind"];
            options.extend(option);
            mount(&mut bundle, "/mnt", &source, &options, &uids, &gids);
            let output = owners(t, &mut bundle, &["/mnt/first", "/mnt/inner/first"]);
            if option == Some("ridmap") && output.as_ref().is_err_and(|e| format!("{e:#}").contains("on this kernel")) {
                return t.skip("tmpfs takes no id map on this kernel (6.3)");
            }
            assert_eq!(output?, ["1100:2211", expected], "{option:?}");
        }
        Ok(())
    });
}

#[test]
fn crun_s_option_with_ranges_and_any_file_system() {
    check(|t| {
        if t.differs("runc", "knows no mappings in the option, and maps binds only") {
            return Ok(());
        }
        let (source, _inner) = source(t)?;
        let mut bundle = t.bundle()?;
        let source = source.to_string_lossy().into_owned();
        bundle.mount("/mnt", "bind", &source, &["bind", "idmap=uids=100-0-1#101-1-5;gids=211-3-1#222-4-1"]);
        bundle.mount("/tmpfs", "tmpfs", "tmpfs", &["idmap=uids=0-0-1;gids=0-7-1", "mode=1711"]);
        bundle.args(["/bin/payload", "stat", "/mnt/first", "/mnt/second", "/tmpfs"]);
        let output = t.run(&bundle)?;
        if output.stderr.contains("on this kernel") {
            return t.skip("tmpfs takes no id map on this kernel (6.3)");
        }
        let expected = "/mnt/first file 0 644 0:3\n/mnt/second file 0 644 1:4\n/tmpfs dir 1711 0:7\n";
        if t.differs("crun", "makes a mapped file system without its options") {
            return Ok(());
        }
        assert_eq!(output.ok()?.stdout, expected);
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_a_map_is_said() {
    check(|t| {
        if t.differs("runc", "has other words, or takes it for data of the file system") || t.differs("crun", "has other words") {
            return Ok(());
        }
        let source = t.path().to_owned();
        let both = [[0, 0, 10]];
        let wrong: [(&str, &[&str], Ranges, Ranges); 7] = [
            ("must have both uid and gid mappings", &["bind"], &both, &[]),
            ("must have both uid and gid mappings", &["bind", "idmap"], &[], &[]),
            ("0:0:10 and 9:100:1 overlap", &["bind"], &[[0, 0, 10], [9, 100, 1]], &both),
            ("invalid mapping specified \"0-1\"", &["bind", "idmap=uids=0-1;gids=0-0-1"], &[], &[]),
            ("invalid option \"pids=0-0-1\"", &["bind", "ridmap=pids=0-0-1"], &[], &[]),
            ("relative mapping without user namespace", &["bind", "idmap=uids=@0-0-1;gids=0-0-1"], &[], &[]),
            ("are not those of uidMappings", &["bind", "idmap=uids=0-1-1;gids=0-1-1"], &both, &both),
        ];
        for (text, options, uids, gids) in wrong {
            let mut bundle = t.bundle()?;
            mount(&mut bundle, "/mnt", &source, options, uids, gids);
            let output = t.run(&bundle)?;
            ensure!(!output.status.success() && output.stderr.contains(text), "{options:?}: {output:?}");
        }
        Ok(())
    });
}
