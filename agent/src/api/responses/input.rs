//! What a response answers: items, in the order of the conversation.

use inference::{Message, Role, ToolCall};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong_type};
use crate::api::messages::role_of;
use crate::api::tools;

/// `input`
pub(super) fn read(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let expected = "a string or an array of items";
    let items = match fields.require("input", expected)? {
        Value::String(text) => return Ok(vec![Message::new(Role::User, text)]),
        Value::Array(items) => items,
        _ => return Err(wrong_type("input", expected)),
    };
    let mut messages: Vec<Message> = Vec::new();
    for (index, item) in (0_usize..).zip(items) {
        let mut fields = Fields::nested(&format!("input[{index}]"), item)?;
        let kind: Option<String> = fields.take("type", "a string")?;
        // They name the item at whoever made it.
        fields.ignore(&["id", "status"]);
        match kind.as_deref() {
            None | Some("message") => messages.push(message(&mut fields)?),
            Some("function_call") => {
                let call = ToolCall {
                    id: fields.require("call_id", "a string")?,
                    name: fields.require("name", "a string")?,
                    arguments: tools::arguments(&mut fields)?,
                };
                // Calls belong to the message that was said with them.
                match messages.last_mut() {
                    Some(last) if last.role == Role::Assistant => last.calls.push(call),
                    _ => messages.push(Message {
                        calls: vec![call],
                        ..Message::new(Role::Assistant, String::new())
                    }),
                }
            }
            Some("function_call_output") => messages.push(Message {
                answers: Some(fields.require("call_id", "a string")?),
                ..Message::new(Role::Tool, text(&mut fields, "output")?)
            }),
            Some(_) => {
                let name = fields.name("type");
                let message = format!(
                    "Invalid value for '{name}': expected 'message', 'function_call' or 'function_call_output'.",
                );
                return Err(ApiError::invalid(name, "invalid_value", message));
            }
        }
        fields.finish()?;
    }
    Ok(messages)
}

fn message(fields: &mut Fields) -> Result<Message, ApiError> {
    let role: String = fields.require("role", "a string")?;
    let role = role_of(&role, fields)?;
    Ok(Message::new(role, text(fields, "content")?))
}

/// A text, or the text of text parts, with line breaks between them.
fn text(fields: &mut Fields, field: &str) -> Result<Zeroizing<String>, ApiError> {
    let place = fields.name(field);
    let expected = "a string or an array of text parts";
    let parts = match fields.require(field, expected)? {
        Value::String(text) => return Ok(Zeroizing::new(text)),
        Value::Array(parts) => parts,
        _ => return Err(wrong_type(&place, expected)),
    };
    let mut text = Zeroizing::new(String::new());
    for (index, part) in (0_usize..).zip(parts) {
        let mut part = Fields::nested(&format!("{place}[{index}]"), part)?;
        let kind: String = part.require("type", "a string")?;
        if !matches!(kind.as_str(), "input_text" | "output_text") {
            let name = part.name("type");
            let message = format!("Invalid value for '{name}': this model takes text only.");
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
        let more: String = part.require("text", "a string")?;
        part.ignore(&["annotations", "logprobs"]);
        part.finish()?;
        if index > 0 {
            text.push('\n');
        }
        text.push_str(&Zeroizing::new(more));
    }
    Ok(text)
}
