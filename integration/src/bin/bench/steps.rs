//! The steps, measured in interleaved rounds.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration::sys::{self, Usage};

use crate::heavy::{LISTED, MEMORY};
use crate::options::{Options, Step};
use crate::prepare::{Prepared, Scratch};

/// One measurement of one step.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Wall-clock time in milliseconds.
    pub(crate) wall: f64,
    /// User and system time of all reaped processes, in milliseconds.
    pub(crate) cpu: f64,
    /// In KiB.
    pub(crate) peak: i64,
    pub(crate) faults: i64,
    pub(crate) failed: bool,
}

impl Sample {
    fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.peak = self.peak.max(other.peak);
        self.faults += other.faults;
        self.failed |= other.failed;
    }

    fn count(&mut self, usage: &Usage) {
        self.cpu += milliseconds(usage.cpu);
        self.peak = self.peak.max(usage.max_rss);
        self.faults += usage.minor_faults;
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of one process are far below 2^52")]
fn milliseconds(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

/// The samples of one step (or of a part of it) by runtime, in the order of the rounds.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) step: String,
    pub(crate) samples: Vec<Vec<Sample>>,
}

/// One runtime, its state root and its files.
#[derive(Debug)]
pub(crate) struct Contender {
    path: PathBuf,
    root: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
    id: String,
    systemd: bool,
    /// The usage of inits that were reaped while waiting for another process.
    ended: BTreeMap<i32, Usage>,
}

impl Contender {
    pub(crate) fn new(scratch: &Scratch, name: &str, path: &Path, systemd: bool) -> Result<Self> {
        let root = scratch.path().join(format!("state-{name}"));
        fs::create_dir_all(&root)?;
        Ok(Self {
            path: path.to_owned(),
            log: scratch.path().join(format!("log-{name}")),
            pid_file: scratch.path().join(format!("pid-{name}")),
            id: format!("{}-{name}", scratch.path().file_name().unwrap_or_default().to_string_lossy()),
            root,
            systemd,
            ended: BTreeMap::new(),
        })
    }

    /// A command of the runtime with the arguments `words`.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.path);
        if words != ["--version"] {
            command.arg("--root").arg(&self.root);
            if self.systemd {
                command.arg("--systemd-cgroup");
            }
        }
        let log = OpenOptions::new().append(true).create(true).open(&self.log).context("open the log of messages")?;
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn timed(&mut self, words: &[&str]) -> Result<Sample> {
        let mut command = self.command(words)?;
        let begin = Instant::now();
        let child = command.spawn().with_context(|| format!("run {}", self.path.display()))?;
        let usage = self.reap(i32::try_from(child.id())?)?;
        let mut sample = Sample { wall: begin.elapsed().as_secs_f64() * 1000.0, failed: usage.code() != 0, ..Sample::default() };
        sample.count(&usage);
        Ok(sample)
    }

    /// Waits for `pid`. Other inits are reaped meanwhile, as a shim does, because a runtime may wait for that.
    fn reap(&mut self, pid: i32) -> Result<Usage> {
        if let Some(usage) = self.ended.remove(&pid) {
            return Ok(usage);
        }
        loop {
            let (ended, usage) = sys::wait4(-1).context("wait for a child")?;
            if ended == pid {
                return Ok(usage);
            }
            self.ended.insert(ended, usage);
        }
    }

    fn create(&mut self, bundle: &Path) -> Result<(Sample, i32)> {
        let _ = fs::remove_file(&self.pid_file);
        let (bundle, pid_file) = (bundle.to_string_lossy().into_owned(), self.pid_file.to_string_lossy().into_owned());
        let id = self.id.clone();
        let sample = self.timed(&["create", "--bundle", &bundle, "--pid-file", &pid_file, &id])?;
        let pid = fs::read_to_string(&self.pid_file).ok().and_then(|text| text.trim().parse().ok());
        let pid = pid.with_context(|| format!("create failed: {}", self.last_message()))?;
        Ok((sample, pid))
    }

    fn start(&mut self, bundle: &Path) -> Result<i32> {
        let (created, pid) = self.create(bundle)?;
        let id = self.id.clone();
        let started = self.timed(&["start", &id])?;
        ensure!(!created.failed && !started.failed, "no container to measure with: {}", self.last_message());
        Ok(pid)
    }

    fn exit(&mut self, pid: i32) -> Result<Sample> {
        let begin = Instant::now();
        let usage = self.reap(pid)?;
        let mut sample = Sample { wall: begin.elapsed().as_secs_f64() * 1000.0, ..Sample::default() };
        sample.count(&usage);
        Ok(sample)
    }

    pub(crate) fn last_message(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().lines().last().unwrap_or("no message").to_owned()
    }

    /// Measures `step` once, and returns its parts.
    fn once(&mut self, step: Step, bundle: &Prepared) -> Result<Vec<(&'static str, Sample)>> {
        let id = self.id.clone();
        Ok(match step {
            Step::Version => vec![("version", self.timed(&["--version"])?)],
            Step::Run => {
                let path = bundle.short.to_string_lossy().into_owned();
                vec![("run", self.timed(&["run", "--bundle", &path, &id])?)]
            }
            Step::Cycle => {
                let (create, pid) = self.create(&bundle.short)?;
                let start = self.timed(&["start", &id])?;
                let exit = self.exit(pid)?;
                let delete = self.timed(&["delete", &id])?;
                let mut total = create;
                [start, exit, delete].into_iter().for_each(|sample| total.add(sample));
                vec![("create", create), ("start", start), ("exit", exit), ("delete", delete), ("cycle", total)]
            }
            Step::Exec => vec![("exec", self.timed(&["exec", &id, "/bin/true"])?)],
            Step::State => vec![("state", self.timed(&["state", &id])?)],
            Step::List => vec![("list", self.timed(&["list"])?)],
            Step::Kill => {
                let pid = self.start(&bundle.long)?;
                let kill = self.timed(&["kill", &id, "KILL"])?;
                self.exit(pid)?;
                self.timed(&["delete", &id])?;
                vec![("kill", kill)]
            }
            Step::ForceDelete => {
                let pid = self.start(&bundle.long)?;
                let delete = self.timed(&["delete", "--force", &id])?;
                self.exit(pid)?;
                vec![("force-delete", delete)]
            }
        })
    }
}

/// The runtimes that can run `bundle` on this machine. Others are skipped with a message, but the first must be able to.
pub(crate) fn contenders(options: &Options, scratch: &Scratch, bundle: &Prepared) -> Result<Vec<(String, Contender)>> {
    let mut able = Vec::new();
    for (name, path) in &options.runtimes {
        let mut contender = Contender::new(scratch, name, path, options.systemd)?;
        if contender.once(Step::Run, bundle)?.iter().all(|(_, sample)| !sample.failed) {
            able.push((name.clone(), contender));
            continue;
        }
        let why = contender.last_message();
        contender.timed(&["delete", "--force", &contender.id.clone()])?;
        ensure!(!able.is_empty(), "{name} does not run {}: {why}", bundle.name);
        println!("skip {name} of {}: it does not run here: {why}", bundle.name);
    }
    Ok(able)
}

/// Measures all `steps` on `bundle`. Returns the names of the runtimes in order, and the results.
pub(crate) fn measure(options: &Options, scratch: &Scratch, bundle: &Prepared, steps: &[Step]) -> Result<(Vec<String>, Vec<Results>)> {
    let mut able = contenders(options, scratch, bundle)?;
    let mut all = Vec::new();
    let mut lists = Vec::new();
    if steps.contains(&Step::List) {
        let mut listed = Vec::new();
        for (name, mut contender) in able {
            if let Some(list) = List::make(&name, &mut contender, bundle)? {
                lists.push(list);
                listed.push((name, contender));
            }
        }
        able = listed;
    }
    let (names, mut contenders): (Vec<_>, Vec<_>) = able.into_iter().unzip();
    for step in steps {
        // exec and state need a container that runs all the time
        let standing = matches!(step, Step::Exec | Step::State);
        let mut pids = Vec::new();
        for contender in contenders.iter_mut().filter(|_| standing) {
            pids.push(contender.start(&bundle.long)?);
        }
        let mut parts: Vec<Results> = Vec::new();
        for round in 0..options.warm_up + options.rounds {
            for turn in 0..contenders.len() {
                // every second round backwards: on cgroup v1 a join soon after another join is spared a wait in the kernel
                let place = if round.is_multiple_of(2) { turn } else { contenders.len() - 1 - turn };
                let number = (place + round / 2) % contenders.len();
                let Some(contender) = contenders.get_mut(number) else { continue };
                let samples = contender.once(*step, bundle).with_context(|| format!("{} of {}", step.name(), contender.path.display()))?;
                if samples.iter().any(|(_, sample)| sample.failed) {
                    contender.timed(&["delete", "--force", &contender.id.clone()]).ok().filter(|_| !standing);
                }
                if round < options.warm_up {
                    continue;
                }
                for (name, sample) in samples {
                    record(&mut parts, name, number, names.len(), sample);
                }
            }
        }
        for (contender, pid) in contenders.iter_mut().zip(pids) {
            let id = contender.id.clone();
            contender.timed(&["delete", "--force", &id])?;
            contender.exit(pid)?;
        }
        all.append(&mut parts);
    }
    for (contender, list) in contenders.iter_mut().zip(lists) {
        list.remove(contender)?;
    }
    Ok((names, all))
}

/// The created containers of a runtime, for the step `list`.
#[derive(Debug)]
pub(crate) struct List {
    /// Id and init of each container.
    containers: Vec<(String, i32)>,
}

impl List {
    /// Creates the containers. Returns `None`, after a message, if each takes too much memory.
    pub(crate) fn make(name: &str, contender: &mut Contender, bundle: &Prepared) -> Result<Option<Self>> {
        let own = contender.id.clone();
        let mut list = Self { containers: Vec::with_capacity(LISTED) };
        for i in 0..LISTED {
            contender.id = format!("{own}-{i}");
            let (created, pid) = contender.create(&bundle.long)?;
            list.containers.push((std::mem::replace(&mut contender.id, own.clone()), pid));
            ensure!(!created.failed, "create for a list failed: {}", contender.last_message());
            let memory = if i == 0 { resident(pid)? } else { 0 };
            if memory > MEMORY {
                println!("skip {name} of {}: each container that waits takes {memory} KiB", bundle.name);
                list.remove(contender)?;
                return Ok(None);
            }
        }
        Ok(Some(list))
    }

    pub(crate) fn remove(self, contender: &mut Contender) -> Result<()> {
        for (id, pid) in self.containers {
            contender.timed(&["delete", "--force", &id])?;
            contender.exit(pid)?;
        }
        Ok(())
    }
}

/// The memory of a process, in KiB (proc_pid_status(5)).
fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS of a container's init")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn record(parts: &mut Vec<Results>, step: &str, runtime: usize, runtimes: usize, sample: Sample) {
    if !parts.iter().any(|part| part.step == step) {
        parts.push(Results { step: step.to_owned(), samples: vec![Vec::new(); runtimes] });
    }
    if let Some(samples) = parts.iter_mut().find(|part| part.step == step).and_then(|part| part.samples.get_mut(runtime)) {
        samples.push(sample);
    }
}

/// The peak memory of a program that does nothing, in KiB: it is inherited from this process.
pub(crate) fn floor(scratch: &Scratch) -> Result<i64> {
    let child = Command::new(scratch.payload()).arg("true").stdin(Stdio::null()).spawn().context("run the payload")?;
    Ok(sys::wait4(i32::try_from(child.id())?)?.1.max_rss)
}
