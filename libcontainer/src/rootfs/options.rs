//! The options of a mount and their effects (config.md, "Linux mount options"; mount(8), mount_setattr(2)).

use crate::error::{Error, Result};
use masu_host::sys::mount_attr::{ATIME, Change, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, RELATIME, STRICTATIME};

/// The effect of an option.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// None: the option names the default.
    Nothing,
    /// None in fsconfig(2) and mount_setattr(2), but the option counts as a flag.
    Flag,
    Set(u64),
    Clear(u64),
    /// Sets the access time mode.
    Atime(u64),
    /// Removes the access time mode.
    NotAtime(u64),
    /// These three are recursive: they also change all mounts below.
    SetAll(u64),
    ClearAll(u64),
    AtimeAll(u64),
    /// A flag of the superblock, by its name in fsconfig(2). The mount itself has no such flag.
    Super(&'static str),
    /// The same under crun's recursive name. A bind mount cannot change it.
    SuperAll(&'static str),
    /// A propagation, and whether it is recursive.
    Propagation(u64, bool),
    Bind,
    BindAll,
    CopyUp,
    CopySymlink,
    SourceNoFollow,
    TargetNoFollow,
    /// Maps ids, with the mount's mappings or the container's; whether it is recursive.
    IdMap(bool),
    Remount,
}
use Effect::*;

const SHARED: u64 = libc::MS_SHARED;
const SLAVE: u64 = libc::MS_SLAVE;
const PRIVATE: u64 = libc::MS_PRIVATE;
const UNBINDABLE: u64 = libc::MS_UNBINDABLE;

/// All options that are not data for the file system, sorted as `features` prints them. They are those of the specification and
/// of crun: copy-symlink, dest-nofollow, src-nofollow, and recursive names of superblock flags.
const OPTIONS: [(&str, Effect); 70] = [
    ("async", Super("async")),
    ("atime", NotAtime(NOATIME)),
    ("bind", Bind),
    ("copy-symlink", CopySymlink),
    ("defaults", Nothing),
    ("dest-nofollow", TargetNoFollow),
    ("dev", Clear(NODEV)),
    ("diratime", Clear(NODIRATIME)),
    ("dirsync", Super("dirsync")),
    ("exec", Clear(NOEXEC)),
    ("idmap", IdMap(false)),
    // file systems with i_version update it without the option
    ("iversion", Flag),
    ("lazytime", Super("lazytime")),
    // loud and silent change only the kernel's log
    ("loud", Flag),
    ("mand", Super("mand")),
    ("noatime", Atime(NOATIME)),
    ("nodev", Set(NODEV)),
    ("nodiratime", Set(NODIRATIME)),
    ("noexec", Set(NOEXEC)),
    ("noiversion", Flag),
    ("nolazytime", Super("nolazytime")),
    ("nomand", Super("nomand")),
    ("norelatime", NotAtime(RELATIME)),
    ("nostrictatime", NotAtime(STRICTATIME)),
    ("nosuid", Set(NOSUID)),
    ("nosymfollow", Set(NOSYMFOLLOW)),
    ("private", Propagation(PRIVATE, false)),
    ("rasync", SuperAll("async")),
    ("ratime", ClearAll(NOATIME)),
    ("rbind", BindAll),
    ("rdev", ClearAll(NODEV)),
    ("rdiratime", ClearAll(NODIRATIME)),
    ("rdirsync", SuperAll("dirsync")),
    ("relatime", Atime(RELATIME)),
    ("remount", Remount),
    ("rexec", ClearAll(NOEXEC)),
    ("ridmap", IdMap(true)),
    ("rmand", SuperAll("mand")),
    ("rnoatime", AtimeAll(NOATIME)),
    ("rnodev", SetAll(NODEV)),
    ("rnodiratime", SetAll(NODIRATIME)),
    ("rnoexec", SetAll(NOEXEC)),
    ("rnomand", SuperAll("nomand")),
    ("rnorelatime", Nothing),
    ("rnostrictatime", ClearAll(STRICTATIME)),
    ("rnosuid", SetAll(NOSUID)),
    ("rnosymfollow", SetAll(NOSYMFOLLOW)),
    ("ro", Set(RDONLY)),
    ("rprivate", Propagation(PRIVATE, true)),
    ("rrelatime", AtimeAll(RELATIME)),
    ("rro", SetAll(RDONLY)),
    ("rrw", ClearAll(RDONLY)),
    ("rshared", Propagation(SHARED, true)),
    ("rslave", Propagation(SLAVE, true)),
    ("rstrictatime", AtimeAll(STRICTATIME)),
    ("rsuid", ClearAll(NOSUID)),
    ("rsymfollow", ClearAll(NOSYMFOLLOW)),
    ("rsync", SuperAll("sync")),
    ("runbindable", Propagation(UNBINDABLE, true)),
    ("rw", Clear(RDONLY)),
    ("shared", Propagation(SHARED, false)),
    ("silent", Flag),
    ("slave", Propagation(SLAVE, false)),
    ("src-nofollow", SourceNoFollow),
    ("strictatime", Atime(STRICTATIME)),
    ("suid", Clear(NOSUID)),
    ("symfollow", Clear(NOSYMFOLLOW)),
    ("sync", Super("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(UNBINDABLE, false)),
];

/// Ignored options: they are for programs that read fstab, and for podman, which relabels files itself.
const FOR_OTHERS: [&str; 9] = ["_netdev", "auto", "noauto", "nofail", "nouser", "user", "z", "Z", ""];

/// The options that `features` lists.
pub(crate) fn supported() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// The options of a mount, sorted by their effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub bind: bool,
    pub recursive_bind: bool,
    /// The flags to set (`MOUNT_ATTR_*`), without the access time mode.
    pub set: u64,
    /// The flags to clear.
    pub cleared: u64,
    /// The access time mode, if given.
    pub atime: Option<u64>,
    /// Whether an option is a flag of this mount.
    pub flagged: bool,
    /// The recursive changes.
    pub change_all: Change,
    /// The propagations in the given order, and whether each is recursive.
    pub propagation: Vec<(u64, bool)>,
    /// The flags of the superblock.
    pub superblock: Vec<&'static str>,
    /// Flags and `key=value` pairs for the file system.
    pub data: Vec<(String, Option<String>)>,
    pub copy_up: bool,
    /// Changes an existing mount.
    pub remount: bool,
    pub copy_symlink: bool,
    pub source_nofollow: bool,
    pub target_nofollow: bool,
    pub id_map: Option<IdMapOption>,
}

/// The option `idmap` or `ridmap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMapOption {
    /// Also maps the ids of the mounts below.
    pub recursive: bool,
    /// The mappings after `=`, in crun's form.
    pub maps: Option<String>,
}

impl Options {
    /// Sorts the options. Of two that contradict each other the last wins. `destination` is for the text of an error.
    pub(crate) fn plan(words: &[String], destination: &str) -> Result<Options> {
        let mut options = Options::default();
        for word in words {
            if word.contains('\0') {
                return Err(Error::invalid(format!("invalid mount {destination}: mount field contains null byte")));
            }
            if let Some((_, effect)) = OPTIONS.iter().find(|(name, _)| name == word) {
                options.take(*effect);
            } else if !FOR_OTHERS.contains(&word.as_str()) {
                let (key, value) = word.split_once('=').map_or((word.as_str(), None), |(k, v)| (k, Some(v.to_owned())));
                match key {
                    "idmap" | "ridmap" => {
                        options.id_map = Some(IdMapOption { recursive: key == "ridmap", maps: value.filter(|maps| !maps.is_empty()) });
                    }
                    _ => options.data.push((key.to_owned(), value)),
                }
            }
        }
        Ok(options)
    }

    /// Drops data such as `size=1m` from a bind mount and returns a warning: the file system of the source keeps its own options.
    pub(super) fn drop_data_of_bind(&mut self, destination: &str) -> Option<String> {
        if !self.bind || self.data.is_empty() {
            return None;
        }
        let words = std::mem::take(&mut self.data).into_iter().map(|(key, value)| value.map_or(key.clone(), |v| format!("{key}={v}")));
        let words = words.collect::<Vec<_>>().join(",");
        Some(format!("mount {destination}: bind mounts cannot have any filesystem-specific options applied, and {words} is ignored"))
    }

    fn take(&mut self, effect: Effect) {
        self.flagged |= matches!(effect, Flag | Set(_) | Clear(_) | Atime(_) | NotAtime(_) | Super(_));
        let all = &mut self.change_all;
        match effect {
            Nothing | Flag => {}
            Set(flag) => {
                self.set |= flag;
                self.cleared &= !flag;
            }
            Clear(flag) => {
                self.set &= !flag;
                self.cleared |= flag;
            }
            Atime(mode) => self.atime = Some(mode),
            NotAtime(mode) => self.atime = self.atime.filter(|own| *own != mode),
            SetAll(flag) => {
                all.set |= flag;
                all.clear &= !flag;
            }
            ClearAll(flag) => {
                all.set &= !flag;
                // the access time mode is a number in ATIME, so its bits are cleared together
                all.clear |= if flag & ATIME != 0 { ATIME } else { flag };
            }
            AtimeAll(mode) => {
                all.set = all.set & !ATIME | mode;
                all.clear |= ATIME;
            }
            Super(name) | SuperAll(name) => self.superblock.push(name),
            Propagation(flag, recursive) => self.propagation.push((flag, recursive)),
            Bind => self.bind = true,
            BindAll => (self.bind, self.recursive_bind) = (true, true),
            CopyUp => self.copy_up = true,
            // always flagged: flags that are not named are cleared
            Remount => (self.remount, self.flagged) = (true, true),
            CopySymlink => self.copy_symlink = true,
            SourceNoFollow => self.source_nofollow = true,
            TargetNoFollow => self.target_nofollow = true,
            IdMap(recursive) => self.id_map = Some(IdMapOption { recursive, maps: None }),
        }
    }

    /// The attributes of a new mount.
    pub(crate) fn attributes(&self) -> u64 {
        self.set | self.atime.unwrap_or(RELATIME)
    }

    /// The options for fsconfig(2): the file system's own, then the flags of the superblock.
    pub(crate) fn for_file_system(&self) -> Vec<(String, Option<String>)> {
        let superblock = self.superblock.iter().map(|flag| ((*flag).to_owned(), None));
        self.data.iter().cloned().chain(superblock).collect()
    }

    /// The change of a bind mount or of an existing mount, as in runc. One flag option is enough to clear all flags that are not
    /// given, whatever the source has. Access times change only with a mode.
    pub(crate) fn change_of_mount(&self) -> Change {
        if !self.flagged {
            return Change::default();
        }
        let mut change = Change { set: self.set, clear: (RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW) & !self.set, propagation: 0 };
        if self.atime.is_some() || self.set & NODIRATIME != 0 {
            change.set |= self.atime.unwrap_or(RELATIME);
            change.clear |= ATIME | NODIRATIME & !self.set;
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Options {
        Options::plan(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "/x").unwrap()
    }

    #[test]
    fn the_last_of_two_wins() {
        assert_eq!((plan(&["ro", "rw"]).set, plan(&["ro", "rw"]).cleared), (0, RDONLY));
        assert_eq!((plan(&["rw", "ro"]).set, plan(&["rw", "ro"]).cleared), (RDONLY, 0));
        for (words, mode) in [
            (["noatime", "strictatime"], STRICTATIME),
            (["strictatime", "relatime"], RELATIME),
            (["noatime", "atime"], RELATIME),
            (["strictatime", "nostrictatime"], RELATIME),
            (["noatime", "norelatime"], NOATIME),
        ] {
            assert_eq!(plan(&words).attributes(), mode, "{words:?}");
        }
    }

    #[test]
    fn a_bind_keeps_the_flags_of_its_source_until_one_is_named() {
        const BITS: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
        for words in [&["bind"][..], &["rbind", "rprivate", "rro", "defaults", "z"]] {
            assert!(plan(words).change_of_mount().is_empty(), "{words:?}");
        }
        let change = |set, clear| Change { set, clear, propagation: 0 };
        for (words, expected) in [
            (&["ro"][..], change(RDONLY, BITS & !RDONLY)),
            (&["dev"], change(0, BITS)),
            (&["sync"], change(0, BITS)),
            // access times change only with a mode, and as a whole
            (&["atime", "diratime", "norelatime"], change(0, BITS)),
            (&["noatime"], change(NOATIME, BITS | ATIME | NODIRATIME)),
            (&["relatime"], change(RELATIME, BITS | ATIME | NODIRATIME)),
            (&["nodiratime", "strictatime"], change(NODIRATIME | STRICTATIME, BITS | ATIME)),
            (&["nodiratime"], change(NODIRATIME, BITS | ATIME)),
        ] {
            assert_eq!(plan(words).change_of_mount(), expected, "{words:?}");
        }
    }

    #[test]
    fn what_is_no_flag_is_data() {
        let o = plan(&["rbind", "rprivate", "mode=755", "size=65536k", "newinstance", "rro", "sync", "acl"]);
        assert!(o.bind && o.recursive_bind);
        assert_eq!(o.propagation, [(PRIVATE, true)]);
        assert_eq!(o.change_all.set, RDONLY);
        assert_eq!(o.superblock, ["sync"]);
        let keys: Vec<_> = o.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        assert_eq!(keys, [("mode", Some("755")), ("size", Some("65536k")), ("newinstance", None), ("acl", None)]);
    }

    #[test]
    fn an_id_map_may_carry_its_ranges() {
        let option = |recursive, maps: Option<&str>| Some(IdMapOption { recursive, maps: maps.map(str::to_owned) });
        assert_eq!(plan(&["idmap"]).id_map, option(false, None));
        assert_eq!(plan(&["ridmap="]).id_map, option(true, None));
        assert_eq!(plan(&["idmap", "ridmap=uids=0-1-1"]).id_map, option(true, Some("uids=0-1-1")));
        assert_eq!(plan(&["bind"]).id_map, None);
    }

    #[test]
    fn the_words_are_sorted_and_none_is_there_twice() {
        let names: Vec<_> = supported().collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        assert!(FOR_OTHERS.iter().all(|word| !names.contains(word)));
    }
}
