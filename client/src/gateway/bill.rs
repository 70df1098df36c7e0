//! What one request comes to: written down once, by the last who knows of it.
//!
//! Who hangs up does not end it: what is paid for goes on to its settlement, and its
//! bill with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::http::Method;

use super::front::since_1970;
use super::keys::Key;
use super::metrics::Metrics;

/// Counted and logged when it is dropped.
#[derive(Debug)]
pub(crate) struct Bill {
    metrics: Metrics,
    method: Method,
    path: String,
    began: Instant,
    key: OnceLock<Arc<Key>>,
    model: OnceLock<String>,
    status: OnceLock<u16>,
    tokens: AtomicU64,
    is_paid: AtomicBool,
}

impl Bill {
    pub(super) fn new(metrics: Metrics, method: Method, path: String) -> Self {
        Self {
            metrics,
            method,
            path,
            began: Instant::now(),
            key: OnceLock::new(),
            model: OnceLock::new(),
            status: OnceLock::new(),
            tokens: AtomicU64::new(0),
            is_paid: AtomicBool::new(false),
        }
    }

    /// Whose it is.
    pub(super) fn to(&self, key: &Arc<Key>) {
        self.key.set(Arc::clone(key)).unwrap_or_default();
    }

    /// For which model.
    pub(super) fn of(&self, model: String) {
        self.model.set(model).unwrap_or_default();
    }

    /// The name of the key; empty where nobody needs one.
    pub(crate) fn name(&self) -> &str {
        self.key.get().map_or("", |key| key.name())
    }

    /// An answer begins.
    pub(super) fn answered(&self, status: u16) {
        let first = self.status.set(status).is_ok();
        if first {
            let waited = self.began.elapsed();
            self.metrics.answered(self.name(), status, waited);
        }
    }

    /// From now on only who pays says what was taken: so many tokens, if this is the last
    /// that is known.
    pub(crate) fn pays(&self, tokens: u64) {
        self.is_paid.store(true, Ordering::Relaxed);
        self.tokens.store(tokens, Ordering::Relaxed);
    }

    /// As the answer has it.
    pub(super) fn passed(&self, tokens: u64) {
        if !self.is_paid.load(Ordering::Relaxed) {
            self.tokens.store(tokens, Ordering::Relaxed);
        }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.answered(LEFT);
        let tokens = *self.tokens.get_mut();
        let status = self.status.get().copied().unwrap_or(LEFT);
        let millis = self.began.elapsed().as_millis();
        self.metrics.took(self.name(), tokens);
        if let Some(key) = self.key.get() {
            key.took(tokens, since_1970());
        }
        let model = self.model.get().map_or("", String::as_str);
        let (method, path, key) = (&self.method, &self.path, self.name());
        tracing::info!(%method, path, key, model, status, tokens, millis, "answered");
    }
}

/// Nobody waited for the answer; nginx has this number for it.
const LEFT: u16 = 499;
