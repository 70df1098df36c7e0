//! What is asked, and what of an answer has to be the same.

use std::time::Duration;

use attestation::register::Digest256;
use axum::http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::{Value, json};

use super::{DEADLINE, ProbeError, draw, random};
use crate::network::deal::Most;
use crate::network::exchange::Request;

/// Texts that only the operator has.
#[derive(Debug)]
pub(super) struct Prompts(Vec<String>);

impl Prompts {
    /// One on each line; none is not enough.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let prompts: Vec<_> = lines.map(str::to_owned).collect();
        (!prompts.is_empty()).then_some(Self(prompts))
    }
}

/// One question, the same for all who are asked.
#[derive(Debug)]
pub(super) struct Question {
    model: String,
    body: String,
    /// Tokens at most.
    pub(super) answer: u64,
}

impl Question {
    /// As applications ask: streamed or not, short or long, the likeliest words or a seed.
    pub(super) fn draw(prompts: &Prompts, model: &str) -> Result<Self, ProbeError> {
        let prompt = draw(prompts.0.len())?.and_then(|drawn| prompts.0.get(drawn));
        let answer = 16_u64 << (random()? % 5);
        let (temperature, seed) = match random()? % 2 {
            0 => (0.0, None),
            // What JavaScript can hold.
            _ => (0.7, Some(random()? >> 12)),
        };
        let stream = (random()? % 2 == 0).then_some(true);
        let body = Asked {
            model,
            messages: [json!({ "role": "user", "content": prompt })],
            max_tokens: answer,
            temperature,
            seed,
            stream,
            stream_options: stream.map(|include_usage| json!({ "include_usage": include_usage })),
        };
        let body = serde_json::to_string(&body).map_err(ProbeError::Question)?;
        Ok(Self {
            model: model.into(),
            body,
            answer,
        })
    }

    /// From a client that was never here.
    pub(super) fn request(&self) -> Result<Request, ProbeError> {
        let secret = || -> Result<[u8; 32], ProbeError> {
            let mut secret = [0; 32];
            aws_lc_rs::rand::fill(&mut secret).map_err(|_| ProbeError::Random)?;
            Ok(secret)
        };
        let json = |name| (name, HeaderValue::from_static("application/json"));
        let length = u64::try_from(self.body.len()).unwrap_or(u64::MAX);
        Ok(Request {
            path: "/v1/chat/completions".into(),
            headers: HeaderMap::from_iter([header::ACCEPT, header::CONTENT_TYPE].map(json)),
            body: self.body.clone().into(),
            model: self.model.clone(),
            most: Most {
                prompt: length.saturating_add(TEMPLATE),
                answer: self.answer,
            },
            tip: 0,
            affinity: Digest256::from_bytes(secret()?),
            tenant: secret()?,
        })
    }
}

/// In the order in which applications write it.
#[derive(Serialize)]
struct Asked<'a> {
    model: &'a str,
    messages: [Value; 1],
    max_tokens: u64,
    temperature: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
}

/// What a chat's answer says and counts, streamed or not, without names and times. None of
/// what is no such answer, or has no end, or took so long that its worker may have ended it
/// because its time was over.
pub(super) fn said(body: &[u8], took: Duration) -> Option<Digest256> {
    if took > DEADLINE.saturating_sub(CUT) {
        return None;
    }
    let body = str::from_utf8(body).ok()?;
    let events = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let documents: Vec<&str> = match body.starts_with('{') {
        true => vec![body],
        false => events.filter(|event| *event != "[DONE]").collect(),
    };
    let (mut text, mut end, mut counts) = (String::new(), None, None);
    for document in documents {
        let document: Value = serde_json::from_str(document).ok()?;
        let part = |path| document.pointer(path).filter(|part| !part.is_null());
        for path in ["/choices/0/message/content", "/choices/0/delta/content"] {
            text.push_str(part(path).and_then(Value::as_str).unwrap_or_default());
        }
        end = part("/choices/0/finish_reason").cloned().or(end);
        let usage = ["/usage/prompt_tokens", "/usage/completion_tokens"].map(part);
        if let [Some(prompt), Some(completion)] = usage {
            counts = Some([prompt.clone(), completion.clone()]);
        }
    }
    let said = json!([text, end?, counts?]).to_string();
    Some(Digest256::of(said.as_bytes()))
}

/// So long before its time is over an answer may be ended, and be on its way.
const CUT: Duration = Duration::from_secs(10);

/// What a chat's template may add.
const TEMPLATE: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    const WHOLE: &str = r#"{"id":"1","choices":[{"message":{"content":"a sea"},"finish_reason":
        "stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

    const STREAM: &str = "data: {\"id\":\"2\",\"choices\":[{\"delta\":{\"content\":\"a \"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"sea\"},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn an_answer_is_what_it_says_and_counts_however_it_comes() {
        assert!(said(WHOLE.as_bytes(), SOON).is_some());
        assert_eq!(said(WHOLE.as_bytes(), SOON), said(STREAM.as_bytes(), SOON));
        for (before, after) in [
            ("sea", "see"),
            (":7", ":8"),
            (":2}", ":3}"),
            ("stop", "length"),
        ] {
            let other = STREAM.replace(before, after);
            assert_ne!(
                said(other.as_bytes(), SOON),
                said(WHOLE.as_bytes(), SOON),
                "{after}"
            );
        }
    }

    #[test]
    fn what_is_no_answer_or_has_no_end_is_not_compared() {
        let error = r#"{"error":{"message":"no"}}"#;
        for body in ["", "data: [DONE]\n\n", "data: {\n\n", "{", error] {
            assert_eq!(said(body.as_bytes(), SOON), None, "{body}");
        }
        for end in 0..WHOLE.len() {
            assert_eq!(said(&WHOLE.as_bytes()[..end], SOON), None, "{end}");
        }
        assert_eq!(said(&[0xff], SOON), None);
    }

    #[test]
    fn what_its_time_may_have_ended_is_not_compared() {
        assert!(said(WHOLE.as_bytes(), DEADLINE - CUT).is_some());
        assert_eq!(said(WHOLE.as_bytes(), DEADLINE - CUT + SOON), None);
    }

    #[test]
    fn questions_are_of_all_kinds_and_ask_for_what_they_pay() {
        assert!(Prompts::parse(" \n\n").is_none());
        let prompts = Prompts::parse("one\n\n two \n").unwrap();
        assert_eq!(prompts.0, ["one", "two"]);
        let (mut seeds, mut streams) = (0, 0);
        for _ in 0..64 {
            let question = Question::draw(&prompts, "tiny").unwrap();
            let body: Value = serde_json::from_str(&question.body).unwrap();
            assert_eq!(body["max_tokens"], question.answer);
            seeds += u32::from(body["seed"].is_u64());
            streams += u32::from(body["stream"] == true);
            let (one, two) = (question.request().unwrap(), question.request().unwrap());
            assert_eq!(one.body, two.body);
            assert_ne!((one.tenant, one.affinity), (two.tenant, two.affinity));
        }
        assert!((1..64).contains(&seeds) && (1..64).contains(&streams));
    }
}
