//! BAD-244 to BAD-259: hooks. Failing hooks are tested elsewhere.

use integration::check;
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

const ROWS: [Row; 11] = [
    fails(244, "no path", "path|hook", |b| _ = b.set("/hooks", json!({"createRuntime": [{"args": ["x"]}]}))),
    fails(245, "a relative path", "bin/true", |b| _ = b.set("/hooks", json!({"createRuntime": [{"path": "bin/true"}]}))),
    fails(246, "a path that is not there", "/no/such/hook", |b| _ = b.set("/hooks", json!({"createRuntime": [{"path": "/no/such/hook"}]}))),
    fails(247, "a file that is no program", "/etc/hostname", |b| {
        _ = b.set("/hooks", json!({"createRuntime": [{"path": "/etc/hostname"}]}))
    }),
    fails(254, "a timeout of 0", "timeout", |b| {
        _ = b.set("/hooks", json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1"], "timeout": 0}]}))
    }),
    fails(255, "a timeout of -1", "timeout", |b| {
        _ = b.set("/hooks", json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1"], "timeout": -1}]}))
    }),
    runs(257, "a kind that is none", |b| _ = b.set("/hooks", json!({"bogus": [{"path": "/bin/false"}]}))),
    fails(258, "hooks of a kind an object", "createRuntime", |b| _ = b.set("/hooks", json!({"createRuntime": {"path": "/bin/true"}}))),
    fails(259, "env a string", "env", |b| _ = b.set("/hooks", json!({"createRuntime": [{"path": "/bin/true", "env": "A=1"}]}))),
    fails(259, "a NUL in a path", "path|nul", |b| _ = b.set("/hooks", json!({"createRuntime": [{"path": "/bin/true\0"}]}))),
    runs(259, "hooks null", |b| _ = b.set("/hooks", json!({"createRuntime": Value::Null, "poststop": []}))),
];

#[test]
fn bad_244_to_259_hooks() {
    check(|t| table(t, &ROWS));
}
