//! The messages of a conversation.

use inference::{Message, Role};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};

/// Those of a chat request.
pub(super) fn read(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let messages: Vec<Value> = fields.require("messages", "an array of objects")?;
    let messages = (0_usize..).zip(messages);
    messages
        .map(|(index, value)| message(&format!("messages[{index}]"), value))
        .collect()
}

fn message(place: &str, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::nested(place, value)?;
    let role: String = fields.require("role", "a string")?;
    let role = match role.as_str() {
        "assistant" => Role::Assistant,
        "system" | "developer" => Role::System,
        "user" => Role::User,
        _ => {
            let name = fields.name("role");
            let message = format!(
                "Invalid value for '{name}': expected 'system', 'developer', 'user' or 'assistant'.",
            );
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
    };
    let place = fields.name("content");
    let content = match fields.require("content", "a string or an array of text parts")? {
        Value::String(text) => Zeroizing::new(text),
        Value::Array(parts) => join(&place, parts)?,
        _ => return Err(wrong_type(&place, "a string or an array of text parts")),
    };
    fields.ignore(&["annotations", "name", "refusal"]);
    fields.allow_only(&[
        ("audio", vec![]),
        ("function_call", vec![]),
        ("tool_calls", vec![json!([])]),
    ])?;
    fields.finish()?;
    Ok(Message { role, content })
}

/// The text of text parts, with line breaks between them.
fn join(place: &str, parts: Vec<Value>) -> Result<Zeroizing<String>, ApiError> {
    let mut content = Zeroizing::new(String::new());
    for (index, part) in (0_usize..).zip(parts) {
        let mut fields = Fields::nested(&format!("{place}[{index}]"), part)?;
        let kind: String = fields.require("type", "a string")?;
        if kind != "text" {
            let name = fields.name("type");
            let message = format!("Invalid value for '{name}': this model takes 'text' only.");
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
        let text: String = fields.require("text", "a string")?;
        if index > 0 {
            content.push('\n');
        }
        content.push_str(&Zeroizing::new(text));
        fields.finish()?;
    }
    Ok(content)
}
