//! The messages of a conversation.

use inference::{Image, Message, Role, ToolCall};
use serde_json::Value;
use zeroize::Zeroizing;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::{images, tools};

/// Those of a chat request, to a model that `sees` images or does not.
pub(super) fn read(fields: &mut Fields, sees: bool) -> Result<Vec<Message>, ApiError> {
    let messages: Vec<Value> = fields.require("messages", "an array of objects")?;
    if messages.len() > MAX_MESSAGES {
        let message = format!("Invalid value for 'messages': expected at most {MAX_MESSAGES}.");
        return Err(ApiError::invalid("messages", "invalid_value", message));
    }
    let messages = (0_usize..).zip(messages);
    let messages =
        messages.map(|(index, value)| message(&format!("messages[{index}]"), value, sees));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let images = messages.iter().flat_map(|message| &message.images);
    images::check("messages", images.map(|(_, image)| image))?;
    Ok(messages)
}

fn message(place: &str, value: Value, sees: bool) -> Result<Message, ApiError> {
    let mut fields = Fields::nested(place, value)?;
    let role: String = fields.require("role", "a string")?;
    let role = role_of(&role, &fields)?;
    let calls = calls(&mut fields, role)?;
    let place = fields.name("content");
    let expected = "a string or an array of text parts";
    let (content, images) = match fields.take::<Value>("content", expected)? {
        // What calls need not speak.
        None if !calls.is_empty() => Content::default(),
        None => read_content(&place, fields.require("content", expected)?, sees)?,
        Some(content) => read_content(&place, content, sees)?,
    };
    let answers = match role {
        Role::Tool => Some(fields.require("tool_call_id", "a string")?),
        _ => None,
    };
    fields.ignore(&["annotations", "name", "refusal"]);
    fields.allow_only(&[("audio", vec![]), ("function_call", vec![])])?;
    fields.finish()?;
    Ok(Message {
        role,
        content,
        images,
        calls,
        answers,
    })
}

/// Who speaks.
pub(super) fn role_of(role: &str, fields: &Fields) -> Result<Role, ApiError> {
    match role {
        "assistant" => Ok(Role::Assistant),
        "system" | "developer" => Ok(Role::System),
        "tool" => Ok(Role::Tool),
        "user" => Ok(Role::User),
        _ => {
            let name = fields.name("role");
            let message = format!(
                "Invalid value for '{name}': expected 'system', 'developer', 'user', 'assistant' or 'tool'.",
            );
            Err(ApiError::invalid(name, "invalid_value", message))
        }
    }
}

fn calls(fields: &mut Fields, role: Role) -> Result<Vec<ToolCall>, ApiError> {
    if role != Role::Assistant {
        return Ok(Vec::new());
    }
    let calls: Option<Vec<Value>> = fields.take("tool_calls", "an array of objects")?;
    let place = fields.name("tool_calls");
    (0_usize..)
        .zip(calls.unwrap_or_default())
        .map(|(index, value)| tools::call(&format!("{place}[{index}]"), value))
        .collect()
}

/// A text, or what its parts are.
fn read_content(place: &str, content: Value, sees: bool) -> Result<Content, ApiError> {
    match content {
        Value::String(text) => Ok((Zeroizing::new(text), Vec::new())),
        Value::Array(parts) => join(place, parts, sees),
        _ => Err(wrong_type(place, "a string or an array of text parts")),
    }
}

/// What a message says, and what it shows, and where.
type Content = (Zeroizing<String>, Vec<(usize, Image)>);

/// The text of text parts, with line breaks between them, and the images between those.
fn join(place: &str, parts: Vec<Value>, sees: bool) -> Result<Content, ApiError> {
    let mut content = Zeroizing::new(String::new());
    let mut images = Vec::new();
    let mut follows = false;
    for (index, part) in (0_usize..).zip(parts) {
        let mut fields = Fields::nested(&format!("{place}[{index}]"), part)?;
        let kind: String = fields.require("type", "a string")?;
        match kind.as_str() {
            "image_url" if sees => images.push((content.len(), images::part(&mut fields)?)),
            "text" => {
                let text: String = fields.require("text", "a string")?;
                if follows {
                    content.push('\n');
                }
                content.push_str(&Zeroizing::new(text));
            }
            _ => {
                let name = fields.name("type");
                let taken = if sees {
                    "'text' and 'image_url'"
                } else {
                    "'text'"
                };
                let message = format!("Invalid value for '{name}': this model takes {taken} only.");
                return Err(ApiError::invalid(name, "invalid_value", message));
            }
        }
        follows = kind == "text";
        fields.finish()?;
    }
    Ok((content, images))
}

/// More than any conversation has that fits a context.
const MAX_MESSAGES: usize = 4096;
