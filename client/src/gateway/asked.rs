//! What a gateway has to know of a request: its model, how long the answer may become,
//! and which conversation it goes on with.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Multipart};
use axum::http::{HeaderMap, HeaderValue, Request, header};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Read from a body that stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Asked {
    /// Which model; empty where none is named.
    pub(crate) model: String,
    /// Tokens of all answers together, where it says so.
    pub(crate) answer: Option<u64>,
    /// Pictures have tokens that no text of theirs shows.
    pub(crate) images: u64,
    /// What does not change as the conversation grows: everything up to the first words
    /// of the user.
    pub(crate) beginning: Vec<u8>,
}

impl Asked {
    /// None where the body is neither JSON nor a form.
    pub(crate) async fn read(headers: &HeaderMap, body: &Bytes) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE);
        let is_form = |kind: &&HeaderValue| kind.as_bytes().starts_with(b"multipart/form-data");
        match kind.filter(is_form) {
            Some(kind) => form(kind, body.clone()).await,
            None => json(body),
        }
    }
}

fn json(body: &[u8]) -> Option<Asked> {
    let Json {
        model,
        max_tokens,
        max_completion_tokens,
        max_output_tokens,
        n,
        messages,
        prompt,
        input,
        instructions,
    } = serde_json::from_slice(body).ok()?;
    let most = max_completion_tokens.or(max_tokens).or(max_output_tokens);
    let answers = n.unwrap_or(1).saturating_mul(texts(prompt));
    let mut beginning = Vec::new();
    for message in messages.iter().flatten() {
        beginning.extend_from_slice(message.get().as_bytes());
        let role: Option<Role<'_>> = serde_json::from_str(message.get()).ok();
        if role.is_some_and(|role| role.role == "user") {
            break;
        }
    }
    for text in [instructions, first(input), first(prompt)]
        .into_iter()
        .flatten()
    {
        let text = text.get().as_bytes();
        beginning.extend_from_slice(text.get(..BEGINNING).unwrap_or(text));
    }
    let images = body.windows(IMAGE.len()).filter(|at| *at == IMAGE).count();
    Some(Asked {
        model: model.unwrap_or_default(),
        answer: most.map(|most| most.saturating_mul(answers)),
        images: u64::try_from(images).unwrap_or(u64::MAX),
        beginning,
    })
}

/// How many a prompt is: a list of numbers is the tokens of one.
fn texts(prompt: Option<&RawValue>) -> u64 {
    let list = prompt.and_then(|prompt| serde_json::from_str::<Vec<&RawValue>>(prompt.get()).ok());
    let list = list.filter(|items| {
        let first = items.first().map_or("", |first| first.get());
        first.starts_with(['"', '['])
    });
    list.map_or(1, |items| u64::try_from(items.len()).unwrap_or(u64::MAX))
}

/// Of a list, its first item.
fn first(value: Option<&RawValue>) -> Option<&RawValue> {
    let value = value?;
    let list: Result<Vec<&RawValue>, _> = serde_json::from_str(value.get());
    match list {
        Ok(items) => items.first().copied(),
        Err(_) => Some(value),
    }
}

async fn form(kind: &HeaderValue, body: Bytes) -> Option<Asked> {
    let request = Request::post("/")
        .header(header::CONTENT_TYPE, kind)
        .body(Body::from(body))
        .ok()?;
    let mut form = Multipart::from_request(request, &()).await.ok()?;
    while let Ok(Some(field)) = form.next_field().await {
        if field.name() == Some("model") {
            let model = field.text().await.ok()?;
            return Some(Asked {
                model,
                ..Asked::default()
            });
        }
    }
    Some(Asked::default())
}

#[derive(Deserialize)]
struct Json<'a> {
    model: Option<String>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Role<'a> {
    role: std::borrow::Cow<'a, str>,
}

const IMAGE: &[u8] = b"image_url";

/// A text may go on growing at its end.
const BEGINNING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::Value;

    fn asked(body: &str) -> Asked {
        json(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_conversation_that_grows_keeps_its_beginning() {
        let one = r#"{"model":"m","max_tokens":5,"n":2,"messages":[
            {"role":"system","content":"Be brief."},{"role":"user","content":"a"}"#;
        let more = r#",{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#;
        let short = asked(&format!("{one}]}}"));
        let long = asked(&format!("{one}{more}"));
        assert_eq!(short, long);
        assert_eq!((&*short.model, short.answer), ("m", Some(10)));
        let other = asked(&format!("{one}]}}").replace("\"a\"", "\"b\""));
        assert_ne!(short.beginning, other.beginning);
    }

    /// The client in JavaScript goes by the same table (`web/test/client.test.mjs`).
    #[test]
    fn what_a_request_may_cost_is_what_the_table_says() {
        #[derive(Deserialize)]
        struct Row {
            body: String,
            answer: Value,
            images: u64,
        }
        let table: Vec<Row> = serde_json::from_str(include_str!("../../tests/asked.json")).unwrap();
        for Row {
            body,
            answer,
            images,
        } in table
        {
            let read = json(body.as_bytes());
            if answer == "refused" {
                assert_eq!(read, None, "{body}");
                continue;
            }
            let asked = read.unwrap();
            assert_eq!(
                (asked.answer, asked.images),
                (answer.as_u64(), images),
                "{body}"
            );
        }
    }

    #[test]
    fn texts_and_inputs_have_beginnings_too() {
        let text = "word ".repeat(100);
        let one = asked(&format!(r#"{{"model":"m","prompt":"{text}"}}"#));
        let more = asked(&format!(r#"{{"model":"m","prompt":"{text} and on"}}"#));
        assert_eq!(one.beginning, more.beginning);
        assert!(!one.beginning.is_empty());
        let one = asked(r#"{"input":[{"role":"user","content":"a"}],"instructions":"x"}"#);
        let more = asked(
            r#"{"input":[{"role":"user","content":"a"},{"role":"user","content":"b"}],"instructions":"x"}"#,
        );
        assert_eq!(one.beginning, more.beginning);
    }

    #[tokio::test]
    async fn a_form_names_its_model() {
        let kind = HeaderValue::from_static("multipart/form-data; boundary=x");
        let body =
            "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x--\r\n";
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
        let asked = Asked::read(&headers, &Bytes::from(body)).await.unwrap();
        assert_eq!(asked.model, "whisper");
        assert_eq!(
            Asked::read(&HeaderMap::new(), &Bytes::from(body)).await,
            None
        );
    }
}
