//! The root file system that Create asks for (containerd.types.Mount): what is to be mounted where. mount.rs mounts it.

use std::path::{Component, Path};

use libcontainer::error::{Error, Result};
use libcontainer::namespaces::{IdMap, IdMaps};
use libcontainer::spec::IdMapping;
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::rpc::messages::Mount;

/// One mount. Options are those of containerd's mount package.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) source: String,
    pub(crate) kind: String,
    /// Below the root file system; empty is that itself.
    pub(crate) target: String,
    pub(crate) how: How,
    pub(crate) flags: MountFlags,
    pub(crate) propagation: MountPropagationFlags,
    /// What the file system is told.
    pub(crate) data: Vec<String>,
    pub(crate) ids: Option<Ids>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum How {
    Bind {
        recursive: bool,
    },
    New,
    /// The source is a file, which a loop device shows.
    Loop {
        direct: bool,
    },
}

/// How the ids of a mount are mapped.
#[derive(Debug, PartialEq)]
pub(crate) struct Ids {
    pub(crate) maps: IdMaps,
    /// An overlay cannot be mapped, but its layers can: the folder that holds all of them.
    pub(crate) layers_in: Option<String>,
}

/// Plans all, in order.
pub(crate) fn plan(mounts: &[Mount]) -> Result<Vec<Plan>> {
    mounts.iter().map(|m| Plan::new(m).map_err(|e| e.context(format!("mount {} of type {}", m.source, m.kind)))).collect()
}

impl Plan {
    fn new(mount: &Mount) -> Result<Plan> {
        for kind in ["format/", "mkdir/", "mkfs/"] {
            if mount.kind.starts_with(kind) {
                return Err(Error::invalid(format!("mounts of type {kind}… are for containerd's mount manager, not for a shim")));
            }
        }
        if [&mount.source, &mount.kind, &mount.target].into_iter().chain(&mount.options).any(|text| text.contains('\0')) {
            return Err(Error::invalid("a zero byte"));
        }
        let target = mount.target.trim_start_matches('/');
        if Path::new(target).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(Error::invalid(format!("the target {} leads out of the root file system", mount.target)));
        }
        let mut plan = Plan {
            source: mount.source.clone(),
            kind: mount.kind.clone(),
            target: target.to_owned(),
            how: if mount.kind == "bind" { How::Bind { recursive: false } } else { How::New },
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: Vec::new(),
            ids: None,
        };
        let (mut has_loop, mut uids, mut gids) = (false, None, None);
        for option in &mount.options {
            if let Some((set, flag)) = flag(option) {
                plan.flags.set(flag, set);
                continue;
            }
            match option.as_str() {
                "defaults" => {}
                "bind" if plan.how == How::New => plan.how = How::Bind { recursive: false },
                "bind" => {}
                "rbind" => plan.how = How::Bind { recursive: true },
                "private" | "slave" | "shared" | "unbindable" | "rprivate" | "rslave" | "rshared" | "runbindable" => {
                    plan.propagation = propagation(option);
                }
                "loop" => has_loop = true,
                other if other.starts_with("X-containerd.") => {
                    return Err(Error::invalid(format!("the mount option {other} is for containerd, not for a shim")));
                }
                other => match other.split_once('=') {
                    Some(("uidmap", ranges)) => uids = Some(id_map(option, ranges)?),
                    Some(("gidmap", ranges)) => gids = Some(id_map(option, ranges)?),
                    _ => plan.data.push(option.clone()),
                },
            }
        }
        if has_loop {
            if plan.how != How::New {
                return Err(Error::invalid("the mount option loop is for a file system, not for a bind"));
            }
            let direct = plan.data.iter().any(|option| option == "direct-io");
            plan.data.retain(|option| option != "direct-io");
            plan.how = How::Loop { direct };
        }
        plan.ids = match (uids, gids) {
            (None, None) => None,
            (Some(uids), Some(gids)) => Some(plan.map_layers(IdMaps { uids, gids })?),
            // mapped by halves, the files would belong to nobody
            _ => return Err(Error::invalid("of the mount options uidmap and gidmap one is there without the other")),
        };
        Ok(plan)
    }

    /// For an overlay, finds the folder of its layers, and names them from there.
    fn map_layers(&mut self, maps: IdMaps) -> Result<Ids> {
        if self.kind != "overlay" || self.how != How::New {
            return Ok(Ids { maps, layers_in: None });
        }
        let layers = self.data.iter_mut().find_map(|option| option.strip_prefix("lowerdir=").map(str::to_owned).map(|list| (option, list)));
        let Some((option, list)) = layers else {
            return Err(Error::invalid("an overlay whose ids are mapped has no option lowerdir"));
        };
        let layers: Vec<&Path> = list.split(':').map(Path::new).collect();
        let is_plain = |path: &Path| path.is_absolute() && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
        if let Some(odd) = layers.iter().find(|path| !is_plain(path)) {
            return Err(Error::invalid(format!("the layer {:?} of an overlay whose ids are mapped is no absolute path", odd)));
        }
        let mut common = layers.first().and_then(|path| path.parent()).unwrap_or(Path::new("/"));
        while !layers.iter().all(|path| path.starts_with(common) && *path != common) {
            common = common.parent().unwrap_or(Path::new("/"));
        }
        if common == Path::new("/") {
            return Err(Error::invalid("the layers of an overlay whose ids are mapped have no folder in common"));
        }
        let names: Vec<_> = layers.iter().filter_map(|path| path.strip_prefix(common).ok()?.to_str()).collect();
        *option = format!("lowerdir={}", names.join(":"));
        Ok(Ids { maps, layers_in: common.to_str().map(str::to_owned) })
    }
}

/// Whether a word sets or clears which flag.
fn flag(option: &str) -> Option<(bool, MountFlags)> {
    Some(match option {
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        _ => return None,
    })
}

/// `INSIDE:OUTSIDE:SIZE`, any number with commas between.
fn id_map(option: &str, ranges: &str) -> Result<IdMap> {
    let range = |text: &str| {
        let mut numbers = text.split(':').map(|n| n.parse().ok());
        let mut range = IdMapping::default();
        (range.container_id, range.host_id, range.size) = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(range)
    };
    let ranges: Option<Vec<_>> = ranges.split(',').map(range).collect();
    let bad = || Error::invalid(format!("the mount option {option} is no list of INSIDE:OUTSIDE:SIZE"));
    IdMap::plan(&ranges.ok_or_else(bad)?, &format!("the mount option {option}"))
}

fn propagation(option: &str) -> MountPropagationFlags {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(name) => (name, MountPropagationFlags::REC),
        None => (option, MountPropagationFlags::empty()),
    };
    recursive
        | match name {
            "private" => MountPropagationFlags::PRIVATE,
            "slave" => MountPropagationFlags::DOWNSTREAM,
            "shared" => MountPropagationFlags::SHARED,
            _ => MountPropagationFlags::UNBINDABLE,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, options: &[&str]) -> Result<Plan> {
        let options = options.iter().map(|o| o.to_string()).collect();
        Plan::new(&Mount { kind: kind.into(), source: "/s".into(), target: String::new(), options })
    }

    #[test]
    fn options_are_flags_or_data() {
        let plan = of("overlay", &["ro", "nosuid", "rslave", "lowerdir=/a:/b", "index=off", "rw", "defaults"]).unwrap();
        assert_eq!((plan.flags, plan.how, plan.ids), (MountFlags::NOSUID, How::New, None));
        assert_eq!(plan.propagation, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
        assert_eq!(plan.data, ["lowerdir=/a:/b", "index=off"]);
        assert_eq!(of("bind", &["rbind", "bind"]).unwrap().how, How::Bind { recursive: true });
        assert_eq!(of("none", &["bind"]).unwrap().how, How::Bind { recursive: false });
        let plan = of("ext4", &["direct-io", "loop", "ro"]).unwrap();
        assert_eq!((plan.how, plan.data.len()), (How::Loop { direct: true }, 0));
        assert_eq!(of("9p", &["direct-io"]).unwrap().data, ["direct-io"]);
    }

    #[test]
    fn layers_are_mapped_by_the_folder_that_holds_them() {
        let maps = ["uidmap=0:666:1000,1000:6666:64536", "gidmap=0:7:1"];
        let layered = |layers: &str| of("overlay", &[layers, maps[0], "upperdir=/u", maps[1]]);
        let plan = layered("lowerdir=/v/snap/12/fs:/v/snap/1/fs").unwrap();
        let ids = plan.ids.unwrap();
        assert_eq!(ids.layers_in.as_deref(), Some("/v/snap"));
        assert_eq!((ids.maps.uids.text(), ids.maps.gids.text()), ("0 666 1000\n1000 6666 64536\n".into(), "0 7 1\n".into()));
        assert_eq!(plan.data, ["lowerdir=12/fs:1/fs", "upperdir=/u"]);
        assert_eq!(layered("lowerdir=/v/1/fs").unwrap().data[0], "lowerdir=fs");
        assert_eq!(layered("lowerdir=/v/1:/v/1/2").unwrap().data[0], "lowerdir=1:1/2");
        assert_eq!(of("ext4", &[maps[0], maps[1]]).unwrap().ids.unwrap().layers_in, None);
        for bad in ["index=off", "lowerdir=/a/b:/c/d", "lowerdir=/a", "lowerdir=a/b", "lowerdir=/a/../b", "lowerdir=/a/b:", "lowerdir="] {
            layered(bad).unwrap_err();
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (option, text) in [
            ("uidmap=0:1:1", "without the other"),
            ("gidmap=0:1", "no list of"),
            ("gidmap=0:1:1:1", "no list of"),
            ("uidmap=", "no list of"),
            ("uidmap=0:1:0", "is empty"),
            ("uidmap=-1:1:1", "no list of"),
            ("X-containerd.mkdir.path=/x", "not for a shim"),
        ] {
            let e = of("ext4", &[option]).unwrap_err();
            assert!(e.text().contains(text), "{option}: {e}");
        }
        assert!(of("bind", &["loop"]).unwrap_err().text().contains("not for a bind"));
        assert!(of("mkfs/ext4", &[]).unwrap_err().text().contains("mount manager"));
        let out = Mount { kind: "tmpfs".into(), target: "a/../../b".into(), ..Mount::default() };
        assert_eq!(plan(&[out]).unwrap_err().text(), "mount  of type tmpfs: the target a/../../b leads out of the root file system");
    }
}
