//! The options of a mount and what each sets or clears (config.md, "Linux mount options"; mount(8), mount_setattr(2)).

use crate::error::{Error, Result};
use crate::sys::mount_attr::{ATIME, Change, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME};

/// What a word does.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// Nothing: it names the default.
    Nothing,
    Set(u64),
    Clear(u64),
    /// An access time mode, one of several.
    Atime(u64),
    /// The same for all mounts below as well.
    SetAll(u64),
    ClearAll(u64),
    AtimeAll(u64),
    /// A flag of the superblock, by its name in fsconfig(2); the mount itself has no such flag.
    Super(&'static str),
    /// Propagation, and whether for all mounts below.
    Propagation(u64, bool),
    Bind,
    BindAll,
    CopyUp,
    IdMap,
}
use Effect::*;

const SHARED: u64 = libc::MS_SHARED;
const SLAVE: u64 = libc::MS_SLAVE;
const PRIVATE: u64 = libc::MS_PRIVATE;
const UNBINDABLE: u64 = libc::MS_UNBINDABLE;

/// Every word that is not data for the file system; sorted, as `features` prints them.
const OPTIONS: [(&str, Effect); 78] = [
    ("acl", Super("acl")),
    ("async", Super("async")),
    ("atime", Clear(NOATIME)),
    ("bind", Bind),
    ("defaults", Nothing),
    ("dev", Clear(NODEV)),
    ("diratime", Clear(NODIRATIME)),
    ("dirsync", Super("dirsync")),
    ("exec", Clear(NOEXEC)),
    ("idmap", IdMap),
    ("iversion", Nothing),
    ("lazytime", Super("lazytime")),
    ("loud", Nothing),
    ("mand", Super("mand")),
    ("noacl", Super("noacl")),
    ("noatime", Atime(NOATIME)),
    ("nodev", Set(NODEV)),
    ("nodiratime", Set(NODIRATIME)),
    ("noexec", Set(NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Super("nolazytime")),
    ("nomand", Super("nomand")),
    ("norelatime", Clear(0)),
    ("nostrictatime", Clear(STRICTATIME)),
    ("nosuid", Set(NOSUID)),
    ("nosymfollow", Set(NOSYMFOLLOW)),
    ("private", Propagation(PRIVATE, false)),
    ("ratime", ClearAll(NOATIME)),
    ("rbind", BindAll),
    ("rdev", ClearAll(NODEV)),
    ("rdiratime", ClearAll(NODIRATIME)),
    ("relatime", Atime(0)),
    ("remount", Nothing),
    ("rexec", ClearAll(NOEXEC)),
    ("ridmap", IdMap),
    ("rnoatime", AtimeAll(NOATIME)),
    ("rnodev", SetAll(NODEV)),
    ("rnodiratime", SetAll(NODIRATIME)),
    ("rnoexec", SetAll(NOEXEC)),
    ("rnorelatime", ClearAll(0)),
    ("rnostrictatime", ClearAll(STRICTATIME)),
    ("rnosuid", SetAll(NOSUID)),
    ("rnosymfollow", SetAll(NOSYMFOLLOW)),
    ("ro", Set(RDONLY)),
    ("rprivate", Propagation(PRIVATE, true)),
    ("rrelatime", AtimeAll(0)),
    ("rro", SetAll(RDONLY)),
    ("rrw", ClearAll(RDONLY)),
    ("rshared", Propagation(SHARED, true)),
    ("rslave", Propagation(SLAVE, true)),
    ("rstrictatime", AtimeAll(STRICTATIME)),
    ("rsuid", ClearAll(NOSUID)),
    ("rsymfollow", ClearAll(NOSYMFOLLOW)),
    ("runbindable", Propagation(UNBINDABLE, true)),
    ("rw", Clear(RDONLY)),
    ("shared", Propagation(SHARED, false)),
    ("silent", Nothing),
    ("slave", Propagation(SLAVE, false)),
    ("strictatime", Atime(STRICTATIME)),
    ("suid", Clear(NOSUID)),
    ("symfollow", Clear(NOSYMFOLLOW)),
    ("sync", Super("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(UNBINDABLE, false)),
    // crun's recursive words for flags that a mount cannot have alone
    ("rasync", Nothing),
    ("rdirsync", Nothing),
    ("rmand", Nothing),
    ("rnomand", Nothing),
    ("rsync", Nothing),
    // fstab's words for programs that are not us
    ("_netdev", Nothing),
    ("auto", Nothing),
    ("noauto", Nothing),
    ("nofail", Nothing),
    ("nouser", Nothing),
    ("user", Nothing),
    // podman's: relabelling is done by the caller
    ("z", Nothing),
    ("Z", Nothing),
    ("", Nothing),
];

/// The words that `features` lists: those of the spec which this library carries out.
pub fn supported() -> impl Iterator<Item = &'static str> {
    OPTIONS[..64].iter().map(|(name, _)| *name).filter(|name| !matches!(*name, "acl" | "noacl" | "idmap" | "ridmap"))
}

/// A mount's options, sorted by what they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub bind: bool,
    pub recursive_bind: bool,
    /// Flags of the mount.
    pub change: Change,
    /// Flags of the mount and all below.
    pub change_all: Change,
    /// Propagations in the order given: flag, and whether for all below.
    pub propagation: Vec<(u64, bool)>,
    /// Flags and `key=value` for the file system.
    pub data: Vec<(String, Option<String>)>,
    pub copy_up: bool,
}

impl Options {
    /// Sorts the words; the last of two that contradict each other wins. `destination` is for the error's text.
    pub fn plan(words: &[String], destination: &str) -> Result<Options> {
        let mut options = Options::default();
        for word in words {
            if word.contains('\0') {
                return Err(Error::invalid(format!("invalid mount {destination}: mount field contains null byte")));
            }
            // only the words that need it may contain a comma, and none of the flags do
            let Some((_, effect)) = OPTIONS.iter().find(|(name, _)| name == word) else {
                let (key, value) = word.split_once('=').map_or((word.as_str(), None), |(k, v)| (k, Some(v.to_owned())));
                if key == "idmap" || key == "ridmap" {
                    return Err(Error::unsupported(format!(
                        "mount {destination}: id-mapped mounts (idmap, uidMappings, gidMappings) are not supported yet"
                    )));
                }
                options.data.push((key.to_owned(), value));
                continue;
            };
            let (one, all) = (&mut options.change, &mut options.change_all);
            match *effect {
                Nothing => {}
                Set(flag) => set(one, flag),
                Clear(flag) => clear(one, flag),
                Atime(mode) => atime(one, mode),
                SetAll(flag) => set(all, flag),
                ClearAll(flag) => clear(all, flag),
                AtimeAll(mode) => atime(all, mode),
                Super(name) => options.data.push((name.to_owned(), None)),
                Propagation(flag, recursive) => options.propagation.push((flag, recursive)),
                Bind => options.bind = true,
                BindAll => (options.bind, options.recursive_bind) = (true, true),
                CopyUp => options.copy_up = true,
                IdMap => {
                    return Err(Error::unsupported(format!(
                        "mount {destination}: id-mapped mounts (idmap, uidMappings, gidMappings) are not supported yet"
                    )));
                }
            }
        }
        Ok(options)
    }
}

fn set(change: &mut Change, flag: u64) {
    change.set |= flag;
    change.clear &= !flag;
}

fn clear(change: &mut Change, flag: u64) {
    // an access time mode is a number, not a bit: the kernel wants the whole of it cleared or none
    let mask = if flag & ATIME != 0 { ATIME } else { flag };
    change.set &= !flag;
    change.clear |= mask;
}

fn atime(change: &mut Change, mode: u64) {
    change.set = change.set & !ATIME | mode;
    change.clear |= ATIME;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Options {
        Options::plan(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "/x").unwrap()
    }

    #[test]
    fn the_last_of_two_wins() {
        assert_eq!(plan(&["ro", "rw"]).change, Change { set: 0, clear: RDONLY, propagation: 0 });
        assert_eq!(plan(&["rw", "ro"]).change, Change { set: RDONLY, clear: 0, propagation: 0 });
        assert_eq!(plan(&["noatime", "strictatime"]).change, Change { set: STRICTATIME, clear: ATIME, propagation: 0 });
        assert_eq!(plan(&["strictatime", "relatime"]).change, Change { set: 0, clear: ATIME, propagation: 0 });
    }

    #[test]
    fn what_is_no_flag_is_data() {
        let o = plan(&["rbind", "rprivate", "mode=755", "size=65536k", "newinstance", "rro"]);
        assert!(o.bind && o.recursive_bind);
        assert_eq!(o.propagation, [(PRIVATE, true)]);
        assert_eq!(o.change_all.set, RDONLY);
        assert_eq!(o.data, [("mode".into(), Some("755".into())), ("size".into(), Some("65536k".into())), ("newinstance".into(), None)]);
    }

    #[test]
    fn no_word_is_listed_twice() {
        let mut names: Vec<_> = OPTIONS.iter().map(|o| o.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
        assert!(supported().count() >= 58);
    }
}
