//! The types of config.json as data, from the same tables as the readers (`object!`). They let `masu check` go on after a wrong
//! type, where serde stops.

use std::collections::BTreeMap;

use serde::de::Unexpected;
use serde_json::Value;

use crate::findings::Findings;

/// The type of a value.
#[derive(Debug)]
pub(crate) enum Shape {
    Bool,
    Text,
    /// The name of the type, its minimum and its maximum.
    Integer(&'static str, i64, u64),
    /// The inner type or `null`.
    Nullable(&'static Shape),
    List(&'static Shape),
    /// An object whose names are free.
    Map(&'static Shape),
    /// An object with these names.
    Object(&'static [(&'static str, &'static Shape)]),
}
use Shape::*;

/// A type that config.json has.
pub(crate) trait Shaped {
    const SHAPE: &'static Shape;
}

macro_rules! integers {
    ($($ty:ident)*) => {$(
        impl Shaped for $ty {
            const SHAPE: &'static Shape = &Integer(stringify!($ty), $ty::MIN as i64, $ty::MAX as u64);
        }
    )*};
}
integers!(u16 u32 u64 i32 i64);

impl Shaped for bool {
    const SHAPE: &'static Shape = &Bool;
}

impl Shaped for String {
    const SHAPE: &'static Shape = &Text;
}

impl<T: Shaped> Shaped for Option<T> {
    const SHAPE: &'static Shape = &Nullable(T::SHAPE);
}

impl<T: Shaped> Shaped for Vec<T> {
    const SHAPE: &'static Shape = &List(T::SHAPE);
}

impl<T: Shaped> Shaped for BTreeMap<String, T> {
    const SHAPE: &'static Shape = &Map(T::SHAPE);
}

/// Properties of other platforms in the specification, which are ignored.
const OTHER_PLATFORMS: [&str; 5] = ["solaris", "windows", "vm", "zos", "freebsd"];

/// Reports each part of `value` with a wrong type and replaces it with a harmless value. Unknown names are warnings: the
/// specification ignores them, but they may be misspelt.
pub(crate) fn correct(value: &mut Value, shape: &Shape, path: &mut String, found: &mut Findings) {
    let length = path.len();
    match (shape, &mut *value) {
        (Nullable(_), Value::Null) => {}
        (Nullable(inner), _) => correct(value, inner, path, found),
        (Bool, Value::Bool(_)) | (Text, Value::String(_)) => {}
        (Integer(name, min, max), Value::Number(n)) => {
            let fits = n.as_i64().map(|n| n >= *min && (n < 0 || n as u64 <= *max)).or(n.as_u64().map(|n| n <= *max));
            if fits != Some(true) {
                let kind = if fits.is_none() { "type" } else { "value" };
                let got = match (n.as_i64(), n.as_u64()) {
                    (_, Some(n)) => Unexpected::Unsigned(n),
                    (Some(n), _) => Unexpected::Signed(n),
                    _ => Unexpected::Float(n.as_f64().unwrap_or_default()),
                };
                found.invalid(&path, format!("{path}: invalid {kind}: {got}, expected {name}"));
                *value = Value::from(0);
            }
        }
        (List(inner), Value::Array(list)) => {
            for (i, item) in list.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                correct(item, inner, path, found);
                path.truncate(length);
            }
        }
        (Map(inner), Value::Object(map)) => {
            for (key, item) in map {
                path.push_str(&format!("[{key:?}]"));
                correct(item, inner, path, found);
                path.truncate(length);
            }
        }
        (Object(fields), Value::Object(map)) => {
            for (key, item) in map {
                let field = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
                if length > 0 {
                    path.push('.');
                }
                path.push_str(field.map_or(key, |(name, _)| name));
                match field {
                    // null means absent
                    Some(_) if item.is_null() => {}
                    Some((_, shape)) => correct(item, shape, path, found),
                    None if length == 0 && OTHER_PLATFORMS.contains(&key.as_str()) => {}
                    None => found.warn(&path, format!("{path}: unknown property, ignored")),
                }
                path.truncate(length);
            }
        }
        (shape, wrong) => {
            let got = match wrong {
                Value::Null => Unexpected::Other("null"),
                Value::Bool(b) => Unexpected::Bool(*b),
                Value::Number(n) => n.as_i64().map_or(Unexpected::Float(n.as_f64().unwrap_or_default()), Unexpected::Signed),
                Value::String(text) => Unexpected::Str(text),
                Value::Array(_) => Unexpected::Seq,
                Value::Object(_) => Unexpected::Map,
            };
            let (expected, harmless) = harmless(shape);
            found.invalid(&path, format!("{path}: invalid type: {got}, expected {expected}"));
            *wrong = harmless;
        }
    }
}

/// The name of the type, and a harmless value of it.
fn harmless(shape: &Shape) -> (&'static str, Value) {
    match shape {
        Bool => ("a boolean", Value::Bool(false)),
        Text => ("a string", Value::String(String::new())),
        Integer(name, ..) => (name, Value::from(0)),
        Nullable(inner) => (harmless(inner).0, Value::Null),
        List(_) => ("a sequence", Value::Array(Vec::new())),
        Map(_) => ("a map", Value::Object(serde_json::Map::new())),
        Object(_) => ("an object", Value::Object(serde_json::Map::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use proptest::prelude::*;

    fn findings(mut value: Value) -> (Vec<(String, bool)>, Value) {
        let mut found = Findings::new();
        correct(&mut value, Spec::SHAPE, &mut String::new(), &mut found);
        (found.list().iter().map(|f| (f.text.clone(), f.kind.is_some())).collect(), value)
    }

    #[test]
    fn every_wrong_type_is_told() {
        let (found, value) = findings(serde_json::json!({
            "process": {"args": ["x", 7, null], "terminal": "no", "user": {"uid": -1, "gid": 1.0, "umsk": 2}, "env": {}},
            "root": "rootfs",
            "linux": {"resources": {"memory": {"limit": 18446744073709551615_u64}, "blockIO": {"weight": 70000}}, "sysctl": {"a.b": 1}},
            "windows": 3,
        }));
        let texts: Vec<_> = found.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "linux.resources.blockIO.weight: invalid value: integer `70000`, expected u16",
                "linux.resources.memory.limit: invalid value: integer `18446744073709551615`, expected i64",
                "linux.sysctl[\"a.b\"]: invalid type: integer `1`, expected a string",
                "process.args[1]: invalid type: integer `7`, expected a string",
                "process.env: invalid type: map, expected a sequence",
                "process.terminal: invalid type: string \"no\", expected a boolean",
                "process.user.gid: invalid type: floating point `1.0`, expected u32",
                "process.user.uid: invalid value: integer `-1`, expected u32",
                "process.user.umsk: unknown property, ignored",
                "root: invalid type: string \"rootfs\", expected an object",
            ]
        );
        assert_eq!(found.iter().filter(|(_, error)| !error).count(), 1);
        Spec::from_slice(value.to_string().as_bytes()).unwrap();
    }

    /// Any JSON value, with names of config.json.
    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (0_i64..70_000).prop_map(Value::from),
            any::<f32>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from),
        ];
        let names = prop::sample::select(vec![
            "process",
            "linux",
            "root",
            "args",
            "user",
            "uid",
            "Env",
            "resources",
            "memory",
            "limit",
            "cpu",
            "blockIO",
            "weight",
            "mounts",
            "options",
            "seccomp",
            "flags",
            "syscalls",
            "names",
            "sysctl",
            "hooks",
            "prestart",
            "timeout",
            "other",
        ]);
        leaf.prop_recursive(6, 48, 5, move |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                3 => prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        /// The shapes and the readers accept the same values, and the readers accept a corrected value.
        #[test]
        fn shapes_are_what_is_read(value in any_value()) {
            let read = Spec::from_slice(value.to_string().as_bytes());
            let (found, corrected) = findings(value);
            let wrong = found.iter().any(|(_, error)| *error);
            prop_assert_eq!(read.is_err(), wrong || corrected.is_null(), "{:?} {:?}", read, found);
            if !corrected.is_null() {
                Spec::from_slice(corrected.to_string().as_bytes()).unwrap();
            }
        }
    }
}
