//! `linux.uidMappings`, `linux.gidMappings`: the container's user namespace (user_namespaces(7)).
//!
//! Init starts in it without a mapped id. The runtime writes the maps, or reads those of a joined namespace, and gives objects of
//! the host to the container's root. Init waits for that and becomes that root. Only then does it make the namespaces whose
//! objects must belong to that root.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};

use super::id_maps::{IdMap, IdMaps};
use crate::error::{Doing, Error, Result};
use crate::findings::Findings;
use crate::namespaces::Namespaces;
use crate::spec;
use masu_host::procfs::Procfs;

/// The user namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserNamespace {
    /// The maps of the config. A new namespace gets them, and a joined one must have them. Empty if the config has none.
    pub maps: IdMaps,
    pub fresh: bool,
}

impl UserNamespace {
    /// Checks the mappings: a new namespace must have them, and they must map root and `user`.
    pub(crate) fn plan(linux: &spec::Linux, namespaces: &Namespaces, user: &spec::User, found: &mut Findings) -> Option<UserNamespace> {
        let uids = found.at("linux.uidMappings", IdMap::plan(&linux.uid_mappings, "linux.uidMappings"));
        let gids = found.at("linux.gidMappings", IdMap::plan(&linux.gid_mappings, "linux.gidMappings"));
        let given = !(linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty());
        if !namespaces.has(libc::CLONE_NEWUSER) {
            if given {
                found.warn("linux", "linux: id mappings mean nothing without a user namespace");
            }
            return None;
        }
        // a wrong map has been reported above
        let maps = IdMaps { uids: uids?, gids: gids? };
        let fresh = namespaces.is_fresh(libc::CLONE_NEWUSER);
        for (map, kind) in [(&maps.uids, "uid"), (&maps.gids, "gid")].into_iter().filter(|_| fresh) {
            let path = format!("linux.{kind}Mappings");
            if map.is_empty() {
                found.invalid(&path, format!("{path}: user namespaces enabled, but no {kind} mappings found"));
            } else if map.outside(0).is_none() {
                found.invalid(&path, format!("{path}: user namespaces enabled, but no mapping found for {kind} 0"));
            }
        }
        if given {
            found.at("process.user", check_user(&maps, user.uid, user.gid, &user.additional_gids));
        }
        Some(UserNamespace { maps, fresh })
    }

    /// Writes the maps of process `pid`, or compares those of a joined namespace with the config. It returns the maps. It runs in
    /// the runtime.
    pub(crate) fn settle(&self, proc: &Procfs, pid: i32) -> Result<IdMaps> {
        if self.fresh {
            for (file, map) in [("gid_map", &self.maps.gids), ("uid_map", &self.maps.uids)] {
                proc.write(&format!("{pid}/{file}"), map.text().as_bytes()).doing(|| format!("failed to update /proc/{pid}/{file}"))?;
            }
            return Ok(self.maps.clone());
        }
        let maps = IdMaps::of(proc, pid)?;
        if !(self.maps.uids.is_empty() && self.maps.gids.is_empty()) {
            if self.maps != maps {
                return Err(Error::invalid(
                    "linux.uidMappings: user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only provide one",
                ));
            }
            // containerd and CRI-O write such configs
            log::warn!("config.json has both a userns path to join and a matching userns mapping specified -- you may only provide one");
        }
        Ok(maps)
    }
}

impl IdMaps {
    /// Reads the maps of the user namespace of process `pid`, with ids as the caller sees them.
    pub(crate) fn of(proc: &Procfs, pid: i32) -> Result<IdMaps> {
        let read = |file: &str| {
            let path = format!("{pid}/{file}");
            let text = proc.read(&path).doing(|| format!("read /proc/{path}"))?;
            IdMap::parse(&String::from_utf8_lossy(&text)).doing(|| format!("/proc/{path}"))
        };
        Ok(IdMaps { uids: read("uid_map")?, gids: read("gid_map")? })
    }
}

/// Checks that the ids are mapped, because a process cannot get an unmapped id.
pub(crate) fn check_user(maps: &IdMaps, uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let unmapped = |what: &str, id: u32| {
        Err(Error::invalid(format!("process.user: unable to setup user: cannot set{what} to unmapped {what} {id} in user namespace")))
    };
    if maps.uids.outside(uid).is_none() {
        return unmapped("uid", uid);
    }
    if maps.gids.outside(gid).is_none() {
        return unmapped("gid", gid);
    }
    match groups.iter().find(|id| maps.gids.outside(**id).is_none()) {
        Some(id) => {
            Err(Error::invalid(format!("process.user.additionalGids: unable to setup user: gid {id} is not mapped in user namespace")))
        }
        None => Ok(()),
    }
}

/// Makes the caller root of its user namespace.
pub(crate) fn become_root(keep_groups: bool) -> Result<()> {
    let dropped = if keep_groups { Ok(()) } else { rustix::thread::set_thread_groups(&[]) };
    match dropped {
        // the namespace forbids setgroups(2); a process that joined it has dropped its groups before
        Ok(()) | Err(Errno::PERM) => {}
        Err(e) => return Err(e).doing(|| "drop the caller's groups"),
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(|| "become root in the user namespace: setgid 0")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(|| "become root in the user namespace: setuid 0")?;
    // with fs.suid_dumpable=1 a change of ids makes a process dumpable, and root in the namespace could trace it
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "stay non-dumpable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(fresh: i32, joined: bool, linux: &str, user: &str) -> Result<Option<UserNamespace>> {
        let joined = if joined { vec![(libc::CLONE_NEWUSER, "/u".to_owned())] } else { Vec::new() };
        let user: spec::User = serde_json::from_str(user).unwrap();
        let mut found = Findings::new();
        let plan = UserNamespace::plan(&serde_json::from_str(linux).unwrap(), &Namespaces { fresh, joined }, &user, &mut found);
        found.unless_wrong(plan)
    }

    const ALL: &str = r#"{"uidMappings":[{"containerID":0,"hostID":9,"size":5}],"gidMappings":[{"containerID":0,"hostID":7,"size":5}]}"#;

    #[test]
    fn a_fresh_one_needs_maps_and_a_joined_one_does_not() {
        assert_eq!(plan(0, false, ALL, "{}").unwrap(), None);
        assert!(plan(libc::CLONE_NEWUSER, false, ALL, "{}").unwrap().unwrap().fresh);
        assert!(plan(0, true, "{}", r#"{"uid":5000}"#).unwrap().unwrap().maps.uids.is_empty());
    }

    #[test]
    fn what_is_not_mapped_is_refused() {
        let high = ALL.replace("\"containerID\":0,\"hostID\":7", "\"containerID\":3,\"hostID\":7");
        for (linux, user, text) in [
            ("{}", "{}", "no uid mappings found"),
            (r#"{"uidMappings":[{"containerID":0,"hostID":9,"size":5}]}"#, "{}", "no gid mappings found"),
            (high.as_str(), "{}", "no mapping found for gid 0"),
            (ALL, r#"{"uid":5}"#, "cannot setuid to unmapped uid 5 in user namespace"),
            (ALL, r#"{"gid":5}"#, "cannot setgid to unmapped gid 5 in user namespace"),
            (ALL, r#"{"additionalGids":[4,5]}"#, "gid 5 is not mapped"),
        ] {
            let e = plan(libc::CLONE_NEWUSER, false, linux, user).unwrap_err();
            assert!(e.to_string().contains(text), "{linux} {user}: {e}");
        }
    }
}
