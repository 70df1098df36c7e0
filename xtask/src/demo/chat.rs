//! An application that knows nothing of all this: it speaks to an OpenAI endpoint.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::report::Chat;

/// An answer that came token by token.
#[derive(Clone, Debug)]
pub(crate) struct Recital {
    text: String,
    asked: Instant,
    pub(super) first_token: Instant,
    last_token: Instant,
    tokens: u32,
}

/// Asks the built-in model for a verse that it knows by heart.
pub(crate) fn recite(base: &str) -> Result<Recital> {
    let asked = Instant::now();
    let body = json!({
        "model": "cocoon-tiny",
        "messages": [{ "role": "user", "content": "Recite Psalm 23:4." }],
        "temperature": 0,
        "max_tokens": 80,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let mut response = agent()
        .post(format!("{base}/chat/completions"))
        .send_json(&body)
        .context("the gateway gives no answer")?;
    ensure!(
        response.status() == 200,
        "the gateway answers {}: {}",
        response.status(),
        response.body_mut().read_to_string().unwrap_or_default(),
    );
    let mut recital = Recital {
        text: String::new(),
        asked,
        first_token: asked,
        last_token: asked,
        tokens: 0,
    };
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("the answer broke off")?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else {
            continue;
        };
        let chunk: Value = serde_json::from_str(data).context("a chunk is not JSON")?;
        if let Some(text) = chunk
            .pointer("/choices/0/delta/content")
            .and_then(Value::as_str)
            && !text.is_empty()
        {
            recital.last_token = Instant::now();
            if recital.text.is_empty() {
                recital.first_token = recital.last_token;
            }
            recital.text.push_str(text);
        }
        if let Some(tokens) = chunk
            .pointer("/usage/completion_tokens")
            .and_then(Value::as_u64)
        {
            recital.tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        }
    }
    ensure!(
        recital.text.starts_with(VERSE),
        "the model answered {:?}, expected {VERSE:?}",
        recital.text
    );
    Ok(recital)
}

impl Recital {
    /// For the table.
    pub(super) fn figures(&self) -> Chat {
        let decoding = self.last_token.duration_since(self.first_token);
        Chat {
            answer: self.text.clone(),
            first_token_ms: self.first_token.duration_since(self.asked).as_secs_f64() * 1e3,
            tokens_per_second: f64::from(self.tokens.saturating_sub(1)) / decoding.as_secs_f64(),
        }
    }
}

/// Has the built-in model continue a text, and repeat it.
pub(super) fn echo(base: &str, text: &str) -> Result<()> {
    let body = json!({ "model": "cocoon-tiny", "prompt": text, "echo": true, "max_tokens": 8 });
    let mut response = agent()
        .post(format!("{base}/completions"))
        .send_json(&body)
        .context("the gateway gives no answer")?;
    let answer = response
        .body_mut()
        .read_to_string()
        .context("the answer broke off")?;
    ensure!(answer.contains(text), "the text is not repeated: {answer}");
    Ok(())
}

/// Embeds one sentence; milliseconds.
pub(crate) fn embed(base: &str) -> Result<f64> {
    let asked = Instant::now();
    let body = json!({ "model": "minilm", "input": "That is a happy person" });
    let mut response = agent()
        .post(format!("{base}/embeddings"))
        .send_json(&body)
        .context("the gateway gives no embedding")?;
    let answer: Value = response
        .body_mut()
        .read_json()
        .context("the embedding is not JSON")?;
    let numbers = answer
        .pointer("/data/0/embedding")
        .and_then(Value::as_array);
    ensure!(
        numbers.is_some_and(|numbers| numbers.len() == 384),
        "no embedding of 384 numbers: {answer}"
    );
    Ok(asked.elapsed().as_secs_f64() * 1e3)
}

/// Sends a chat request; status, error code and error message of the answer.
pub(crate) fn refused(base: &str) -> Result<(u16, String, String)> {
    let body = json!({ "model": "cocoon-tiny", "messages": [] });
    let mut response = agent()
        .post(format!("{base}/chat/completions"))
        .send_json(&body)
        .context("the gateway gives no answer")?;
    let status = response.status().as_u16();
    let answer: Value = response
        .body_mut()
        .read_json()
        .context("the answer is not JSON")?;
    let field = |path| {
        let text = answer.pointer(path).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Ok((status, field("/error/code"), field("/error/message")))
}

/// Waits for slow answers, and takes any status.
pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(LIMIT))
        .build()
        .new_agent()
}

/// Under emulation the embedder takes seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// Psalm 23:4, King James Version.
const VERSE: &str = "Yea, though I walk through the valley of the shadow of death";
