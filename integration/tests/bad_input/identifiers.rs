//! BAD-260 to BAD-278: container ids, and the files that the runtime writes.

use anyhow::ensure;
use integration::check;

#[test]
fn bad_260_to_277_names() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", "7"]).write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let long = "a".repeat(300);
        let longer = "a".repeat(1025);
        let bad = ["", ".", "..", "a/b", "../x", "-x", "a b", "a\nb", "\u{fc}", long.as_str(), longer.as_str(), "A:b", "x@y"];
        for id in bad {
            let output = t.runtime(["run", "--bundle", &path, id])?;
            let crun = output.status.code() == Some(7) && t.differs("crun", "takes more names");
            ensure!(crun || output.status.code() == Some(1) || t.differs("crun", "has exit codes of its own"), "{id:?}: {output:?}");
        }
        for id in [".hidden", "a..b", "+x", "_x", "a.", "A-b_c.d+e"] {
            let id = format!("{id}-{}", t.token());
            let output = t.runtime(["run", "--bundle", &path, &id])?;
            ensure!(output.status.code() == Some(7) || t.differs("crun", "refuses a name that starts with a dot"), "{id:?}: {output:?}");
        }
        Ok(())
    });
}

#[test]
fn bad_278_pid_file_in_a_folder_that_is_not_there() {
    check(|t| {
        let bundle = t.bundle()?;
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let output = t.runtime(["run", "--pid-file", "/no/dir/pid", "--bundle", &path, &t.new_id()])?;
        output.exits(1)?.fails_with("no such file or directory")?.fails_with("/no/dir")?;
        Ok(())
    });
}

#[test]
fn flags_that_are_none_and_flags_without_a_value() {
    check(|t| {
        for words in
            [&["--bogus", "list"][..], &["list", "--bogus"], &["bogus"], &["create"], &["state"], &["create", "--bundle"], &["kill"]]
        {
            let output = t.runtime(words)?;
            ensure!(!output.status.success(), "{words:?}: {output:?}");
            ensure!(!(output.stderr.is_empty() && output.stdout.is_empty()), "{words:?}: not a word");
        }
        Ok(())
    });
}
