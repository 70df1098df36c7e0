//! Tools, the choice among them, and the form of an answer, as requests have them.

use inference::{Format, Tool, ToolCall, ToolChoice, Tools};
use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};

/// `tools`, `tool_choice` and `parallel_tool_calls`; `nested` is whether a function is
/// in an object of its own, as in chat, or is the tool itself, as in responses.
pub(super) fn read(fields: &mut Fields, nested: bool) -> Result<Tools, ApiError> {
    let list: Option<Vec<Value>> = fields.take("tools", "an array of objects")?;
    let list = (0_usize..)
        .zip(list.unwrap_or_default())
        .map(|(index, value)| tool(&format!("tools[{index}]"), value, nested));
    let list: Vec<_> = list.collect::<Result<_, _>>()?;
    let parallel = fields.take("parallel_tool_calls", "a boolean")?;
    let choice = choice(fields, nested)?;
    Ok(Tools {
        // The model is not shown what it may not call.
        list: if choice.is_some() { list } else { Vec::new() },
        choice: choice.unwrap_or_default(),
        parallel: parallel.unwrap_or(true),
    })
}

fn tool(place: &str, value: Value, nested: bool) -> Result<Tool, ApiError> {
    let mut fields = Fields::nested(place, value)?;
    function_only(&mut fields)?;
    if nested {
        let function = fields.require("function", "an object")?;
        let place = fields.name("function");
        fields.finish()?;
        fields = Fields::nested(&place, function)?;
    }
    let tool = Tool {
        name: fields.require("name", "a string")?,
        description: fields.take("description", "a string")?,
        parameters: fields.take("parameters", "a JSON schema")?,
        strict: fields.take("strict", "a boolean")?.unwrap_or(false),
    };
    fields.finish()?;
    Ok(tool)
}

/// `None` if there is to be no call.
fn choice(fields: &mut Fields, nested: bool) -> Result<Option<ToolChoice>, ApiError> {
    let place = fields.name("tool_choice");
    match fields.take::<Value>("tool_choice", "a string or an object")? {
        None => Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(None),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => {
                let message = format!(
                    "Invalid value for '{place}': expected 'none', 'auto', 'required' or a tool.",
                );
                Err(ApiError::invalid(place, "invalid_value", message))
            }
        },
        Some(value) => {
            let mut fields = Fields::nested(&place, value)?;
            function_only(&mut fields)?;
            if nested {
                let function = fields.require("function", "an object")?;
                fields.finish()?;
                fields = Fields::nested(&format!("{place}.function"), function)?;
            }
            let name = fields.require("name", "a string")?;
            fields.finish()?;
            Ok(Some(ToolChoice::Named(name)))
        }
    }
}

fn function_only(fields: &mut Fields) -> Result<(), ApiError> {
    let kind: String = fields.require("type", "a string")?;
    if kind == "function" {
        return Ok(());
    }
    let name = fields.name("type");
    let message = format!("Invalid value for '{name}': expected 'function'.");
    Err(ApiError::invalid(name, "invalid_value", message))
}

/// A call in a message of the assistant.
pub(super) fn call(place: &str, value: Value) -> Result<ToolCall, ApiError> {
    let mut fields = Fields::nested(place, value)?;
    function_only(&mut fields)?;
    let id = fields.require("id", "a string")?;
    let function = fields.require("function", "an object")?;
    // Streamed deltas that were put together may have it.
    fields.ignore(&["index"]);
    fields.finish()?;
    let mut fields = Fields::nested(&format!("{place}.function"), function)?;
    let name = fields.require("name", "a string")?;
    let arguments = arguments(&mut fields)?;
    fields.finish()?;
    Ok(ToolCall {
        id,
        name,
        arguments,
    })
}

/// `arguments`: an object, in a string.
pub(super) fn arguments(fields: &mut Fields) -> Result<Value, ApiError> {
    let expected = "a JSON object in a string";
    let text: String = fields.require("arguments", expected)?;
    match serde_json::from_str(if text.is_empty() { "{}" } else { &text }) {
        Ok(arguments @ Value::Object(_)) => Ok(arguments),
        _ => Err(wrong_type(&fields.name("arguments"), expected)),
    }
}

/// `response_format`
pub(super) fn response_format(fields: &mut Fields) -> Result<Format, ApiError> {
    let Some(value) = fields.take::<Value>("response_format", "an object")? else {
        return Ok(Format::Text);
    };
    let mut fields = Fields::nested("response_format", value)?;
    let kind: String = fields.require("type", "a string")?;
    let format = match kind.as_str() {
        "json_schema" => {
            let schema = fields.require("json_schema", "an object")?;
            let mut schema = Fields::nested("response_format.json_schema", schema)?;
            let format = schema_of(&mut schema)?;
            schema.finish()?;
            format
        }
        _ => plain_format(&kind, &fields)?,
    };
    fields.finish()?;
    Ok(format)
}

/// `name`, `description`, `strict` and `schema`: it is always strict.
pub(super) fn schema_of(fields: &mut Fields) -> Result<Format, ApiError> {
    fields.require::<String>("name", "a string")?;
    fields.ignore(&["description", "strict"]);
    let schema: Option<Value> = fields.take("schema", "a JSON schema")?;
    Ok(schema.map_or(Format::Json, Format::Schema))
}

/// A format that is its type alone.
pub(super) fn plain_format(kind: &str, fields: &Fields) -> Result<Format, ApiError> {
    match kind {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::Json),
        _ => {
            let name = fields.name("type");
            let message = format!(
                "Invalid value for '{name}': expected 'text', 'json_object' or 'json_schema'.",
            );
            Err(ApiError::invalid(name, "invalid_value", message))
        }
    }
}
