//! JSON schemas of strangers, made fit for a grammar.
//!
//! What is passed on is rebuilt from keywords that are known here and have the shape
//! that they must have, so the library that compiles it meets no surprise. Sizes are
//! bounded, and nothing is combined that would multiply alternatives. A few things
//! are settled that a schema leaves open: an object that lists properties has no
//! others unless it says so, `oneOf` is read as `anyOf`, annotations are dropped.
//!
//! Source: JSON Schema 2020-12; the limits are about those of OpenAI's structured outputs.

use serde_json::{Map, Value};

/// Why a schema is refused; it names keywords, never what they hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A keyword beside others with which it is not supported.
    #[error("{keyword} beside other keywords is not supported")]
    Combined {
        /// Which.
        keyword: &'static str,
    },
    /// It contradicts itself, or asks for more than the library takes on.
    #[error("no answer can follow it, or only at too great a cost")]
    Costly,
    /// Alternatives within alternatives within ...
    #[error("it is nested more than {MAX_DEPTH} deep")]
    Deep,
    /// More schemas, names and values than anybody needs.
    #[error("it has more than {MAX_NODES} parts")]
    Large,
    /// Not what the keyword takes.
    #[error("{keyword} is not {expected}")]
    Value {
        /// Which.
        keyword: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A keyword that is unknown, or that no grammar can follow.
    #[error("the keyword {keyword:?} is not supported")]
    Unsupported {
        /// Its first characters.
        keyword: String,
    },
    /// A schema is neither an object nor a boolean.
    #[error("a schema is not an object")]
    Shape,
}

/// The same schema, as the grammar library may have it.
pub(crate) fn sanitise(schema: &Value) -> Result<Value, SchemaError> {
    let mut clean = Cleaner {
        root: schema,
        nodes: 0,
    };
    clean.schema(schema, 0)
}

struct Cleaner<'a> {
    root: &'a Value,
    nodes: usize,
}

impl Cleaner<'_> {
    fn schema(&mut self, schema: &Value, depth: usize) -> Result<Value, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::Deep);
        }
        self.count(1)?;
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err(SchemaError::Shape),
        };
        let inner = depth.saturating_add(1);
        let mut clean = Map::new();
        for (keyword, value) in map {
            if ANNOTATIONS.contains(&keyword.as_str()) {
                continue;
            }
            let (name, value) = self.keyword(keyword, value, inner)?;
            clean.insert(name.to_owned(), value);
        }
        for keyword in ALONE {
            let beside = clean
                .keys()
                .filter(|key| !DEFINITIONS.contains(&key.as_str()));
            if clean.contains_key(keyword) && beside.count() > 1 {
                return Err(SchemaError::Combined { keyword });
            }
        }
        if clean.contains_key("properties") && !clean.contains_key("additionalProperties") {
            clean.insert("additionalProperties".into(), Value::Bool(false));
        }
        Ok(Value::Object(clean))
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        depth: usize,
    ) -> Result<(&'static str, Value), SchemaError> {
        let wrong = |keyword, expected| Err(SchemaError::Value { keyword, expected });
        Ok(match keyword {
            "type" => match value {
                Value::String(kind) if is_type(kind) => ("type", value.clone()),
                Value::Array(kinds)
                    if !kinds.is_empty()
                        && kinds.len() <= TYPES.len()
                        && kinds.iter().all(|kind| kind.as_str().is_some_and(is_type)) =>
                {
                    ("type", value.clone())
                }
                _ => return wrong("type", "a type or a list of types"),
            },
            "properties" => ("properties", self.named("properties", value, depth)?),
            "$defs" => ("$defs", self.named("$defs", value, depth)?),
            "definitions" => ("definitions", self.named("definitions", value, depth)?),
            "items" => ("items", self.schema(value, depth)?),
            "additionalProperties" => ("additionalProperties", self.schema(value, depth)?),
            "prefixItems" => ("prefixItems", self.list("prefixItems", value, depth)?),
            "anyOf" => ("anyOf", self.list("anyOf", value, depth)?),
            "oneOf" => ("anyOf", self.list("oneOf", value, depth)?),
            // Pydantic writes one schema so, to have room for annotations.
            "allOf" => match value.as_array().map(Vec::as_slice) {
                Some([_]) => ("anyOf", self.list("allOf", value, depth)?),
                _ => return wrong("allOf", "a list of one schema"),
            },
            "enum" => match value.as_array() {
                Some(values) if !values.is_empty() => {
                    values
                        .iter()
                        .try_for_each(|value| self.value(value, depth))?;
                    ("enum", value.clone())
                }
                _ => return wrong("enum", "a list of values"),
            },
            "const" => {
                self.value(value, depth)?;
                ("const", value.clone())
            }
            "required" => match value.as_array() {
                Some(names) if names.iter().all(Value::is_string) => {
                    self.count(names.len())?;
                    ("required", value.clone())
                }
                _ => return wrong("required", "a list of names"),
            },
            "$ref" => match value.as_str() {
                Some(reference) if self.resolves(reference) => ("$ref", value.clone()),
                _ => return wrong("$ref", "a place in this schema"),
            },
            "pattern" => match value.as_str() {
                Some(pattern) if pattern.len() <= MAX_PATTERN => ("pattern", value.clone()),
                _ => return wrong("pattern", "an expression of at most 256 bytes"),
            },
            "format" => match value.as_str() {
                Some(format) if FORMATS.contains(&format) => ("format", value.clone()),
                _ => return wrong("format", "one of the formats that are known here"),
            },
            other => match (find(&COUNTS, other), find(&BOUNDS, other)) {
                (Some(keyword), _) => match value.as_u64() {
                    Some(count) if count <= MAX_COUNT => (keyword, value.clone()),
                    _ => return wrong(keyword, "an integer from 0 to 4096"),
                },
                (_, Some(keyword)) => match value.as_f64() {
                    Some(bound) if bound.abs() <= MAX_BOUND => (keyword, value.clone()),
                    _ => return wrong(keyword, "a number of at most 2^53"),
                },
                _ => {
                    return Err(SchemaError::Unsupported {
                        keyword: other.chars().take(MAX_NAME).collect(),
                    });
                }
            },
        })
    }

    /// Schemas by name.
    fn named(
        &mut self,
        keyword: &'static str,
        value: &Value,
        depth: usize,
    ) -> Result<Value, SchemaError> {
        let Value::Object(map) = value else {
            let expected = "an object of schemas";
            return Err(SchemaError::Value { keyword, expected });
        };
        let mut clean = Map::new();
        for (name, schema) in map {
            clean.insert(name.clone(), self.schema(schema, depth)?);
        }
        Ok(Value::Object(clean))
    }

    /// Schemas in a list.
    fn list(
        &mut self,
        keyword: &'static str,
        value: &Value,
        depth: usize,
    ) -> Result<Value, SchemaError> {
        match value {
            Value::Array(schemas) if !schemas.is_empty() => {
                let schemas = schemas.iter().map(|schema| self.schema(schema, depth));
                Ok(Value::Array(schemas.collect::<Result<_, _>>()?))
            }
            _ => {
                let expected = "a list of schemas";
                Err(SchemaError::Value { keyword, expected })
            }
        }
    }

    /// Counts a value and all in it.
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::Deep);
        }
        self.count(1)?;
        let inner = depth.saturating_add(1);
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.value(value, inner)),
            Value::Object(map) => map.values().try_for_each(|value| self.value(value, inner)),
            _ => Ok(()),
        }
    }

    fn count(&mut self, parts: usize) -> Result<(), SchemaError> {
        self.nodes = self.nodes.saturating_add(parts);
        match self.nodes <= MAX_NODES {
            true => Ok(()),
            false => Err(SchemaError::Large),
        }
    }

    /// Whether it is the root or a definition, which only another keyword makes a loop.
    fn resolves(&self, reference: &str) -> bool {
        let Some(pointer) = reference.strip_prefix('#') else {
            return false;
        };
        let defined = DEFINITIONS
            .iter()
            .any(|definitions| pointer.starts_with(&format!("/{definitions}/")));
        let target = self.root.pointer(pointer);
        let leads_on = |schema: &Value| schema.get("$ref").is_some();
        (pointer.is_empty() || defined) && target.is_some_and(|target| !leads_on(target))
    }
}

fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}

fn find(keywords: &[&'static str], name: &str) -> Option<&'static str> {
    keywords.iter().find(|keyword| **keyword == name).copied()
}

const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];

/// They say something to readers.
const ANNOTATIONS: [&str; 11] = [
    "$comment",
    "$schema",
    "default",
    "deprecated",
    "description",
    "example",
    "examples",
    "readOnly",
    "strict",
    "title",
    "writeOnly",
];

const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// Beside others they would have to be multiplied out.
const ALONE: [&str; 2] = ["$ref", "anyOf"];

const COUNTS: [&str; 6] = [
    "maxItems",
    "maxLength",
    "maxProperties",
    "minItems",
    "minLength",
    "minProperties",
];

const BOUNDS: [&str; 4] = ["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"];

const FORMATS: [&str; 9] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "time",
    "uuid",
];

const MAX_DEPTH: usize = 24;
const MAX_NODES: usize = 5000;
const MAX_PATTERN: usize = 256;
const MAX_COUNT: u64 = 4096;
const MAX_NAME: usize = 64;

/// What every reader of JSON holds exactly (RFC 8259, section 6).
const MAX_BOUND: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(schema: Value) -> String {
        sanitise(&schema).unwrap_err().to_string()
    }

    #[test]
    fn what_pydantic_writes_is_taken() {
        let schema = json!({
            "$defs": {"Point": {"properties": {"x": {"title": "X", "type": "integer"}},
                "required": ["x"], "title": "Point", "type": "object"}},
            "properties": {
                "one": {"allOf": [{"$ref": "#/$defs/Point"}], "default": null},
                "two": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
                "three": {"enum": ["a", "b"], "type": "string"},
            },
            "required": ["one"], "title": "Line", "type": "object",
        });
        assert_eq!(
            sanitise(&schema).unwrap(),
            json!({
                "$defs": {"Point": {"properties": {"x": {"type": "integer"}},
                    "required": ["x"], "type": "object", "additionalProperties": false}},
                "properties": {
                    "one": {"anyOf": [{"$ref": "#/$defs/Point"}]},
                    "two": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
                    "three": {"enum": ["a", "b"], "type": "string"},
                },
                "required": ["one"], "type": "object", "additionalProperties": false,
            }),
        );
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (schema, message) in [
            (json!(7), "a schema is not an object"),
            (json!({"not": {}}), "the keyword \"not\" is not supported"),
            (
                json!({"type": "text"}),
                "type is not a type or a list of types",
            ),
            (
                json!({"properties": []}),
                "properties is not an object of schemas",
            ),
            (
                json!({"allOf": [{}, {}]}),
                "allOf is not a list of one schema",
            ),
            (
                json!({"anyOf": [{}], "type": "object"}),
                "anyOf beside other keywords is not supported",
            ),
            (
                json!({"$ref": "#/$defs/x"}),
                "$ref is not a place in this schema",
            ),
            (
                json!({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}),
                "$ref is not a place in this schema",
            ),
            (
                json!({"$ref": "https://example.org"}),
                "$ref is not a place in this schema",
            ),
            (
                json!({"maxLength": 5000}),
                "maxLength is not an integer from 0 to 4096",
            ),
            (
                json!({"minimum": "1"}),
                "minimum is not a number of at most 2^53",
            ),
            (
                json!({"multipleOf": 0.1}),
                "the keyword \"multipleOf\" is not supported",
            ),
            (
                json!({"enum": vec![0; 5001]}),
                "it has more than 5000 parts",
            ),
        ] {
            assert_eq!(error(schema), message);
        }
    }

    #[test]
    fn depth_is_bounded_in_schemas_and_in_values() {
        let nest = |by: &dyn Fn(Value) -> Value| (0..100).fold(json!({}), |inner, _| by(inner));
        for deep in [
            nest(&|inner| json!({"items": inner})),
            nest(&|inner| json!({"anyOf": [inner]})),
            json!({"const": nest(&|inner| json!([inner]))}),
        ] {
            assert_eq!(error(deep), "it is nested more than 24 deep");
        }
    }
}
