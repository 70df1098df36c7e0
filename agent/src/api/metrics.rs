//! `GET /health` and `GET /metrics`: counts, and nothing of what was said.
//!
//! Whoever is served may read them. So tokens, which are those of all tenants, are
//! told in thousands: nobody can count another's answer in them.
//!
//! Format: Prometheus text exposition, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::models::Models;

/// Responses that have begun, by endpoint and status.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Arc<Mutex<BTreeMap<(String, u16), u64>>>);

impl Metrics {
    /// Counts a response on its way out.
    pub(super) async fn count(
        State(metrics): State<Self>,
        path: Option<MatchedPath>,
        request: Request,
        next: Next,
    ) -> Response {
        let response = next.run(request).await;
        // Paths that nobody serves are one: a stranger may not fill the memory.
        let path = path.map_or_else(|| "other".into(), |path| path.as_str().to_owned());
        let mut counts = metrics.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts
            .entry((path, response.status().as_u16()))
            .or_default();
        *count = count.saturating_add(1);
        drop(counts);
        response
    }

    /// `GET /metrics`
    pub(super) fn show(&self, models: &Models) -> Response {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let responses = counts.iter().map(|((path, status), count)| {
            let labels = format!("path=\"{path}\",status=\"{status}\"");
            (labels, *count)
        });
        let mut text = String::new();
        family(
            &mut text,
            "cocoon_responses_total",
            "counter",
            "Responses that have begun.",
            responses,
        );
        drop(counts);
        let models: Vec<_> = models
            .all()
            .map(|model| (model.name(), model.engine().activity()))
            .collect();
        let running = models
            .iter()
            .map(|(name, activity)| (format!("model=\"{name}\""), activity.running));
        family(
            &mut text,
            "cocoon_answers_running",
            "gauge",
            "Answers that are being made.",
            running,
        );
        let tokens = models.iter().flat_map(|(name, activity)| {
            [("prompt", activity.prompt), ("answer", activity.completion)].map(|(kind, tokens)| {
                let thousands = tokens.saturating_sub(tokens.checked_rem(1000).unwrap_or(0));
                (format!("model=\"{name}\",kind=\"{kind}\""), thousands)
            })
        });
        family(
            &mut text,
            "cocoon_tokens_total",
            "counter",
            "Tokens read and made, in whole thousands.",
            tokens,
        );
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
    }
}

/// `GET /health`: whoever can ask has been served.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl Iterator<Item = (String, u64)>,
) {
    // Writing to a string does not fail.
    write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").unwrap_or_default();
    for (labels, value) in samples {
        writeln!(text, "{name}{{{labels}}} {value}").unwrap_or_default();
    }
}
