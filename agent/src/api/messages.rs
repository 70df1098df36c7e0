//! The messages of a conversation.

use inference::{Image, Message, Role};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::images;

/// Those of a chat request, to a model that `sees` images or does not.
pub(super) fn read(fields: &mut Fields, sees: bool) -> Result<Vec<Message>, ApiError> {
    let messages: Vec<Value> = fields.require("messages", "an array of objects")?;
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
    let (content, images) = match fields.require("content", "a string or an array of text parts")? {
        Value::String(text) => (Zeroizing::new(text), Vec::new()),
        Value::Array(parts) => join(&place, parts, sees)?,
        _ => return Err(wrong_type(&place, "a string or an array of text parts")),
    };
    fields.ignore(&["annotations", "name", "refusal"]);
    fields.allow_only(&[
        ("audio", vec![]),
        ("function_call", vec![]),
        ("tool_calls", vec![json!([])]),
    ])?;
    fields.finish()?;
    Ok(Message {
        role,
        content,
        images,
    })
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
