//! Compares compiled filters with other implementations of the same profile.

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

/// A call in the form that the kernel gives to a filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) token: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

/// The filter, or the first error without the prefix that each error has.
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

/// The profile in the config.json of an engine.
fn from_bundle(config: &str) -> Seccomp {
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    serde_json::from_value(config["linux"]["seccomp"].clone()).unwrap()
}

/// The default profile of Docker.
fn docker() -> Seccomp {
    from_bundle(include_str!("../../../bundles/docker-default/config.json"))
}

/// The default profile of podman: three arguments distinguish several rules for `socket`.
fn podman() -> Seccomp {
    from_bundle(include_str!("../../../bundles/podman-rootful/config.json"))
}

/// The profile of a Kubernetes pod with containerd.
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
