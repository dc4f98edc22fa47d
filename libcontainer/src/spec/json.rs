//! How config.json is read: as the Go programs that write it read it themselves.
//!
//! Serde's derive differs from Go's encoding/json in four ways that matter here: Go writes `null` for empty lists
//! and objects and takes it for "absent", lets the last of two equal keys win, matches keys without regard to case,
//! and names the field in a type error. [`object!`] writes structs whose reader does all four, and ignores unknown keys
//! as the runtime spec demands (config.md, "Extensibility").

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

/// Puts a key in front of a deeper error, so that the text ends up with the whole path: `process.user.uid: …`.
pub(super) fn below<E: serde::de::Error>(key: &str, error: impl Display) -> E {
    let text = error.to_string();
    // a deeper path continues with its own key; an error text follows a colon
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

/// Defines structs of the config: `"jsonKey" => field: Type`. Every field has a default; absent and `null` are alike.
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
