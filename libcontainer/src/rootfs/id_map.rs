//! Id-mapped mounts: files appear with other owners than on disk (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! The kernel takes such a map from a user namespace. The runtime makes one for each distinct map, before it clones init. It
//! makes them with a child that exits at once and stays a zombie, so nothing is left if the runtime is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::options::Options;
use crate::error::{Doing, Error, Kind, Result};
use crate::namespaces::{IdMap, IdMaps};
use crate::spec;
use masu_host::procfs::Procfs;
use masu_host::sys::mount_attr::set_id_map;

/// The id mapping of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMapped {
    pub map: Map,
    /// Also maps the mounts below.
    pub recursive: bool,
}

/// The place of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// The index in the plan's list.
    Listed(usize),
    /// The map of the container's user namespace.
    Container,
}

/// Plans the id map of one mount and adds it to `maps`, unless it is there. A mount with mappings needs no option; crun's option
/// has mappings itself. `container` is the map of the container's user namespace, if there is one. It is empty if the namespace
/// is joined and the config has no mappings.
pub(super) fn plan(mount: &spec::Mount, options: &Options, container: Option<&IdMaps>, maps: &mut Vec<IdMaps>) -> Result<Option<IdMapped>> {
    let target = &mount.destination;
    let invalid = |why: &str| Error::invalid(format!("invalid mount {target}: {why}"));
    let option = options.id_map.as_ref();
    if option.is_none() && mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        return Ok(None);
    }
    let own = IdMaps {
        uids: IdMap::plan(&mount.uid_mappings, &format!("invalid mount {target}: uidMappings"))?,
        gids: IdMap::plan(&mount.gid_mappings, &format!("invalid mount {target}: gidMappings"))?,
    };
    let written = option.and_then(|o| o.maps.as_deref()).map(|text| parse(text, target, container)).transpose()?;
    let is_own = own != IdMaps::default();
    let recursive = option.is_some_and(|o| o.recursive);
    let wanted = match written {
        Some(written) if is_own && written != own => {
            return Err(invalid("the mappings of the option idmap are not those of uidMappings and gidMappings"));
        }
        Some(written) => written,
        None => own,
    };
    // the option without mappings means the container's map, and so do equal mappings
    if let Some(container) = container
        && (wanted == IdMaps::default() || wanted == *container)
    {
        // a new file system of the container already has the container's ids
        return Ok(options.bind.then_some(IdMapped { map: Map::Container, recursive }));
    }
    if wanted.uids.is_empty() || wanted.gids.is_empty() {
        return Err(invalid("id-mapped mounts must have both uid and gid mappings specified"));
    }
    let map = maps.iter().position(|map| *map == wanted).unwrap_or_else(|| {
        maps.push(wanted);
        maps.len() - 1
    });
    Ok(Some(IdMapped { map: Map::Listed(map), recursive }))
}

/// Parses crun's form, `uids=INSIDE-OUTSIDE-SIZE#...;gids=...`. After `@`, OUTSIDE is an id in the container.
fn parse(text: &str, target: &str, container: Option<&IdMaps>) -> Result<IdMaps> {
    let invalid = |why: String| Error::invalid(format!("invalid mount {target}: {why}"));
    let mut maps = IdMaps::default();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (map, own, ranges) = match part.split_once('=') {
            Some(("uids", ranges)) => (&mut maps.uids, container.map(|c| &c.uids), ranges),
            Some(("gids", ranges)) => (&mut maps.gids, container.map(|c| &c.gids), ranges),
            _ => return Err(invalid(format!("invalid option {part:?} specified for idmap"))),
        };
        let mut list = Vec::new();
        for range in ranges.split('#').filter(|range| !range.is_empty()) {
            let (relative, numbers) = range.strip_prefix('@').map_or((false, range), |rest| (true, rest));
            let numbers: Option<Vec<u32>> = numbers.split('-').map(|n| n.parse().ok()).collect();
            let Some([inside, outside, size]) = numbers.as_deref() else {
                return Err(invalid(format!("invalid mapping specified {range:?}")));
            };
            let mut mapping = spec::IdMapping { container_id: *inside, host_id: *outside, size: *size };
            if relative {
                let own = own.ok_or_else(|| invalid("specified a relative mapping without user namespace mappings".into()))?;
                mapping.host_id = own
                    .outside(*outside)
                    .ok_or_else(|| invalid(format!("could not find a user namespace mapping for the relative mapping {range:?}")))?;
            }
            list.push(mapping);
        }
        *map = IdMap::plan(&list, &format!("invalid mount {target}: idmap"))?;
    }
    Ok(maps)
}

/// Makes one user namespace for each of `maps`, in their order.
pub(crate) fn make(maps: &[IdMaps], proc: &Procfs) -> Result<Vec<OwnedFd>> {
    maps.iter().map(|map| map.user_namespace(proc)).collect()
}

impl IdMapped {
    /// Maps the ids of a detached mount. `namespaces` are those of [`make`].
    pub(super) fn apply(self, mount: BorrowedFd<'_>, namespaces: &[OwnedFd]) -> Result<()> {
        let namespace = match self.map {
            Map::Listed(i) => namespaces.get(i),
            Map::Container => None,
        };
        let namespace = namespace.ok_or_else(|| Error::new(Kind::Internal, "the user namespace of an id map is not there"))?;
        let result = set_id_map(mount, self.recursive, namespace.as_fd());
        result.doing(|| match result {
            Err(Errno::INVAL) => "failed to set MOUNT_ATTR_IDMAP (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
            _ => "failed to set MOUNT_ATTR_IDMAP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> IdMaps {
        let map = |json: &str| IdMap::plan(&serde_json::from_str::<Vec<_>>(json).unwrap(), "x").unwrap();
        IdMaps {
            uids: map(r#"[{"containerID":0,"hostID":0,"size":1},{"containerID":1,"hostID":2,"size":1000}]"#),
            gids: map(r#"[{"containerID":0,"hostID":5000,"size":10}]"#),
        }
    }

    type Planned = Option<(Map, bool)>;

    /// The maps as text for the kernel, and the map of each mount.
    fn plan_all(mounts: &str, container: Option<&IdMaps>) -> Result<(Vec<String>, Vec<Planned>)> {
        let mut maps = Vec::new();
        let mut plans = Vec::new();
        for mount in serde_json::from_str::<Vec<spec::Mount>>(mounts).unwrap() {
            let options = Options::plan(&mount.options, &mount.destination)?;
            plans.push(plan(&mount, &options, container, &mut maps)?.map(|own| (own.map, own.recursive)));
        }
        Ok((maps.iter().map(|map| format!("{}/{}", map.uids.text(), map.gids.text()).replace('\n', ",")).collect(), plans))
    }

    const MAPS: &str = r#""uidMappings":[{"containerID":0,"hostID":7,"size":2}],"gidMappings":[{"containerID":0,"hostID":8,"size":2}]"#;

    #[test]
    fn equal_maps_are_made_once() {
        let mounts = format!(
            r#"[{{"destination":"/a",{MAPS}}}, {{"destination":"/b"}}, {{"destination":"/c","options":["ridmap"],{MAPS}}},
                {{"destination":"/d","options":["idmap=uids=0-7-2;gids=0-8-2"]}}, {{"destination":"/e","options":["idmap=uids=1-1-1#3-3-1;gids=0-8-2"]}}]"#
        );
        let (maps, plans) = plan_all(&mounts, None).unwrap();
        assert_eq!(maps, ["0 7 2,/0 8 2,", "1 1 1,3 3 1,/0 8 2,"]);
        let listed = |map, recursive| Some((Map::Listed(map), recursive));
        assert_eq!(plans, [listed(0, false), None, listed(0, true), listed(0, false), listed(1, false)]);
    }

    #[test]
    fn maps_may_be_the_container_s_or_relative_to_them() {
        let same = r#""uidMappings":[{"containerID":1,"hostID":2,"size":1000},{"containerID":0,"hostID":0,"size":1}],
                      "gidMappings":[{"containerID":0,"hostID":5000,"size":10}]"#;
        let mounts = format!(
            r#"[{{"destination":"/a","options":["bind","idmap"]}}, {{"destination":"/b","options":["idmap=uids=@1-3-10#0-50-1;gids=@0-1-1"]}},
                {{"destination":"/c","options":["rbind","ridmap"],{same}}}, {{"destination":"/d","options":["idmap"]}}]"#
        );
        let (maps, plans) = plan_all(&mounts, Some(&container())).unwrap();
        assert_eq!(maps, ["0 50 1,1 4 10,/0 5001 1,"]);
        assert_eq!(plans, [Some((Map::Container, false)), Some((Map::Listed(0), false)), Some((Map::Container, true)), None]);
        // a joined user namespace, whose maps are not in the config
        let joined = plan_all(r#"[{"destination":"/a","options":["bind","idmap"]}]"#, Some(&IdMaps::default())).unwrap();
        assert_eq!(joined.1, [Some((Map::Container, false))]);
        for (mounts, container, text) in [
            (r#"[{"destination":"/a","options":["idmap"]}]"#, None, "must have both uid and gid mappings"),
            (r#"[{"destination":"/a","options":["idmap=uids=@0-0-1;gids=0-0-1"]}]"#, None, "without user namespace mappings"),
            (
                r#"[{"destination":"/a","options":["idmap=gids=@0-10-1;uids=0-0-1"]}]"#,
                Some(container()),
                "could not find a user namespace mapping",
            ),
            (r#"[{"destination":"/a","options":["idmap=uids=0-1-x;gids=0-0-1"]}]"#, None, "invalid mapping specified \"0-1-x\""),
            (r#"[{"destination":"/a","options":["idmap=uids=0-1-1-1;gids=0-0-1"]}]"#, None, "invalid mapping specified"),
            (r#"[{"destination":"/a","options":["idmap=0-1-1"]}]"#, None, "invalid option \"0-1-1\" specified"),
        ] {
            let e = plan_all(mounts, container.as_ref()).unwrap_err();
            assert!(e.to_string().contains(text), "{mounts}: {e}");
        }
    }
}
