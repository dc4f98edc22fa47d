//! A state root, and the containers that it knows.

use std::path::{Path, PathBuf};

use super::list::{self, Listed};
use super::{Container, CreateOptions, Process, create, delete};
use crate::dry_run::Page;
use crate::error::Result;

/// All containers of one state root: a directory with a folder for each of them.
///
/// ```no_run
/// use libcontainer::{CreateOptions, Runtime};
///
/// # fn main() -> libcontainer::Result<()> {
/// let runtime = Runtime::new("/run/containers");
/// let (mut container, init) = runtime.create("web", &CreateOptions::new("/srv/web"))?;
/// container.start()?;
/// println!("it ended with {}", init.wait()?.code());
/// container.delete(false)
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    root: PathBuf,
}

impl Runtime {
    /// The runtime whose containers are recorded below `root`. The directory is made by the first create.
    pub fn new(root: impl Into<PathBuf>) -> Runtime {
        Runtime { root: root.into() }
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates container `id` (letters, digits and `_+-.`, at most 255 bytes): everything of it is made, and its first process
    /// waits for [`Container::start`] (runtime.md, "Create"). Nothing is left of a create that fails.
    ///
    /// What it does to the calling process: all descriptors above those that the options preserve become close-on-exec; for
    /// the moment of the clone it is not dumpable, and if the config joins a pid namespace, its children would be born there; the
    /// container's first process becomes its child, so that SIGCHLD comes when that ends. Hooks of the config run as children
    /// of the caller. It blocks as long as hooks run.
    ///
    /// # Errors
    /// [`Kind::Exists`](crate::error::Kind) if the id is taken, `InvalidSpec` if the config or the options are wrong, `Unsupported` if this
    /// host lacks something or the caller has more than one thread, `Hook` if a hook fails, `Unsafe` if a check of the host or of
    /// the root file system fails, `Os` if the kernel refuses.
    pub fn create(&self, id: &str, options: &CreateOptions) -> Result<(Container, Process)> {
        create::create(&self.root, id, options)
    }

    /// The plan of what [`Runtime::create`] would make, printed: with the same checks, but nothing is opened that others would
    /// notice, and nothing is made.
    ///
    /// # Errors
    /// As [`Runtime::create`], as far as planning finds them.
    pub fn dry_run(&self, id: &str, options: &CreateOptions) -> Result<Page> {
        create::dry_run(&self.root, id, options)
    }

    /// Opens container `id`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind) if there is none, `Internal` if its record is damaged.
    pub fn open(&self, id: &str) -> Result<Container> {
        Container::open(&self.root, id)
    }

    /// Deletes a container that is stopped, or created (its init is killed then), or with `force` in any status. With `force`
    /// a missing container is no error, a runtime that is still creating the container is killed, and what a killed create left
    /// behind is cleared as well. The poststop hooks run last, each whatever the others do; their failures are logged.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind) without `force`, `WrongStatus` of one that runs, `Busy` while another command is at work on it,
    /// `Timeout` if a killed process does not end. A record that cannot be read is an error, and nothing is removed.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        delete::delete(&self.root, id, force)
    }

    /// The ids of all containers, sorted.
    ///
    /// # Errors
    /// The state root cannot be read; `Os` with ENOENT if it is not there.
    pub fn ids(&self) -> Result<Vec<String>> {
        list::ids(&self.root)
    }

    /// All containers, by id, each looked at when it is its turn; nothing of it stays open. Those that vanish meanwhile are left
    /// out; damaged ones are errors.
    ///
    /// # Errors
    /// The state root cannot be read; `Os` with ENOENT if it is not there.
    pub fn list(&self) -> Result<impl Iterator<Item = Result<Listed<'_>>>> {
        list::list(&self.root)
    }
}
