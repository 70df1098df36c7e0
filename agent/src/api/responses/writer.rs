//! A response, and the events that tell how it came to be.
//!
//! ```text
//! response.created, response.in_progress
//!   response.output_item.added                      for each item
//!     response.content_part.added                   a message
//!     response.output_text.delta ... .done
//!     response.content_part.done
//!     response.function_call_arguments.delta ... .done    or a call
//!   response.output_item.done
//! response.completed, or response.incomplete
//! ```
//!
//! Each has the number of the event before it, plus one.

use axum::response::sse::Event as Sent;
use inference::{Event, FinishReason, Usage};
use serde_json::{Value, json};

use crate::api::answers::Call;
use crate::api::error::ApiError;
use crate::api::padding::Padding;
use crate::api::random_id;

/// Makes events and the response of what the engine says.
pub(super) struct Writer {
    response: Value,
    padding: Padding,
    /// Items that are whole.
    output: Vec<Value>,
    open: Option<Open>,
    /// Number of the next event.
    sequence: u64,
}

/// An item that is being written.
enum Open {
    Message { id: String, text: String },
    Call { id: String, call: Call },
}

impl Writer {
    /// `response` is what it is before anything has been said.
    pub(super) fn new(response: Value, padding: Padding) -> Self {
        Self {
            response,
            padding,
            output: Vec::new(),
            open: None,
            sequence: 0,
        }
    }

    pub(super) fn begin(&mut self) -> Vec<Sent> {
        ["response.created", "response.in_progress"]
            .map(|kind| self.event(kind, json!({"response": self.response})))
            .into()
    }

    pub(super) fn push(&mut self, event: Event) -> Vec<Sent> {
        let mut events = Vec::new();
        match event {
            Event::Text { text: delta, .. } => {
                if !matches!(self.open, Some(Open::Message { .. })) {
                    self.close(&mut events);
                    self.open_message(&mut events);
                }
                if let Some(Open::Message { text, .. }) = &mut self.open {
                    text.push_str(&delta);
                }
                let mut body = json!({"content_index": 0, "delta": delta, "logprobs": []});
                self.padding.add(&delta, &mut body);
                events.push(self.item_event("response.output_text.delta", body));
            }
            Event::Call(name) => {
                self.close(&mut events);
                self.open = Some(Open::Call {
                    id: random_id("fc_"),
                    call: Call::new(name),
                });
                events.push(self.added());
            }
            Event::Arguments(delta) => {
                if let Some(Open::Call { call, .. }) = &mut self.open {
                    call.arguments.push_str(&delta);
                }
                let mut body = json!({"delta": delta});
                self.padding.add(&delta, &mut body);
                events.push(self.item_event("response.function_call_arguments.delta", body));
            }
            Event::Finish { reason, usage } => {
                if self.open.is_none() && self.output.is_empty() {
                    self.open_message(&mut events);
                }
                self.close(&mut events);
                events.push(self.end(reason, usage));
            }
        }
        events
    }

    /// The last event, if the engine fails.
    pub(super) fn fail(&mut self, error: ApiError) -> Sent {
        let error = json!(error.into_body());
        let field = |name: &str| error.pointer(&format!("/error/{name}")).cloned();
        let body = json!({
            "code": field("code"), "message": field("message"), "param": field("param"),
        });
        self.event("error", body)
    }

    /// The response, once the end was pushed.
    pub(super) fn finish(self) -> Value {
        self.response
    }

    fn open_message(&mut self, events: &mut Vec<Sent>) {
        self.open = Some(Open::Message {
            id: random_id("msg_"),
            text: String::new(),
        });
        events.push(self.added());
        let part = json!({"content_index": 0, "part": output_text("")});
        events.push(self.item_event("response.content_part.added", part));
    }

    fn added(&mut self) -> Sent {
        let mut item = self.item("in_progress");
        // Its parts are added later, one by one.
        if let Some(content) = item.get_mut("content") {
            *content = json!([]);
        }
        let body = json!({"output_index": self.output.len(), "item": item});
        self.event("response.output_item.added", body)
    }

    /// Ends the item that is open.
    fn close(&mut self, events: &mut Vec<Sent>) {
        match &self.open {
            None => return,
            Some(Open::Message { text, .. }) => {
                let done = json!({"content_index": 0, "text": text, "logprobs": []});
                let part = json!({"content_index": 0, "part": output_text(text)});
                events.push(self.item_event("response.output_text.done", done));
                events.push(self.item_event("response.content_part.done", part));
            }
            Some(Open::Call { call, .. }) => {
                let done = json!({"name": call.name, "arguments": call.arguments});
                events.push(self.item_event("response.function_call_arguments.done", done));
            }
        }
        let item = self.item("completed");
        let body = json!({"output_index": self.output.len(), "item": item});
        events.push(self.event("response.output_item.done", body));
        self.output.push(item);
        self.open = None;
    }

    fn end(&mut self, reason: FinishReason, usage: Usage) -> Sent {
        let (status, details) = match reason {
            FinishReason::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
            FinishReason::Stop | FinishReason::ToolCalls => ("completed", Value::Null),
        };
        let usage = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt.saturating_add(usage.completion),
        });
        for (name, value) in [
            ("status", json!(status)),
            ("incomplete_details", details),
            ("output", json!(self.output)),
            ("usage", usage),
        ] {
            if let Some(field) = self.response.get_mut(name) {
                *field = value;
            }
        }
        let body = json!({"response": self.response});
        self.event(&format!("response.{status}"), body)
    }

    /// The open item as it stands.
    fn item(&self, status: &str) -> Value {
        match &self.open {
            None => Value::Null,
            Some(Open::Message { id, text }) => json!({
                "type": "message", "id": id, "status": status, "role": "assistant",
                "content": [output_text(text)],
            }),
            Some(Open::Call { id, call }) => json!({
                "type": "function_call", "id": id, "status": status, "call_id": call.id,
                "name": call.name, "arguments": call.arguments,
            }),
        }
    }

    /// An event about the open item.
    fn item_event(&mut self, kind: &str, mut body: Value) -> Sent {
        if let (Some(open), Value::Object(body)) = (&self.open, &mut body) {
            let (Open::Message { id, .. } | Open::Call { id, .. }) = open;
            body.insert("item_id".into(), json!(id));
            body.insert("output_index".into(), json!(self.output.len()));
        }
        self.event(kind, body)
    }

    fn event(&mut self, kind: &str, mut body: Value) -> Sent {
        if let Value::Object(body) = &mut body {
            body.insert("type".into(), json!(kind));
            body.insert("sequence_number".into(), json!(self.sequence));
        }
        self.sequence = self.sequence.saturating_add(1);
        // Strings and numbers always have a JSON form.
        let event = Sent::default().event(kind).json_data(&body);
        event.unwrap_or_default()
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}
