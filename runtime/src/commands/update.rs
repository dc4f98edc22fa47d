//! `update`: changes the limits of a container by flags or by a document. A document can also change devices and mounts.

use std::fs::File;
use std::io::Read;

use anyhow::Result;
use libcontainer::error::{self, Doing, Error};
use libcontainer::spec::{self, LiveChanges, Resources};

use crate::args::Args;
use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let (resources, changes) = asked(call.args)?;
    if resources.memory.kernel.is_some() || resources.memory.kernel_tcp.is_some() {
        log::warn!("limits of kernel memory are ignored");
    }
    let [cache, bandwidth] = ["l3-cache-schema", "mem-bw-schema"].map(|flag| call.args.text(flag).unwrap_or_default());
    match (cache, bandwidth) {
        ("", "") => call.container()?.update_live(&resources, &changes)?,
        _ => call.container()?.update_with_intel_rdt(&resources, &changes, cache, bandwidth)?,
    }
    Ok(0)
}

/// Reads a JSON document from a file, or from standard input for `-`. The size limit is that of a config.json.
pub(super) fn document(name: &str) -> error::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = |source: &mut dyn Read, bytes: &mut Vec<u8>| source.take(spec::MAX_CONFIG + 1).read_to_end(bytes);
    let done = match name {
        "-" => read(&mut std::io::stdin(), &mut bytes),
        _ => read(&mut File::open(name).doing(|| format!("open {name}"))?, &mut bytes),
    };
    done.doing(|| format!("read {name}"))?;
    if bytes.len() as u64 > spec::MAX_CONFIG {
        return Err(Error::invalid(format!("read {name}: larger than {} bytes", spec::MAX_CONFIG)));
    }
    Ok(bytes)
}

/// The wanted limits, and the further changes that a document contains.
fn asked(args: &Args) -> error::Result<(Resources, LiveChanges)> {
    if let Some(file) = args.text("resources") {
        let text = document(file)?;
        let read = || -> error::Result<_> { Ok((Resources::from_slice(&text)?, LiveChanges::from_slice(&text)?)) };
        return read().doing(|| format!("read {file}"));
    }
    let mut r = Resources::default();
    if let Some(weight) = args.number("blkio-weight").filter(|w| *w != 0) {
        r.block_io.weight = Some(u16::try_from(weight).map_err(|_| invalid("blkio-weight", "out of range"))?);
    }
    r.cpu.cpus = args.text("cpuset-cpus").unwrap_or_default().to_string();
    r.cpu.mems = args.text("cpuset-mems").unwrap_or_default().to_string();
    r.cpu.idle = number(args, "cpu-idle")?;
    r.cpu.burst = number(args, "cpu-burst")?;
    r.cpu.period = number(args, "cpu-period")?;
    r.cpu.realtime_period = number(args, "cpu-rt-period")?;
    r.cpu.shares = number(args, "cpu-share")?;
    r.cpu.quota = number(args, "cpu-quota")?;
    r.cpu.realtime_runtime = number(args, "cpu-rt-runtime")?;
    r.memory.limit = bytes(args, "memory")?;
    r.memory.swap = bytes(args, "memory-swap")?;
    r.memory.reservation = bytes(args, "memory-reservation")?;
    r.memory.kernel = bytes(args, "kernel-memory")?;
    r.memory.kernel_tcp = bytes(args, "kernel-memory-tcp")?;
    r.pids.limit = args.number("pids-limit");
    Ok((r, LiveChanges::default()))
}

fn invalid(flag: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("invalid value for {flag}: {why}"))
}

fn number<T: std::str::FromStr>(args: &Args, flag: &str) -> error::Result<Option<T>> {
    let parse = |text: &str| text.parse().map_err(|_| invalid(flag, format_args!("'{text}' is not such a number")));
    args.text(flag).map(parse).transpose()
}

fn bytes(args: &Args, flag: &str) -> error::Result<Option<i64>> {
    args.text(flag).map(|text| if text == "-1" { Ok(-1) } else { size(text).map_err(|why| invalid(flag, why)) }).transpose()
}

/// Parses `512m` or `1.5 GiB` to bytes, as the Go programs around runc do: units of 1024, in any case, with an optional `b` or
/// `ib` at the end and one optional blank.
fn size(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid size: '{text}'");
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(bad)?;
    let (number, suffix) = text.split_at(end + 1);
    let n: f64 = number.strip_suffix(' ').unwrap_or(number).parse().map_err(|_| bad())?;
    let suffix = suffix.to_ascii_lowercase();
    let (unit, rest) = match suffix.as_bytes() {
        [unit, rest @ ..] => (*unit, rest),
        [] => (b'b', &[][..]),
    };
    let power = match (unit, rest) {
        (b'b', []) => 0,
        (_, [] | b"b" | b"ib") => match b"kmgtp".iter().position(|u| *u == unit) {
            Some(i) => i as i32 + 1,
            None => return Err(format!("invalid suffix: '{suffix}'")),
        },
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    let n = n * 1024f64.powi(power);
    // above 2^53 a float cannot represent single bytes, but no machine has that much memory
    if (0.0..9e18).contains(&n) { Ok(n as i64) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn sizes() {
        for (text, n) in [
            ("0", 0),
            ("33554432", 33_554_432),
            ("32m", 32 << 20),
            ("32M", 32 << 20),
            ("32mb", 32 << 20),
            ("32MiB", 32 << 20),
            ("1.5g", 3 << 29),
            ("1 k", 1024),
            ("7b", 7),
            ("2t", 2 << 40),
            (".5k", 512),
        ] {
            assert_eq!(size(text), Ok(n), "{text}");
        }
        for (text, error) in [
            ("x", "invalid size: 'x'"),
            ("", "invalid size: ''"),
            ("-2", "invalid size: '-2'"),
            ("1x", "invalid suffix: 'x'"),
            ("1mm", "invalid suffix: 'mm'"),
            ("1kib2", "invalid size: '1kib2'"),
            ("1bb", "invalid suffix: 'bb'"),
            ("1ibk", "invalid suffix: 'ibk'"),
            ("99999999999p", "invalid size: '99999999999p'"),
            ("1  k", "invalid size: '1  k'"),
        ] {
            assert_eq!(size(text), Err(error.to_string()), "{text}");
        }
    }

    fn parse(line: &str) -> error::Result<Resources> {
        let args = Args::parse(line.split(' ').map(OsString::from));
        assert_eq!(args.problem, None);
        asked(&args).map(|(resources, _)| resources)
    }

    #[test]
    fn flags_become_resources() {
        let r = parse(
            "update --memory 64m --memory-swap=-1 --memory-reservation 1k --cpu-quota -1 --cpu-period 100000 --cpu-share 512 \
             --cpu-idle 1 --cpu-burst 5 --cpuset-cpus 0-1 --pids-limit -1 --blkio-weight 500 id",
        )
        .unwrap();
        assert_eq!((r.memory.limit, r.memory.swap, r.memory.reservation), (Some(64 << 20), Some(-1), Some(1024)));
        assert_eq!(
            (r.cpu.quota, r.cpu.period, r.cpu.shares, r.cpu.idle, r.cpu.burst),
            (Some(-1), Some(100_000), Some(512), Some(1), Some(5))
        );
        assert_eq!((&*r.cpu.cpus, r.pids.limit, r.block_io.weight), ("0-1", Some(-1), Some(500)));
        assert_eq!(parse("update id").unwrap(), Resources::default());
    }

    #[test]
    fn bad_values_name_the_flag() {
        for (line, error) in [
            ("update --memory 1x id", "invalid value for memory: invalid suffix: 'x'"),
            ("update --memory -2 id", "invalid value for memory: invalid size: '-2'"),
            ("update --cpu-share -1 id", "invalid value for cpu-share: '-1' is not such a number"),
            ("update --cpu-quota x id", "invalid value for cpu-quota: 'x' is not such a number"),
            ("update --blkio-weight 70000 id", "invalid value for blkio-weight: out of range"),
            ("update -r /nonexistent id", "open /nonexistent: no such file or directory"),
        ] {
            assert_eq!(parse(line).unwrap_err().text(), error, "{line}");
        }
    }
}
