//! BAD-001 to BAD-029: the file and its JSON.

use anyhow::Context;
use integration::check;
use serde_json::{Value, json};

use super::{Ours, Row, fails, judge, runs, table};

/// The text of the config file; `%` stands for the valid config.
const TEXTS: [(u16, &str, Ours, &[u8]); 15] = [
    (1, "empty file", Ours::Fails("config.json"), b""),
    (2, "null", Ours::Fails("config.json|null"), b"null"),
    (3, "array", Ours::Fails("config.json"), b"[]"),
    (4, "empty object", Ours::Fails("process|root"), b"{}"),
    (5, "truncated", Ours::Fails("config.json"), b"{\"ociVersion\":\"1.0.2\",\"process\""),
    (6, "trailing comma", Ours::Fails("config.json"), b"{\"ociVersion\":\"1.0.2\",}"),
    (7, "trailing garbage", Ours::Runs, b"%garbage"),
    (8, "two objects", Ours::Runs, b"%{}"),
    (9, "byte order mark", Ours::Fails("config.json"), b"\xef\xbb\xbf%"),
    (10, "NUL in the middle", Ours::Fails("config.json"), b"{\"ociVersion\":\"1.0.2\"\0,\"process\":{}}"),
    (11, "comment", Ours::Fails("config.json"), b"{/* none */\"ociVersion\":\"1.0.2\"}"),
    (20, "unknown key", Ours::Runs, b""),
    (21, "unknown nested key", Ours::Runs, b""),
    (12, "a key twice: the last wins", Ours::Runs, b""),
    (14, "bytes that are not UTF-8 in an argument", Ours::Runs, b""),
];

#[test]
fn bad_001_to_022_text() {
    check(|t| {
        if t.differs("crun", "has a parser of its own") {
            return Ok(());
        }
        for (number, case, ours, text) in &TEXTS {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "exit", "7"]);
            let good = serde_json::to_vec(&bundle.config)?;
            let text = match number {
                20 => replaced(&good, b"{\"", b"{\"bogus\":{\"a\":[1]},\"")?,
                21 => replaced(&good, b"\"linux\":{", b"\"linux\":{\"bogus\":1,")?,
                12 => replaced(&good, b"\"hostname\":\"inside\"", b"\"hostname\":\"first\",\"hostname\":\"inside\"")?,
                14 => replaced(&good, b"\"exit\",\"7\"", b"\"say\",\"\xff\xfe\",\"then\",\"exit\",\"7\"")?,
                _ => match text.iter().position(|&byte| byte == b'%') {
                    Some(at) => [&text[..at], good.as_slice(), &text[at + 1..]].concat(),
                    None => text.to_vec(),
                },
            };
            bundle.write_text(&text)?;
            let path = bundle.path().to_string_lossy().into_owned();
            let output = t.runtime(["run", "--bundle", &path, &t.new_id()])?;
            judge(t, ours, &output).with_context(|| format!("BAD-{number:03} {case}"))?;
        }
        Ok(())
    });
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> anyhow::Result<Vec<u8>> {
    let at = text.windows(from.len()).position(|part| part == from).ok_or_else(|| anyhow::anyhow!("the config has no {from:?}"))?;
    Ok([&text[..at], to, &text[at + from.len()..]].concat())
}

#[test]
fn bad_013_depth() {
    check(|t| {
        let bundle = t.bundle()?;
        bundle.write_text(format!("{{\"annotations\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes())?;
        let path = bundle.path().to_string_lossy().into_owned();
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(1)?;
        Ok(())
    });
}

#[test]
fn bad_015_to_018_no_file() {
    check(|t| {
        let bundle = t.bundle()?;
        let config = bundle.path().join("config.json");
        let path = bundle.path().to_string_lossy().into_owned();
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with("config.json")?;
        std::fs::create_dir(&config)?;
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with("config.json")?;
        std::fs::remove_dir(&config)?;
        std::os::unix::fs::symlink("nowhere", &config)?;
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with("config.json")?;
        let nowhere = t.path().join("nowhere").to_string_lossy().into_owned();
        t.runtime(["run", "--bundle", &nowhere, &t.new_id()])?.exits(1)?.fails_with("no such file or directory")?.fails_with("nowhere")?;
        Ok(())
    });
}

#[test]
fn config_that_is_a_fifo_never_hangs() {
    check(|t| {
        let known = t.differs("runc", "opens a FIFO and waits for ever") || t.differs("crun", "opens a FIFO and waits for ever");
        if known {
            return Ok(());
        }
        let bundle = t.bundle()?;
        let config = bundle.path().join("config.json");
        rustix::fs::mkfifoat(rustix::fs::CWD, &config, rustix::fs::Mode::from_raw_mode(0o600))?;
        let path = bundle.path().to_string_lossy().into_owned();
        t.runtime(["run", "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with("config.json")?;
        Ok(())
    });
}

#[test]
fn bad_019_and_022_to_029() {
    const ROWS: [Row; 9] = [
        fails(19, "an annotation of 64 MiB", "config.json|size|large", |b| _ = b.set("/annotations", json!({"a": "x".repeat(64 << 20)})))
            .but(&[("runc", "runs")]),
        runs(22, "a key in another case", |b| _ = b.unset("/hostname").set("/Hostname", json!("inside"))),
        runs(23, "ociVersion missing", |b| _ = b.unset("/ociVersion")),
        runs(24, "ociVersion empty", |b| _ = b.set("/ociVersion", json!(""))),
        fails(25, "ociVersion a number", "ociVersion", |b| _ = b.set("/ociVersion", json!(1))),
        runs(26, "ociVersion garbage", |b| _ = b.set("/ociVersion", json!("garbage"))),
        runs(27, "ociVersion 2.0.0", |b| _ = b.set("/ociVersion", json!("2.0.0"))),
        runs(28, "ociVersion 1.99.0", |b| _ = b.set("/ociVersion", json!("1.99.0"))),
        runs(29, "ociVersion null", |b| _ = b.set("/ociVersion", Value::Null)),
    ];
    check(|t| table(t, &ROWS));
}
