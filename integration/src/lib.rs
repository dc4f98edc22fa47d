//! Black-box tests of OCI runtimes: whatever `$RUNTIME` names (a path or a program in `$PATH`; by default the masu of this
//! workspace) is run as its callers run it, as root, and seen from inside by a static payload.
//!
//! In reading order: [`check`] frames one test; a [`Bundle`] is what it runs; a [`Container`] is one that runs and that
//! removes itself; [`host`] proves afterwards that nothing stayed behind, with the [`namespaces`] of the test; [`terminal`] and [`cgroups`] are what some tests
//! look at; [`Surroundings`] are what callers prepare around the bundles of `bundles/`; [`artifacts`] finds the programs; [`payload`](../payload/index.html) is the program inside.
//!
//! | variable | what it does |
//! |---|---|
//! | `RUNTIME` | the runtime under test; `runc` (1.3) and `crun` (1.28) pass too, save for what is recorded as `DIFFERS` |
//! | `SHIM` | the shim, if it should not be the newest one in the target directory, or be built |
//! | `PAYLOAD` | the payload, if it should not be built |
//! | `CGROUP_DRIVER` | `systemd`: every command of the runtime gets `--systemd-cgroup`; needs a machine that runs systemd |
//! | `TEST_RECORD` | a file to which each skip and each known difference appends a line: `SKIP TEST: REASON`, `DIFFERS TEST: RUNTIME: REASON` |
//! | `PEERS` | paths, separated by colons, of the runtimes to compare with in `tests/alike.rs`; else runc and crun in `$PATH` |
//! | `ALIKE_SECONDS` | how long `tests/alike.rs` makes configs up (default 10); `ALIKE_SEED` has it make the same ones again |
//! | `BAD_INPUT_TABLE` | a file to which `tests/bad_input.rs` appends what this runtime and each of `PEERS` makes of a row |
//! | `CRASHES` | how many times `tests/crash.rs` kills the runtime (default 200) |
//!
//! `cargo test -p integration` and `cargo nextest run -p integration` both run everything. Beside the tests: the benchmark
//! (`src/bin/bench`), and scripts that put a real Docker daemon and containerd over the runtime (`callers/`).

pub mod artifacts;
pub mod background;
mod bundle;
pub mod cgroups;
pub mod compare;
mod container;
pub mod dbus;
pub mod host;
pub mod message;
pub mod namespaces;
pub mod runtime;
pub mod shim;
pub mod strace;
mod surroundings;
pub mod sys;
mod systemd;
pub mod terminal;
mod test;

pub use bundle::Bundle;
pub use container::Container;
pub use runtime::{Output, Runtime};
pub use surroundings::Surroundings;
pub use systemd::{Manner, Systemd, USERS_CGROUP};
pub use test::{Test, check};
