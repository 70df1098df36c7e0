//! Who has which worker: a bucket of JetStream's, into which each scheduler says what is
//! linked to it, and which all of them read into their directories.
//!
//! ```text
//! bucket  cocoon-workers, in memory, entries of at most 6 s
//! key     base64url(address)                 a scheduler is there; its peers reach it so
//!         base64url(address) "." worker      one worker of its
//! value   an entry of the deployment's key over the bucket's key; the text is empty, or
//!         JSON of an announcement
//! ```
//!
//! NATS carries no request and no answer. Whoever runs it can hide workers, show old
//! entries again, and thus send requests where they fail; it cannot make an entry. Without
//! it each scheduler serves what is linked to it, and forgets the others' after 6 s. Who
//! does not hear itself begins anew.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, KeyValueError};
use async_nats::jetstream::kv::{
    DeleteError, DeleteErrorKind, Entry, Operation, PutError, Store, WatchError, WatcherError,
};
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectError, ConnectOptions};
use attestation::appraisal::chain;
use attestation::register::Digest256;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::stream::iter;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::key::Key;
use crate::link::HEARTBEAT;
use crate::workers::{Announcement, Change, Workers};

/// One scheduler's view of it.
pub struct Registry {
    context: Context,
    workers: Arc<Workers>,
    key: Key,
    at: String,
    replicas: usize,
    /// What was said of each worker, by its revision.
    said: Mutex<HashMap<Digest256, u64>>,
}

/// Settings of the connection that are the same wherever NATS is.
pub fn options() -> ConnectOptions {
    ConnectOptions::new()
        .retry_on_initial_connect()
        // Who was cut off is to notice it.
        .ping_interval(PING)
        .connection_timeout(PATIENCE)
        .reconnect_delay_callback(|attempts| {
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            PING.min(Duration::from_millis(100).saturating_mul(attempts))
        })
}

/// Connects to any of `urls`, now or as soon as one is there.
pub async fn connect(urls: &[String], options: ConnectOptions) -> Result<Client, ConnectError> {
    options.connect(urls).await
}

impl Registry {
    /// Of a scheduler that the others reach at `at`, HOST:PORT.
    #[must_use]
    pub fn new(nats: Client, workers: Arc<Workers>, key: Key, at: String) -> Self {
        let mut context = jetstream::new(nats);
        context.set_timeout(PATIENCE);
        Self {
            context,
            workers,
            key,
            at,
            replicas: 1,
            said: Mutex::default(),
        }
    }

    /// Has so many servers of a NATS cluster keep a bucket that is made.
    #[must_use]
    pub fn replicated(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// Says what is linked here and hears what is elsewhere, as long as it is polled.
    pub async fn keep(&self) -> Infallible {
        loop {
            match self.follow().await {
                Ok(never) => match never {},
                Err(error) => tracing::warn!("no registry: {}", chain(&error)),
            }
            sleep(AGAIN).await;
        }
    }

    /// Takes back what was said, so that nobody sends anything here any more; else it is
    /// forgotten in time.
    pub async fn leave(&self) -> Result<(), RegistryError> {
        let taken = async {
            let store = self.context.get_key_value(BUCKET).await;
            let store = store.map_err(RegistryError::Bucket)?;
            let said: Vec<_> = self.said().keys().copied().map(Ok).collect();
            iter(said)
                .try_for_each_concurrent(TOGETHER, |id| self.take_back(&store, id))
                .await
        };
        let taken = timeout(PATIENCE, taken).await;
        taken.unwrap_or(Err(RegistryError::Late))
    }

    async fn follow(&self) -> Result<Infallible, RegistryError> {
        if let Err(missing) = self.context.get_key_value(BUCKET).await {
            tracing::info!("a bucket is made: {}", chain(&missing));
            let made = self.context.create_stream(bucket(self.replicas)).await;
            made.map_err(RegistryError::Make)?;
        }
        let store = self.context.get_key_value(BUCKET).await;
        let store = store.map_err(RegistryError::Bucket)?;
        let said = self.say(&store);
        let heard = self.hear(&store);
        tokio::select! {
            ended = said => ended,
            ended = heard => ended,
        }
    }

    /// Everything that is linked here, and then whatever changes.
    async fn say(&self, store: &Store) -> Result<Infallible, RegistryError> {
        let mut changes = self.workers.changes();
        let mut changed: HashSet<_> = self.workers.all().into_iter().map(|(id, _)| id).collect();
        let (mut flush, mut beat) = (interval(FLUSH), Instant::now());
        loop {
            flush.tick().await;
            if beat <= Instant::now() {
                self.put(store, key(&self.at, None), b"").await?;
                beat = Instant::now().checked_add(BEAT).unwrap_or(beat);
            }
            self.collect(&mut changes, &mut changed);
            iter(changed.drain().map(Ok))
                .try_for_each_concurrent(TOGETHER, |id| self.tell(store, id))
                .await?;
        }
    }

    fn collect(&self, changes: &mut Receiver<Change>, changed: &mut HashSet<Digest256>) {
        loop {
            match changes.try_recv() {
                Ok(Change::Here(id) | Change::Gone(id)) => drop(changed.insert(id)),
                Ok(Change::Elsewhere(_)) => {}
                Err(TryRecvError::Lagged(_)) => {
                    changed.extend(self.workers.all().into_iter().map(|(id, _)| id));
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// How one worker is now; of one that is not linked here, that it is not.
    async fn tell(&self, store: &Store, id: Digest256) -> Result<(), RegistryError> {
        let Some(announcement) = self.workers.announcement(&id) else {
            return self.take_back(store, id).await;
        };
        let text = serde_json::to_vec(&announcement).map_err(RegistryError::Text)?;
        let revision = self.put(store, key(&self.at, Some(&id)), &text).await?;
        self.said().insert(id, revision);
        Ok(())
    }

    /// What was said of a worker, unless the next process behind this address has said
    /// something since, or it is forgotten.
    async fn take_back(&self, store: &Store, id: Digest256) -> Result<(), RegistryError> {
        let Some(revision) = self.said().remove(&id) else {
            return Ok(());
        };
        let name = key(&self.at, Some(&id));
        match store.delete_expect_revision(name, Some(revision)).await {
            Err(error) if error.kind() == DeleteErrorKind::WrongLastRevision => Ok(()),
            taken => taken.map_err(RegistryError::Delete),
        }
    }

    async fn put(&self, store: &Store, name: String, text: &[u8]) -> Result<u64, RegistryError> {
        let entry = self.key.close(&name, text);
        store
            .put(name, entry.into())
            .await
            .map_err(RegistryError::Put)
    }

    fn said(&self) -> MutexGuard<'_, HashMap<Digest256, u64>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hear(&self, store: &Store) -> Result<Infallible, RegistryError> {
        let watch = store.watch_with_history(">").await;
        let mut watch = watch.map_err(RegistryError::Watch)?;
        let mine = key(&self.at, None);
        let later = || Instant::now().checked_add(HEARTBEAT);
        let mut deadline = later().ok_or(RegistryError::Deaf)?;
        loop {
            let entry = timeout_at(deadline, watch.next()).await;
            let entry = entry.ok().flatten().ok_or(RegistryError::Deaf)?;
            let entry = entry.map_err(RegistryError::Watcher)?;
            match entry.key == mine {
                true => deadline = later().unwrap_or(deadline),
                false => self.heard(&entry),
            }
        }
    }

    /// What another member said.
    fn heard(&self, entry: &Entry) {
        let Some((at, worker)) = parse(&entry.key).filter(|(at, _)| *at != self.at) else {
            return;
        };
        if entry.operation != Operation::Put {
            return self.workers.withdrawn(&worker, &at);
        }
        let Some(text) = self.key.open(&entry.key, &entry.value) else {
            return tracing::warn!("an entry that no member made: {:?}", entry.key);
        };
        let Ok(announcement) = serde_json::from_slice::<Announcement>(text) else {
            return tracing::warn!("an entry of another version: {:?}", entry.key);
        };
        if let Err(error) = self.workers.announced(announcement, &at) {
            tracing::warn!(%worker, "an announcement is not taken: {}", chain(&error));
        }
    }
}

/// What expires, and is soon said again, needs no disk. It is a bucket as the client makes
/// them, which would first read what it may of the account: a server older than 2.10 says
/// that in other words.
///
/// Source: NATS, ADR-8, "JetStream based Key-Value Stores".
fn bucket(replicas: usize) -> stream::Config {
    stream::Config {
        name: format!("KV_{BUCKET}"),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        max_messages_per_subject: 1,
        max_age: HEARTBEAT,
        duplicate_window: HEARTBEAT,
        storage: StorageType::Memory,
        num_replicas: replicas,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..stream::Config::default()
    }
}

fn key(at: &str, worker: Option<&Digest256>) -> String {
    let at = BASE64_URL_SAFE_NO_PAD.encode(at);
    worker.map_or(at.clone(), |worker| format!("{at}.{worker}"))
}

fn parse(key: &str) -> Option<(String, Digest256)> {
    let (at, worker) = key.split_once('.')?;
    let at = BASE64_URL_SAFE_NO_PAD.decode(at).ok()?;
    Some((String::from_utf8(at).ok()?, worker.parse().ok()?))
}

/// One made beforehand is taken as it is.
const BUCKET: &str = "cocoon-workers";

/// What changes meanwhile is said once.
const FLUSH: Duration = Duration::from_millis(100);

const BEAT: Duration = Duration::from_secs(1);

const PING: Duration = Duration::from_secs(2);

const PATIENCE: Duration = Duration::from_secs(3);

const AGAIN: Duration = Duration::from_millis(500);

/// Entries under way.
const TOGETHER: usize = 64;

/// Why the registry is not followed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nobody answers, or it is something else.
    #[error("there is no bucket {BUCKET}")]
    Bucket(#[source] KeyValueError),
    /// What was said does not come back.
    #[error("nothing of our own came back for {} s", HEARTBEAT.as_secs())]
    Deaf,
    /// A worker that is gone.
    #[error("an entry cannot be taken back")]
    Delete(#[source] DeleteError),
    /// Nobody answers.
    #[error("what was said is not taken back within {} s", PATIENCE.as_secs())]
    Late,
    /// Nobody answers, or it is not allowed.
    #[error("the bucket {BUCKET} cannot be made")]
    Make(#[source] CreateStreamError),
    /// A worker that is there.
    #[error("an entry cannot be made")]
    Put(#[source] PutError),
    /// Not JSON.
    #[error("an announcement cannot be written")]
    Text(#[source] serde_json::Error),
    /// To begin with.
    #[error("the entries cannot be read")]
    Watch(#[source] WatchError),
    /// Broken off.
    #[error("the entries broke off")]
    Watcher(#[source] WatcherError),
}
