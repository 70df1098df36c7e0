//! What is served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use attestation::aci::Hash;
use axum::Json;
use axum::extract::{Path, State};
use inference::Engine;
use serde::Serialize;
use tokio::time::sleep;

use super::error::ApiError;
use super::unix_time;

/// The models of this machine; fixed once it serves.
#[derive(Clone, Debug)]
pub struct Models(Arc<BTreeMap<String, Arc<Served>>>);

/// A model and the name that clients use for it.
#[derive(Debug)]
pub struct Model {
    /// As in the measured configuration.
    pub name: String,
    /// The root hash of its disk, hex, if it came from one.
    pub root: Option<String>,
    /// The loaded model.
    pub engine: Engine,
}

#[derive(Debug)]
pub(crate) struct Served {
    model: Model,
    since: u64,
}

impl Models {
    /// Collects models; each name should be there once.
    pub fn new(models: impl IntoIterator<Item = Model>) -> Self {
        let since = unix_time();
        let served = models
            .into_iter()
            .map(|model| (model.name.clone(), Arc::new(Served { model, since })));
        Self(Arc::new(served.collect()))
    }

    /// Whether all of them can be asked.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.all().find(|served| served.engine().has_stopped()) {
            None => Ok(()),
            Some(served) => bail!("the engine of model {} has stopped", served.name()),
        }
    }

    /// Waits until one of them cannot be asked any more.
    pub async fn stopped(&self) {
        while self.check().is_ok() {
            sleep(LOOK).await;
        }
    }

    /// Each of them by itself, for those who may ask for no other.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Arc<Served>, Self)> {
        self.0.iter().map(|(name, served)| {
            let alone = [(name.clone(), Arc::clone(served))];
            (Arc::clone(served), Self(Arc::new(alone.into())))
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Served> {
        self.0.values().map(Arc::as_ref)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Served, ApiError> {
        let served = self.0.get(name).ok_or_else(ApiError::model_not_found)?;
        Ok(served)
    }
}

impl Served {
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn name(&self) -> &str {
        &self.model.name
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.model.engine
    }

    /// Changes when the weights do; the root hash, shortened.
    pub(super) fn fingerprint(&self) -> Option<String> {
        let root = self.model.root.as_ref()?;
        Some(format!("fp_{}", root.get(..12).unwrap_or(root)))
    }

    fn entry(&self) -> Entry<'_> {
        let card = self.model.engine.card();
        Entry {
            id: &self.model.name,
            object: "model",
            created: self.since,
            owned_by: "cocoon",
            root: self.model.root.as_deref(),
            manifest: card.manifest.map(Hash::from),
            quant: card.format.as_ref().map(|format| format.to_lowercase()),
            self_test: card.self_test.map(Hash::from),
            context: self.model.engine.info().context,
            task: self.model.engine.info().task.to_string(),
        }
    }
}

/// How often it is looked whether engines work.
const LOOK: Duration = Duration::from_millis(500);

/// `GET /v1/models`
pub(super) async fn list(State(models): State<Models>) -> Json<serde_json::Value> {
    let data: Vec<_> = models.all().map(Served::entry).collect();
    Json(serde_json::json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`
pub(super) async fn retrieve(
    State(models): State<Models>,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, ApiError> {
    Ok(Json(serde_json::json!(models.get(&id)?.entry())))
}

/// All from the root on is ours; clients skip what they do not know. Digests are as in
/// receipts; that of the self-test is of the known answer that the model gave here.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: Option<&'a str>,
    manifest: Option<Hash>,
    quant: Option<String>,
    self_test: Option<Hash>,
    context: usize,
    task: String,
}
