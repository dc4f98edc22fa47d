//! The reader of config.json. It follows Go's encoding/json, because Go programs write and read these files.
//!
//! Serde's derive differs from encoding/json in four points. Go writes `null` for empty lists and objects, and reads it as
//! absent. Of equal keys the last one wins. Keys match without regard to case. A type error names the field. [`object!`] defines
//! structs with such a reader, which also ignores unknown keys (config.md, "Extensibility").

use serde::de::{DeserializeSeed, Deserializer};
use std::fmt::Display;
use std::marker::PhantomData;

/// Reads `null` as the default value.
pub(super) struct NullAsDefault<T>(pub(super) PhantomData<T>);

impl<'de, T: serde::Deserialize<'de> + Default> DeserializeSeed<'de> for NullAsDefault<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// Puts a key in front of an error from below it, so that the text has the whole path: `process.user.uid: ...`.
pub(super) fn below<E: serde::de::Error>(key: &str, error: impl Display) -> E {
    let text = error.to_string();
    // a path from below continues after a dot, a plain error text after a colon
    match text.split_once(": ") {
        Some((path, _)) if !path.is_empty() && path.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') && !is_serde_word(path) => {
            E::custom(format_args!("{key}.{text}"))
        }
        _ => E::custom(format_args!("{key}: {text}")),
    }
}

fn is_serde_word(path: &str) -> bool {
    path.contains(' ') || matches!(path, "invalid" | "unknown" | "missing" | "expected" | "EOF")
}

/// Defines structs of the config: `"jsonKey" => field: Type`. Each field has a default; an absent key and `null` give it.
macro_rules! object {
    ($($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $key:literal => $field:ident: $ty:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
        #[non_exhaustive]
        #[allow(unreachable_pub, reason = "a test may define one")]
        pub struct $name {
            $($(#[$fmeta])* #[doc = concat!("`", $key, "` of the specification.")] #[serde(rename = $key, skip_serializing_if = "crate::spec::json::is_default")] pub $field: $ty,)*
        }

        impl crate::spec::shape::Shaped for $name {
            const SHAPE: &'static crate::spec::shape::Shape =
                &crate::spec::shape::Shape::Object(&[$(($key, <$ty as crate::spec::shape::Shaped>::SHAPE)),*]);
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;
                impl<'de> serde::de::Visitor<'de> for Reader {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        use serde::de::Error as _;
                        let mut value = $name::default();
                        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                            $(if key.eq_ignore_ascii_case($key) {
                                value.$field = map.next_value_seed(crate::spec::json::NullAsDefault(std::marker::PhantomData))
                                    .map_err(|e| crate::spec::json::below::<A::Error>($key, e))?;
                                continue;
                            })*
                            map.next_value::<serde::de::IgnoredAny>().map_err(A::Error::custom)?;
                        }
                        Ok(value)
                    }
                }
                deserializer.deserialize_map(Reader)
            }
        }
    )*};
}
pub(super) use object;

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    object! {
        Inner { "count" => count: u32, "list" => list: Vec<String>, }
        Outer { "someName" => some_name: Option<String>, "inner" => inner: Inner, "all" => all: Vec<Inner>, }
    }

    fn read(text: &str) -> Result<Outer, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn null_is_absent_and_the_last_key_wins() {
        let v = read(r#"{"someName":"a","SOMENAME":"b","inner":null,"all":null,"other":[1,{"x":2}]}"#).unwrap();
        assert_eq!(v, Outer { some_name: Some("b".into()), ..Outer::default() });
        assert_eq!(read(r#"{"inner":{"list":null}}"#).unwrap(), Outer::default());
    }

    #[test]
    fn a_wrong_type_names_the_path() {
        let e = read(r#"{"inner":{"count":"x"}}"#).unwrap_err();
        assert_eq!(e, "inner.count: invalid type: string \"x\", expected u32 at line 1 column 21");
        let e = read(r#"{"inner":[]}"#).unwrap_err();
        assert!(e.starts_with("inner: invalid type: sequence, expected an object"), "{e}");
        let e = read(r#"{"all":[{"count":-1}]}"#).unwrap_err();
        assert!(e.starts_with("all.count: invalid value: integer `-1`, expected u32"), "{e}");
    }

    #[test]
    fn what_is_default_is_not_written() {
        let v = Outer { some_name: Some("x".into()), ..Outer::default() };
        assert_eq!(serde_json::to_string(&v).unwrap(), r#"{"someName":"x"}"#);
    }
}
