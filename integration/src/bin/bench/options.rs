//! The command line of the benchmark.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::heavy::Load;

/// The options.
#[derive(Debug)]
pub(crate) struct Options {
    /// Name and absolute path of each runtime. The first is the base of the ratios.
    pub(crate) runtimes: Vec<(String, PathBuf)>,
    pub(crate) bundles: Vec<String>,
    pub(crate) steps: Vec<Step>,
    /// Measures the heavy loads instead of bundles.
    pub(crate) heavy: bool,
    /// Lets systemd make the cgroups.
    pub(crate) systemd: bool,
    pub(crate) rounds: usize,
    pub(crate) warm_up: usize,
    pub(crate) syscalls: bool,
    pub(crate) keep: Option<PathBuf>,
    pub(crate) save: Option<PathBuf>,
    pub(crate) compare: Option<PathBuf>,
    pub(crate) priority: bool,
}

/// A measured step. A cycle is create, start, exit and delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Version,
    Run,
    Cycle,
    Exec,
    State,
    Kill,
    ForceDelete,
    /// Only for the heavy load.
    List,
}

impl Step {
    pub(crate) const ALL: [Self; 7] = [Self::Version, Self::Run, Self::Cycle, Self::Exec, Self::State, Self::Kill, Self::ForceDelete];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Run => "run",
            Self::Cycle => "cycle",
            Self::Exec => "exec",
            Self::State => "state",
            Self::Kill => "kill",
            Self::ForceDelete => "force-delete",
            Self::List => "list",
        }
    }
}

impl Options {
    /// # Errors
    /// The wrong argument.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            runtimes: Vec::new(),
            bundles: Vec::new(),
            steps: Step::ALL.to_vec(),
            heavy: false,
            systemd: false,
            rounds: 40,
            warm_up: 3,
            syscalls: false,
            keep: None,
            save: None,
            compare: None,
            priority: true,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bundle" => options.bundles.push(value()?),
                "--steps" => {
                    let find =
                        |name: &str| Step::ALL.into_iter().find(|step| step.name() == name).with_context(|| format!("no step {name}"));
                    options.steps = value()?.split(',').map(find).collect::<Result<_>>()?;
                }
                "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
                "--warm-up" => options.warm_up = value()?.parse().context("--warm-up")?,
                "--heavy" => options.heavy = true,
                "--systemd-cgroup" => options.systemd = true,
                "--syscalls" => options.syscalls = true,
                "--keep" => options.keep = Some(value()?.into()),
                "--save" => options.save = Some(value()?.into()),
                "--compare" => options.compare = Some(value()?.into()),
                "--no-priority" => options.priority = false,
                runtime => match runtime.split_once('=') {
                    Some((name, path)) if !runtime.starts_with('-') => options.runtimes.push((name.to_owned(), program(path)?)),
                    _ => bail!("neither an option nor NAME=PATH: {runtime}"),
                },
            }
        }
        ensure!(!options.runtimes.is_empty(), "no NAME=PATH");
        ensure!(options.rounds > 0, "--rounds 0 measures nothing");
        if options.bundles.is_empty() && !options.heavy {
            options.bundles.push("docker-default".to_owned());
        }
        Ok(options)
    }
}

impl Options {
    /// The heavy loads to measure.
    pub(crate) fn loads(&self) -> &'static [Load] {
        if self.heavy { &Load::ALL } else { &[] }
    }
}

/// The absolute path of a program, given by path or by name.
fn program(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return Ok(std::path::absolute(name)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no program {name} in PATH"))
}
