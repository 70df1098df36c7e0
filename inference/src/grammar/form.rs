//! Forms in the library's dialect of Lark, put together rule by rule.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::error::RequestError;
use crate::request::Format;
use crate::schema::sanitise;
use crate::tools::{Style, Tool, ToolChoice, Tools};

/// What an answer has to be.
pub(crate) struct Form {
    pub(super) lark: String,
    rules: usize,
    pub(super) parameter: &'static str,
    /// What begins a call within text.
    pub(super) marker: &'static str,
}

impl Form {
    /// What an answer has to be, if it is not free; `style` is how it calls tools.
    pub(crate) fn of(
        format: &Format,
        tools: &Tools,
        style: Option<&Style>,
    ) -> Result<Option<Self>, RequestError> {
        let free = matches!(format, Format::Text);
        let must_call = tools.choice != ToolChoice::Auto;
        let mut form = Self::new(if free { "tools" } else { "response_format" }, style);
        let json = match format {
            Format::Text => None,
            Format::Json => Some(form.json(&any_object())?),
            Format::Schema(schema) => Some(form.json(schema)?),
        };
        form.parameter = "tools";
        let start = match (json, style) {
            (None, None) => return Ok(None),
            (Some(json), None) => json,
            (None, Some(style)) if !must_call => style.answers(tools, &mut form)?,
            (json, Some(style)) => match (json, style.calls(tools, &mut form)?) {
                (Some(json), calls) if !must_call => format!("{json} | {calls}"),
                (_, calls) => calls,
            },
        };
        Ok(Some(form.start(&start)))
    }

    /// One that was put together before; see [`Self::text`].
    pub(crate) fn again(lark: String, style: Option<&Style>) -> Self {
        Self {
            lark,
            ..Self::new("form", style)
        }
    }

    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.lark
    }

    /// Whether answers may be any text, but for calls in it.
    pub(super) fn is_free(&self) -> bool {
        self.lark.starts_with(TEXT)
    }

    /// `parameter` is what a refusal names.
    pub(super) fn new(parameter: &'static str, style: Option<&Style>) -> Self {
        Self {
            lark: String::new(),
            rules: 0,
            parameter,
            marker: style.map_or("", |style| style.marker),
        }
    }

    /// Adds a rule for values of a schema; its name.
    pub(crate) fn json(&mut self, schema: &Value) -> Result<String, RequestError> {
        let schema = sanitise(schema).map_err(|source| RequestError::Schema {
            parameter: self.parameter,
            source,
        })?;
        let mut schema = match schema {
            Value::Object(map) => map,
            other => [("anyOf".to_owned(), json!([other]))].into_iter().collect(),
        };
        schema.insert(
            "x-guidance".into(),
            json!({
                "whitespace_flexible": false,
                "item_separator": ", ?",
                "key_separator": ": ?",
            }),
        );
        Ok(self.rule(&format!("%json {}", Value::Object(schema))))
    }

    /// Adds a rule for the arguments of a tool; its name. Where no rule can be made of
    /// their schema and none has to be, they are any object.
    pub(crate) fn arguments(&mut self, tool: &Tool) -> Result<String, RequestError> {
        match tool.parameters.as_ref().map(|schema| self.json(schema)) {
            Some(done) if done.is_ok() || tool.strict => done,
            _ => self.json(&any_object()),
        }
    }

    /// Lets `TEXT` be any text, before anything else is added.
    pub(crate) fn any_text(&mut self) {
        self.lark.insert_str(0, TEXT);
    }

    /// Adds a rule; its name.
    pub(crate) fn rule(&mut self, body: &str) -> String {
        self.named("r", "", body)
    }

    /// Adds what ends where it first can; its name.
    pub(crate) fn shortest(&mut self, body: &str) -> String {
        self.named("r", "[lazy]", body)
    }

    /// Adds a pattern; its name.
    pub(crate) fn pattern(&mut self, body: &str) -> String {
        self.named("P", "", body)
    }

    fn named(&mut self, kind: &str, how: &str, body: &str) -> String {
        self.rules = self.rules.saturating_add(1);
        let name = format!("{kind}{}", self.rules);
        // Writing to a string does not fail.
        writeln!(self.lark, "{name}{how}: {body}").unwrap_or_default();
        name
    }

    /// The rule that is the whole answer.
    pub(super) fn start(mut self, body: &str) -> Self {
        writeln!(self.lark, "start: {body}").unwrap_or_default();
        self
    }
}

/// What a form begins with whose answers may be any text.
const TEXT: &str = "TEXT: /(?s:.*)/\n";

fn any_object() -> Value {
    json!({"type": "object"})
}

/// A text as it stands, in a rule.
pub(crate) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The beginning of some JSON with `white` before each of its parts, as a pattern.
pub(crate) fn loosely(white: &str, json: &str) -> String {
    let parts = parts(json).map(|part| match part.starts_with('"') {
        true => format!("{white}{part}"),
        false => format!("{white}[{part}]"),
    });
    parts.collect()
}

/// The same as the parts that [`Form::json`] makes JSON of, so that both can stand side
/// by side: as long as the parts are the same, it may become either.
pub(crate) fn apart(json: &str) -> String {
    let parts = parts(json).map(|part| match part {
        "," | ":" => format!("/{part} ?/"),
        _ => literal(part),
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// Strings, of which the last may be unfinished, and marks; no string has a quote in it.
fn parts(json: &str) -> impl Iterator<Item = &str> {
    let mut left = json;
    std::iter::from_fn(move || {
        left = left.trim_start();
        let end = match left.strip_prefix('"') {
            Some(rest) => rest
                .find('"')
                .map_or(left.len(), |end| end.saturating_add(2)),
            None => 1,
        };
        let (part, rest) = left.split_at_checked(end)?;
        left = rest;
        Some(part)
    })
}
