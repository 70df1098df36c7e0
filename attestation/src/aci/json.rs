//! JSON in its canonical form, as far as ACI uses it: names are ASCII, numbers are
//! integers that every language can hold, and no name occurs twice.
//!
//! Source: RFC 8785 (JCS), and RFC 7493, section 2.2, for the range.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A document, whatever its order and spaces were.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// At most 2^53 - 1 either way.
    Integer(i64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(BTreeMap<String, Self>),
}

impl Json {
    /// Reads a document.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice(text).map_err(JsonError::of)
    }

    /// The document that stands for a value.
    pub fn of(value: &impl Serialize) -> Result<Self, JsonError> {
        Self::parse(&serde_json::to_vec(value).map_err(JsonError::of)?)
    }

    /// The value that a document stands for.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        serde_json::from_str(&self.canonical()).map_err(JsonError::of)
    }

    /// What is hashed and signed.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) {
        match self {
            Self::Null => to.push_str("null"),
            Self::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
            // A string takes all that is written.
            Self::Integer(value) => write!(to, "{value}").unwrap_or_default(),
            Self::Text(text) => write_text(text, to),
            Self::List(items) => {
                to.push('[');
                for (index, item) in items.iter().enumerate() {
                    separate(index, to);
                    item.write(to);
                }
                to.push(']');
            }
            Self::Object(members) => {
                to.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    separate(index, to);
                    write_text(name, to);
                    to.push(':');
                    member.write(to);
                }
                to.push('}');
            }
        }
    }
}

fn separate(index: usize, to: &mut String) {
    if index > 0 {
        to.push(',');
    }
}

/// RFC 8785, section 3.2.2.2.
fn write_text(text: &str, to: &mut String) {
    to.push('"');
    for char in text.chars() {
        match char {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\u{8}' => to.push_str("\\b"),
            '\t' => to.push_str("\\t"),
            '\n' => to.push_str("\\n"),
            '\u{c}' => to.push_str("\\f"),
            '\r' => to.push_str("\\r"),
            '\0'..='\u{1f}' => write!(to, "\\u{:04x}", u32::from(char)).unwrap_or_default(),
            _ => to.push(char),
        }
    }
    to.push('"');
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Integer(value) => to.serialize_i64(*value),
            Self::Text(text) => to.serialize_str(text),
            Self::List(items) => to.collect_seq(items),
            Self::Object(members) => to.collect_map(members),
        }
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a truth value, an integer below 2^53, a string, an array or an object")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Json, E> {
        match (-LARGEST..=LARGEST).contains(&value) {
            true => Ok(Json::Integer(value)),
            false => Err(E::custom("an integer beyond 2^53 - 1")),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Json, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = from.next_key::<String>()? {
            // Beyond ASCII, JCS and this map have other orders.
            if !name.is_ascii() {
                return Err(A::Error::custom("a name that is not ASCII"));
            }
            match members.entry(name) {
                Entry::Vacant(place) => place.insert(from.next_value()?),
                Entry::Occupied(_) => return Err(A::Error::custom("a name that occurs twice")),
            };
        }
        Ok(Json::Object(members))
    }
}

/// 2^53 - 1.
const LARGEST: i64 = 9_007_199_254_740_991;

/// Not JSON of this kind, or not what it should stand for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct JsonError {
    /// What, and where.
    pub reason: String,
}

impl JsonError {
    fn of(error: serde_json::Error) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> Result<String, String> {
        let json = Json::parse(text.as_bytes());
        json.map(|json| json.canonical())
            .map_err(|error| error.reason)
    }

    #[test]
    fn order_spaces_and_escapes_do_not_matter() {
        let text = "{ \"b\": [1, -2, null, true],\n \"B\": \"\\u0041\\/\\u20ac\", \"\": {} }";
        let expected = r#"{"":{},"B":"A/€","b":[1,-2,null,true]}"#;
        assert_eq!(canonical(text).as_deref(), Ok(expected));
        assert_eq!(canonical(expected).as_deref(), Ok(expected));
    }

    #[test]
    fn control_characters_are_written_as_the_rfc_has_them() {
        let text =
            "\"\\u0000\\u0008\\u0009\\u000a\\u000b\\u000c\\u000d\\u001f\\u0022\\u005c\\u007f\"";
        let expected = "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\\"\\\\\u{7f}\"";
        assert_eq!(canonical(text).as_deref(), Ok(expected));
    }

    #[test]
    fn what_has_no_one_form_is_refused() {
        for (text, reason) in [
            (
                r#"{"a":1,"a":1}"#,
                "a name that occurs twice at line 1 column 10",
            ),
            (r#"{"é":1}"#, "a name that is not ASCII at line 1 column 5"),
            (
                "9007199254740992",
                "an integer beyond 2^53 - 1 at line 1 column 16",
            ),
            (
                "-9007199254740992",
                "an integer beyond 2^53 - 1 at line 1 column 17",
            ),
        ] {
            assert_eq!(canonical(text), Err(reason.into()), "{text}");
        }
        for text in ["1.0", "1e3", "-0", "[1] 2", "", "{", "nul"] {
            assert!(canonical(text).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert!(canonical(&("[".repeat(100_000) + &"]".repeat(100_000))).is_err());
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(text in "\\PC*", number in -LARGEST..=LARGEST) {
            let json = Json::List([Json::Text(text), Json::Integer(number)].into());
            prop_assert_eq!(Json::parse(json.canonical().as_bytes()), Ok(json));
        }
    }
}
