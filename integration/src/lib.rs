//! Black-box tests of OCI runtimes. The tests run the runtime `$RUNTIME` as its callers do, as root. A static payload inside the
//! container reports its view. `$RUNTIME` is a path or a program in `$PATH`; the default is this workspace's masu.
//!
//! In reading order: [`check`] frames one test. A [`Bundle`] is its input. A [`Container`] is a running container that removes
//! itself. [`host`] checks afterwards that nothing was left behind, with the test's [`namespaces`]. [`terminal`] and [`cgroups`]
//! serve the tests of these features. [`Surroundings`] are the files and namespaces that callers prepare for the bundles of
//! `bundles/`. [`artifacts`] finds the programs. [`payload`](../payload/index.html) is the program inside.
//!
//! | variable | effect |
//! |---|---|
//! | `RUNTIME` | the runtime under test; `runc` (1.3) and `crun` (1.28) pass too, except for recorded differences (`DIFFERS`) |
//! | `SHIM` | the shim; the default is the newest one in the target directory, else it is built |
//! | `PAYLOAD` | the payload; by default it is built |
//! | `CGROUP_DRIVER` | `systemd`: every command of the runtime gets `--systemd-cgroup`; needs a machine that runs systemd |
//! | `TEST_RECORD` | a file for lines about skips and known differences: `SKIP TEST: REASON`, `DIFFERS TEST: RUNTIME: REASON` |
//! | `PEERS` | paths, separated by colons, of the runtimes to compare with in `tests/alike.rs`; else runc and crun in `$PATH` |
//! | `ALIKE_SECONDS` | how long `tests/alike.rs` generates configs (default 10); `ALIKE_SEED` repeats the same configs |
//! | `BAD_INPUT_TABLE` | a file to which `tests/bad_input.rs` appends each row's result for this runtime and each of `PEERS` |
//! | `CRASHES` | how many times `tests/crash.rs` kills the runtime (default 200) |
//!
//! `cargo test -p integration` and `cargo nextest run -p integration` both run everything. The package also has the benchmark
//! (`src/bin/bench`), and scripts that run a real Docker daemon and containerd on the runtime (`callers/`).

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
