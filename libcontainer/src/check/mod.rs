//! `check`: everything that is wrong with a bundle, and what this host lacks for it. Nothing is run, made or changed.
//!
//! The plan is what finds out; here it is made from a config that was read on past its errors (`Spec::all_of_slice`), and
//! `host` looks for what the plan takes for granted and create would only meet on its way.

mod host;
mod tree;

use std::path::Path;

use crate::cgroup::Layout;
use crate::findings::Findings;
use crate::plan::{Choices, Plan};
use crate::spec::Spec;
use crate::spec::bundle;

/// A name that no limit depends on: containers get theirs at create.
const ID: &str = "check";

/// Looks at the bundle in `dir`; `config` is another name for its config.json. Needs no privilege beyond reading, but what
/// it may not read it cannot see.
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
