//! The programs that a test needs: the runtime under test, the shim and the static payload. Each comes from the environment
//! (`RUNTIME`, `SHIM`, `PAYLOAD`), else from the target directory of the running test, else cargo builds it there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

/// The runtime under test: `$RUNTIME` as a path or as a name in `$PATH`, else the newest `masu` in the target directory, else a
/// new build.
///
/// # Errors
/// No such program, or its build failed.
pub fn runtime() -> Result<PathBuf> {
    if let Some(named) = env::var_os("RUNTIME").filter(|name| !name.is_empty()) {
        return in_path(Path::new(&named)).with_context(|| format!("find RUNTIME={}", named.display()));
    }
    newest("runtime", "masu")
}

/// masu's shim: `$SHIM`, else the newest in the target directory, else a new build.
///
/// # Errors
/// No such program, or its build failed.
pub fn shim() -> Result<PathBuf> {
    if let Some(named) = env::var_os("SHIM").filter(|name| !name.is_empty()) {
        return in_path(Path::new(&named)).with_context(|| format!("find SHIM={}", named.display()));
    }
    newest("shim", "containerd-shim-masu-v2")
}

fn newest(package: &str, program: &str) -> Result<PathBuf> {
    let target = target_directory()?;
    let triples = [triple("musl"), triple("gnu"), String::new()];
    let built = triples.iter().flat_map(|triple| ["release", "debug"].map(|profile| target.join(triple).join(profile).join(program)));
    match built.filter(|path| path.exists()).max_by_key(|path| modified(path)) {
        Some(newest) => Ok(newest),
        None => build(package, program),
    }
}

/// The static payload: `$PAYLOAD`, else the one in the target directory if it is newer than its sources, else a new build.
///
/// # Errors
/// The build failed.
pub fn payload() -> Result<PathBuf> {
    if let Some(named) = env::var_os("PAYLOAD").filter(|name| !name.is_empty()) {
        return Ok(named.into());
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let newest_source = ["src/bin/payload", "src/sys.rs", "Cargo.toml"]
        .iter()
        .flat_map(|name| files_at(&sources.join(name)))
        .filter_map(|path| modified(&path))
        .max();
    let target = target_directory()?;
    let built = ["musl", "gnu"].map(|libc| target.join(triple(libc)).join("debug/payload"));
    match built.into_iter().find(|path| modified(path).is_some_and(|time| Some(time) >= newest_source)) {
        Some(fresh) => Ok(fresh),
        None => build("integration", "payload"),
    }
}

/// Looks `name` up in `$PATH` unless it contains a slash. The result is absolute, because runtimes run in other directories.
///
/// # Errors
/// The program is not there.
pub fn in_path(name: &Path) -> Result<PathBuf> {
    if name.components().count() > 1 {
        ensure!(name.exists(), "{} does not exist", name.display());
        return Ok(std::path::absolute(name)?);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file()).context("no such program in PATH")
}

fn triple(libc: &str) -> String {
    format!("{}-unknown-linux-{libc}", env::consts::ARCH)
}

/// The musl target if the toolchain has it, else glibc, linked statically.
fn static_triple() -> String {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).stderr(Stdio::null()).output();
    let sysroot = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let musl = triple("musl");
    if sysroot.is_empty() || Path::new(&sysroot).join("lib/rustlib").join(&musl).exists() { musl } else { triple("gnu") }
}

/// The target directory of this test's build: the test is `TARGET/[TRIPLE/]PROFILE/deps/NAME`.
fn target_directory() -> Result<PathBuf> {
    let program = env::current_exe().context("find this test's own path")?;
    let marked = program.ancestors().find(|path| path.join("CACHEDIR.TAG").exists() && path.join(".rustc_info.json").exists());
    match marked {
        Some(path) => Ok(path.to_owned()),
        None => Ok(program.ancestors().nth(3).context("find the target directory of this test")?.to_owned()),
    }
}

/// Builds an example program of libcontainer and returns its path.
///
/// # Errors
/// The build failed.
pub fn example(name: &str) -> Result<PathBuf> {
    let target = target_directory()?;
    let built = target.join("debug/examples").join(name);
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "libcontainer", "--example", name, "--target-dir"]).arg(&target);
    run_build(&mut cargo, name)?;
    Ok(built)
}

fn build(package: &str, program: &str) -> Result<PathBuf> {
    let target = target_directory()?;
    let triple = static_triple();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, "--bin", program, "--target", &triple, "--target-dir"]).arg(&target);
    cargo.env("CARGO_PROFILE_DEV_STRIP", "true").env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    if triple.ends_with("gnu") {
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    run_build(&mut cargo, program)?;
    Ok(target.join(triple).join("debug").join(program))
}

fn run_build(cargo: &mut Command, program: &str) -> Result<()> {
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let output = cargo.stdin(Stdio::null()).output().with_context(|| format!("run cargo to build {program}"))?;
    if !output.status.success() {
        bail!("build {program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

fn files_at(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![path.to_owned()],
    }
}
