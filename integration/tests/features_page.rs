//! Checks docs/features.md: each row has a proof or a reason, and each named test exists.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The sources in which a test of `file` may be. `file` is a path of the project, or a file of `integration/tests` with its
/// modules.
fn sources(file: &str) -> String {
    let tests = root().join("integration/tests");
    let mut paths = if file.contains('/') { vec![root().join(file)] } else { vec![tests.join(format!("{file}.rs"))] };
    paths.extend(fs::read_dir(tests.join(file)).into_iter().flatten().flatten().map(|entry| entry.path()));
    paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

#[test]
fn every_row_has_a_proof_that_exists_or_a_reason() {
    let page = fs::read_to_string(root().join("docs/features.md")).unwrap_or_default();
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.contains("| proof |") && !line.contains("| reason |")) {
        rows += 1;
        let proof = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        if proof.len() < 8 {
            wrong.push(format!("neither a proof nor a reason: {line}"));
        }
        for name in proof.split('`').skip(1).step_by(2) {
            if let Some((file, test)) = name.split_once("::")
                && !sources(file).contains(&format!("fn {test}("))
            {
                wrong.push(format!("no test {name}"));
            }
        }
    }
    assert!(rows > 90, "{rows} rows");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
