//! `check`: reports all errors of a bundle, and what this host lacks for it. It runs, makes and changes nothing.
//!
//! The errors are those of the plan. Here the plan is made from a config that is read past its errors (`Spec::all_of_slice`).
//! `host` then looks for what the plan needs from the host, which create would miss only on its way.

mod host;
mod tree;

use std::path::Path;

use crate::cgroup::Layout;
use crate::findings::Findings;
use crate::plan::{Choices, Plan};
use crate::spec::Spec;
use crate::spec::bundle;

/// The container id of the plan; create gives containers their real one.
const ID: &str = "check";

/// Checks the bundle in `dir`; `config` is another file to read in place of its config.json. Needs no privilege, but cannot
/// check what it may not read.
pub fn check(dir: &Path, config: Option<&Path>) -> Findings {
    let mut found = Findings::new();
    let Some((dir, bytes)) = found.at("", bundle::read(dir, config)) else { return found };
    let Some(mut spec) = Spec::all_of_slice(&bytes, &mut found) else { return found };
    let Some(layout) = found.at("", Layout::detect().map(Layout::with_controllers)) else { return found };
    let mut planned = Findings::new();
    let plan = Plan::for_create(ID, &dir, &mut spec, &layout, &Choices::default(), &mut planned);
    found.extend(planned);
    let mut lacking = Findings::new();
    host::look(&plan, &spec, &mut lacking);
    found.extend(lacking);
    found
}
