//! Compiled filters against other judges of the same profile.

mod evaluate;
mod interpret;
mod libseccomp;
mod random;
mod rules;
mod seccompiler;

pub(super) use interpret::run;

use super::Filter;
use super::arch::Arch;
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::spec::{Seccomp, SeccompArg, SyscallRule};

/// A call as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) token: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

/// The filter, or the first error without the prefix that every one of them has.
fn plan_for(spec: &Seccomp, native: Arch) -> Result<Option<Filter>> {
    let mut found = Findings::new();
    let filter = super::plan_for(spec, native, &mut found);
    found.unless_wrong(filter).map_err(|e| Error::new(e.kind(), e.text().strip_prefix("linux.seccomp: ").unwrap()))
}

fn plan(spec: &Seccomp) -> Result<Option<Filter>> {
    plan_for(spec, Arch::NATIVE)
}

fn compiled(spec: &Seccomp, native: Arch) -> Filter {
    plan_for(spec, native).unwrap().unwrap()
}

/// The profile in a config.json that an engine wrote.
fn from_bundle(config: &str) -> Seccomp {
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    serde_json::from_value(config["linux"]["seccomp"].clone()).unwrap()
}

/// docker's default profile.
fn docker() -> Seccomp {
    from_bundle(include_str!("../../../bundles/docker-default/config.json"))
}

/// podman's: it tells several rules for `socket` apart by three arguments.
fn podman() -> Seccomp {
    from_bundle(include_str!("../../../bundles/podman-rootful/config.json"))
}

/// That of a pod of Kubernetes with containerd.
fn kubernetes() -> Seccomp {
    from_bundle(include_str!("../../../bundles/k8s/config.json"))
}

/// Arguments with a hard case in one of their halves.
const VALUES: [u64; 12] = [0, 1, 5, 16, 40, 0x7e02_0000, 0xffff_ffff, 1 << 32, (1 << 32) | 5, 5 << 32, u64::MAX, 0x8000_0000_0000_0000];

fn rule(names: &[&str], action: &str, args: &[(u32, &str, u64, u64)]) -> SyscallRule {
    SyscallRule {
        names: names.iter().map(|name| (*name).into()).collect(),
        action: action.into(),
        args: args.iter().map(|&(index, op, value, value_two)| SeccompArg { index, value, value_two, op: op.into() }).collect(),
        ..Default::default()
    }
}
