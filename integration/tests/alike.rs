//! Compares masu with its peers on random valid configs. The caller's output, the program's view and abilities, and the remains
//! on the host must be the same. The differences in `alike/known.rs` are excepted, each with its reason.
//!
//! `ALIKE_SECONDS=3600 cargo nextest run -p integration --test alike` searches for an hour. `ALIKE_SEED` repeats the same
//! configs, and `ALIKE_CONFIGS` limits their number. CI sets both, because CI looks for differences caused by a change of masu,
//! not for new ones between peers. Each config with a finding is made smaller before it is reported.

#[path = "alike/config.rs"]
mod config;
#[path = "alike/known.rs"]
mod known;

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::compare::{Life, compare, life, peers};
use integration::{Bundle, Runtime, Test, check};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config as Settings, RngAlgorithm, TestRng, TestRunner};

use config::Config;
use known::KNOWN;

/// The search stops after this many different findings.
const ENOUGH: usize = 30;
/// The maximum number of smaller configs to try for one finding.
const SHRINKS: usize = 60;

/// Versions whose differences are not in the list, because later versions fixed most of them.
const OLD: [&str; 2] = ["runc<1.2", "crun<1.24"];

#[test]
fn random_configs_look_the_same_as_under_a_peer() {
    check(|t| {
        if t.runtime.kind != "masu" {
            return t.skip("compares masu with others");
        }
        let mut able = Vec::new();
        for peer in peers()? {
            if OLD.iter().any(|old| peer.is(old)) {
                let _ =
                    writeln!(std::io::stderr(), "without {} {:?}: the list of differences is for later versions", peer.kind, peer.version);
                continue;
            }
            // some peers run nothing where v1 exists beside v2, or where limits cannot be raised
            let plain = life(t, &peer, &t.bundle()?)?;
            if plain.seen["create"] == "done" {
                able.push(peer);
            } else {
                let _ = writeln!(std::io::stderr(), "without {} {:?}: {}", peer.kind, peer.version, plain.said.trim());
            }
        }
        if able.is_empty() {
            return t.skip("no runc from 1.2 on and no crun from 1.24 on that runs containers here to compare with");
        }
        let mut search = Search { t, tried: 0, explained: BTreeMap::new(), refused: 0, found: Vec::new() };
        search.go(&able)?;
        search.tell();
        ensure!(search.found.is_empty(), "{} unexplained:\n{}", search.found.len(), search.found.join("\n\n"));
        Ok(())
    });
}

struct Search<'t> {
    t: &'t Test,
    tried: usize,
    /// The number of configs that showed a known difference, by its reason.
    explained: BTreeMap<&'static str, usize>,
    /// The number of configs that both runtimes refused.
    refused: usize,
    found: Vec<String>,
}

impl Search<'_> {
    fn go(&mut self, peers: &[Runtime]) -> Result<()> {
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let until = Instant::now() + Duration::from_secs(number("ALIKE_SECONDS").unwrap_or(10));
        let seed = number("ALIKE_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 32 | u64::from(rand_of_clock()));
        let _ = writeln!(std::io::stderr(), "ALIKE_SEED={seed}");
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Settings::default(), rng);
        let strategy = config::config();
        let most = number("ALIKE_CONFIGS").map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        for peer in peers.iter().cycle() {
            if Instant::now() >= until || self.tried >= most || self.found.len() >= ENOUGH {
                break;
            }
            let tree = strategy.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("make a config: {reason}"))?;
            self.tried += 1;
            let lines = self.differences(&tree.current(), peer, true)?;
            if !lines.is_empty() {
                self.smaller(tree, peer, lines)?;
            }
        }
        Ok(())
    }

    /// The differences that are not in the list.
    fn differences(&mut self, config: &Config, peer: &Runtime, count: bool) -> Result<Vec<String>> {
        let ours = self.run(config, &self.t.runtime)?;
        let theirs = self.run(config, peer)?;
        let mut lines: Vec<String> = ours.left.iter().map(|what| format!("left on the host: {what}")).collect();
        if ours.seen["create"] == theirs.seen["create"] {
            compare("", &ours.seen, &theirs.seen, &mut |line| lines.push(line));
        } else {
            let (ours_said, theirs_said) = (ours.said.trim(), theirs.said.trim());
            lines.push(format!("create: {} {ours_said:?}, under the peer {} {theirs_said:?}", ours.seen["create"], theirs.seen["create"]));
        }
        let mut reasons: Vec<_> = known::crashed(&theirs.said).into_iter().collect();
        if !reasons.is_empty() {
            lines.clear();
        }
        lines.retain(|line| {
            let known =
                KNOWN.iter().find(|(which, parts, _)| (*which == "*" || peer.is(which)) && parts.iter().all(|part| line.contains(part)));
            reasons.extend(known.map(|(_, _, reason)| *reason));
            known.is_none()
        });
        reasons.sort_unstable();
        reasons.dedup();
        if count {
            self.refused += usize::from(ours.seen["create"] == "refused" && theirs.seen["create"] == "refused");
            for reason in reasons {
                *self.explained.entry(reason).or_default() += 1;
            }
        }
        if !lines.is_empty() {
            lines.push(format!("masu said: {}", ours.said.trim()));
            lines.push(format!("{} {:?} said: {}", peer.kind, peer.version, theirs.said.trim()));
        }
        Ok(lines)
    }

    fn run(&self, config: &Config, runtime: &Runtime) -> Result<Life> {
        let mut bundle = self.t.bundle()?;
        // not the id of `life`, because the config sets the path of the cgroup
        let id = format!("{}-{}", self.t.token(), bundle.path().file_name().unwrap_or_default().to_string_lossy());
        config.apply(&mut bundle, &id)?;
        let mut life = life(self.t, runtime, &bundle)?;
        // the parents of the cgroup are the caller's to remove
        let _ = integration::host::remove_empty_cgroups(&id);
        life.seen = serde_json::from_str(&life.seen.to_string().replace(&id, "ID"))?;
        known::masks(&mut life.seen);
        remove(&bundle)?;
        Ok(life)
    }

    /// Makes a config smaller while it still differs, and returns the smallest one.
    fn smaller(&mut self, mut tree: impl ValueTree<Value = Config>, peer: &Runtime, mut lines: Vec<String>) -> Result<()> {
        let mut smallest = tree.current();
        let mut left = env::var("ALIKE_SHRINKS").ok().and_then(|text| text.parse().ok()).unwrap_or(SHRINKS);
        let mut moved = tree.simplify();
        while moved && left > 0 {
            left -= 1;
            let now = self.differences(&tree.current(), peer, false)?;
            moved = if now.is_empty() {
                tree.complicate()
            } else {
                (smallest, lines) = (tree.current(), now);
                tree.simplify()
            };
        }
        let text = format!("{} {:?}:\n  {}\n  {smallest:?}", peer.kind, peer.version, lines.join("\n  "));
        let _ = writeln!(std::io::stderr(), "DIFFERENCE {text}");
        self.found.push(text);
        Ok(())
    }

    fn tell(&self) {
        let mut out = std::io::stderr();
        let _ =
            writeln!(out, "{} configs, {} of them refused by both, {} unexplained differences", self.tried, self.refused, self.found.len());
        for (reason, count) in &self.explained {
            let _ = writeln!(out, "{count:6} explained: {reason}");
        }
    }
}

/// Removes the bundle's files, unless a mount was left below the bundle.
fn remove(bundle: &Bundle) -> Result<()> {
    if integration::host::mounts_with(&bundle.path().to_string_lossy()).is_empty() {
        std::fs::remove_dir_all(bundle.path())?;
    }
    Ok(())
}

fn rand_of_clock() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|time| time.subsec_nanos()).unwrap_or_default()
}
