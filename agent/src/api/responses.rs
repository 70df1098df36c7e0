//! `POST /v1/responses`, as far as it needs no memory.
//!
//! * Honoured: `model`, `input` (a text; or messages of text, `function_call` and
//!   `function_call_output`), `instructions`, `max_output_tokens`, `temperature`,
//!   `top_p`, `tools` (functions), `tool_choice`, `parallel_tool_calls`, `text.format`,
//!   `stream`, `stream_options`.
//! * Without effect: [`IGNORED`].
//! * Refused unless they say what happens anyway: [`neutral`]; nothing is stored here,
//!   so there is no earlier response to go on from.
//! * Refused: everything else.

mod input;
mod writer;

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::KeepAlive;
use axum::response::{IntoResponse, Response, Sse};
use futures_util::{StreamExt as _, stream};
use inference::{Answer, Format, Message, Prompt, Request, Role, Sampling};
use serde_json::{Value, json};

use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::models::Models;
use super::options::IGNORED;
use super::padding::Padding;
use super::tools;
use super::{aside, random_id, unix_time};
use writer::Writer;

pub(super) async fn create(
    State(models): State<Models>,
    asker: Asker,
    fields: Fields,
) -> Result<Response, ApiError> {
    // Long prompts take long to tokenise.
    let tenant = asker.tenant.clone();
    let begun = aside(&tenant, move || begin(&models, &asker, fields)).await?;
    let (mut writer, mut answer, streamed) = begun;
    if streamed {
        return Ok(respond(writer, answer));
    }
    writer.begin();
    while let Some(event) = answer.next().await {
        writer.push(event?);
    }
    Ok(Json(writer.finish()).into_response())
}

/// Every event of an answer as it comes.
fn respond(mut writer: Writer, answer: Answer) -> Response {
    let begin = stream::iter(writer.begin());
    let rest = answer.flat_map(move |event| {
        stream::iter(match event {
            Ok(event) => writer.push(event),
            Err(error) => vec![writer.fail(ApiError::from(error))],
        })
    });
    let events = begin.chain(rest).map(Ok::<_, Infallible>);
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn begin(
    models: &Models,
    asker: &Asker,
    mut fields: Fields,
) -> Result<(Writer, Answer, bool), ApiError> {
    let name: String = fields.require("model", "a string")?;
    let model = models.get(&name)?;
    // It is repeated in the response as it was asked for.
    let asked = |fields: &Fields, name: &str, other: Value| fields.peek(name).unwrap_or(other);
    let told = json!({
        "tools": asked(&fields, "tools", json!([])),
        "tool_choice": asked(&fields, "tool_choice", json!("auto")),
        "parallel_tool_calls": asked(&fields, "parallel_tool_calls", json!(true)),
        "text": asked(&fields, "text", json!({"format": {"type": "text"}})),
        "instructions": asked(&fields, "instructions", Value::Null),
        "max_output_tokens": asked(&fields, "max_output_tokens", Value::Null),
        "temperature": asked(&fields, "temperature", json!(1)),
        "top_p": asked(&fields, "top_p", json!(1)),
    });
    let instructions: Option<String> = fields.take("instructions", "a string")?;
    let instructions = instructions.map(|text| Message::new(Role::System, text));
    let messages = instructions.into_iter().chain(input::read(&mut fields)?);
    let streamed = fields.take("stream", "a boolean")?.unwrap_or(false);
    let padding = padding(&mut fields, asker)?;
    let id = random_id("resp_");
    let request = Request {
        prompt: Prompt::Chat(messages.collect()),
        tools: tools::read(&mut fields, false)?,
        format: format(&mut fields)?,
        max_tokens: fields.take("max_output_tokens", "an integer of at least 0")?,
        sampling: Sampling {
            temperature: fields.take("temperature", "a number")?,
            top_p: fields.take("top_p", "a number")?,
            ..Sampling::default()
        },
        tenant: asker.tenant.clone(),
        witness: asker.witness(model, Some(&id)),
        ..Request::default()
    };
    fields.ignore(IGNORED);
    fields.allow_only(&neutral())?;
    fields.finish()?;
    let answer = model.engine().answer(request).map_err(|error| {
        ApiError::from(error)
            .of("messages", "input")
            .of("max_tokens", "max_output_tokens")
            .of("response_format", "text.format")
    })?;
    let mut response = json!({
        "id": id,
        "object": "response",
        "created_at": unix_time(),
        "status": "in_progress",
        "background": false,
        "error": null,
        "incomplete_details": null,
        "model": name,
        "output": [],
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "service_tier": "default",
        "store": false,
        "truncation": "disabled",
        "usage": null,
        "user": null,
        "metadata": {},
    });
    if let (Value::Object(response), Value::Object(told)) = (&mut response, told) {
        response.extend(told);
    }
    Ok((Writer::new(response, padding), answer, streamed))
}

/// `stream_options`
fn padding(fields: &mut Fields, asker: &Asker) -> Result<Padding, ApiError> {
    let Some(options) = fields.take::<Value>("stream_options", "an object")? else {
        return Ok(Padding::usual(asker));
    };
    let mut options = Fields::nested("stream_options", options)?;
    let padding = Padding::read(&mut options, asker)?;
    options.finish()?;
    Ok(padding)
}

/// `text.format`
fn format(fields: &mut Fields) -> Result<Format, ApiError> {
    let Some(text) = fields.take::<Value>("text", "an object")? else {
        return Ok(Format::Text);
    };
    let mut text = Fields::nested("text", text)?;
    let format = text.take::<Value>("format", "an object")?;
    text.ignore(&["verbosity"]);
    text.finish()?;
    let Some(format) = format else {
        return Ok(Format::Text);
    };
    let mut fields = Fields::nested("text.format", format)?;
    let kind: String = fields.require("type", "a string")?;
    let format = match kind.as_str() {
        "json_schema" => tools::schema_of(&mut fields)?,
        _ => tools::plain_format(&kind, &fields)?,
    };
    fields.finish()?;
    Ok(format)
}

/// Values that ask for nothing more than is done.
fn neutral() -> [(&'static str, Vec<Value>); 8] {
    [
        ("background", vec![json!(false)]),
        ("conversation", vec![]),
        (
            "include",
            vec![json!([]), json!(["reasoning.encrypted_content"])],
        ),
        ("previous_response_id", vec![]),
        ("reasoning", vec![json!({})]),
        ("store", vec![json!(false)]),
        ("top_logprobs", vec![json!(0)]),
        ("truncation", vec![json!("disabled")]),
    ]
}
