//! One call of the program: its name, its command line and the state root.

use std::path::{Component, Path, PathBuf};

use libcontainer::container::{Container, Runtime, check_id};
use libcontainer::error::{Doing, Error, Result};
use rustix::fs::Mode;

use crate::args::Args;

/// The input of a command.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The base name of `argv[0]`, for messages: `runc` if the program was called by that name.
    pub(crate) program: &'a str,
    pub(crate) args: &'a Args,
}

impl Call<'_> {
    /// The container's id, checked.
    pub(crate) fn id(&self) -> Result<&str> {
        let id = self.args.operands.first().map_or("", String::as_str);
        check_id(id)?;
        Ok(id)
    }

    /// Refuses the names by which crun chooses another engine (`krun`, `crun-wasm`), because masu has no other engine.
    pub(crate) fn check_name(&self) -> Result<()> {
        match (self.program, self.program.strip_prefix("crun-")) {
            (engine @ "krun", _) | (_, Some(engine)) => Err(Error::unsupported(format!("the engine {engine} is not supported"))),
            _ => Ok(()),
        }
    }

    /// The container named on the command line.
    pub(crate) fn container(&self) -> Result<Container> {
        self.runtime()?.open(self.id()?)
    }

    /// The runtime of all containers below [`Call::root`].
    pub(crate) fn runtime(&self) -> Result<Runtime> {
        self.root().map(Runtime::new)
    }

    /// The absolute path of the state root.
    ///
    /// The default is `/run/masu`, or `$XDG_RUNTIME_DIR/masu` for a user without privileges. Under the name `runc` or `crun` it
    /// is that runtime's state root.
    pub(crate) fn root(&self) -> Result<PathBuf> {
        match self.find_root()? {
            (root, true) => own_root(root),
            (root, false) => Ok(root),
        }
    }

    /// The same path, without making the directory; and whether [`Call::root`] makes it, which is so below $XDG_RUNTIME_DIR.
    pub(crate) fn find_root(&self) -> Result<(PathBuf, bool)> {
        if let Some(root) = self.given_root()? {
            return Ok((root, false));
        }
        let name = if matches!(self.program, "runc" | "crun") { self.program } else { "masu" };
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if !dir.is_empty() && is_unprivileged() => Ok((Path::new(&dir).join(name), true)),
            _ => Ok((Path::new("/run").join(name), false)),
        }
    }

    fn given_root(&self) -> Result<Option<PathBuf>> {
        if !self.args.given("root") {
            return Ok(None);
        }
        let root = self.args.text("root").unwrap_or(".");
        let root = clean(&std::path::absolute(root).doing(|| format!("make --root {root} absolute"))?);
        // "", ".", "../.." and "/" can all resolve to /; delete would then remove files of the whole host
        if root == Path::new("/") {
            return Err(Error::invalid("Option --root argument should not be set to /"));
        }
        Ok(Some(root))
    }
}

/// Removes `..` lexically, as Go's filepath.Clean does, because callers compare the returned paths with their own.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Whether $XDG_RUNTIME_DIR counts: for every user except root, and for root of a user namespace unless $USER is root.
fn is_unprivileged() -> bool {
    !rustix::process::geteuid().is_root() || (is_in_user_namespace() && std::env::var_os("USER").is_none_or(|u| u != "root"))
}

/// Only the initial user namespace maps all ids to themselves (user_namespaces(7)).
fn is_in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Makes the state root below $XDG_RUNTIME_DIR, with the sticky bit, which protects it from cleaners of old files (XDG base
/// directory specification).
fn own_root(root: PathBuf) -> Result<PathBuf> {
    let bits = Mode::RWXU | Mode::SVTX;
    match rustix::fs::mkdir(&root, bits) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e).doing(|| format!("make {} ($XDG_RUNTIME_DIR must be writable by the user)", root.display())),
    }
    rustix::fs::chmod(&root, bits).doing(|| format!("set the sticky bit of {}", root.display()))?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn root(words: &[&str], program: &str) -> Result<PathBuf> {
        let args = Args::parse(words.iter().map(OsString::from));
        Call { program, args: &args }.root()
    }

    #[test]
    fn a_given_root_is_absolute_and_clean() {
        assert_eq!(root(&["--root", "/run//x/../y/./z/", "list"], "masu").unwrap(), Path::new("/run/y/z"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(root(&["--root", "sub", "list"], "masu").unwrap(), here.join("sub"));
    }

    #[test]
    fn other_engines_are_refused_by_their_names() {
        let args = Args::parse([OsString::from("list")].into_iter());
        let check = |program| Call { program, args: &args }.check_name().map_err(|e| e.to_string());
        assert_eq!((check("masu"), check("runc"), check("crun")), (Ok(()), Ok(()), Ok(())));
        assert_eq!(check("crun-wasm"), Err("the engine wasm is not supported".into()));
        assert_eq!(check("krun"), Err("the engine krun is not supported".into()));
    }

    #[test]
    fn the_root_of_the_host_is_refused() {
        for given in ["/", "//", "/..", "/x/..", "../../../../../../../../../../../../../../.."] {
            assert_eq!(
                root(&["--root", given, "list"], "masu").unwrap_err().text(),
                "Option --root argument should not be set to /",
                "{given}"
            );
        }
    }
}
