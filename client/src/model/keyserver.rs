//! `cocoon model keyserver`: gives the keys of private models to machines that proved
//! what they run, and to nobody else.
//!
//! A machine calls, and is then verified as by any client: this end is the TLS client.
//! It gets the key of a model that its own measured configuration names, together with
//! that key and this server. What is given and refused goes to standard output, one JSON
//! object a line, without any secret.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use attestation::appraisal::{Check, chain};
use attestation::binding::Nonce;
use attestation::config::{KeySource, Measured};
use attestation::model_key::{KeyAnswer, KeyGrant, KeyRefusal, KeyRequest, statement};
use attestation::policy::Policy;
use attestation::register::Digest256;
use clap::Args;
use measurements::release::Release;
use serde_json::{Map, Value, json};
use session::client::{ChallengeError, ConnectError, Session, connect};
use session::frame::{self, FrameError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::key::KeyFile;
use crate::release::key::{KeyError, SigningKey};
use crate::trust::TrustArgs;

/// Who gets keys, which ones, and from whom.
#[derive(Args, Debug)]
pub struct KeyserverArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Folder of key files, as `cocoon model pack --key-out` makes them, ending in .key.
    #[arg(long, value_name = "DIR")]
    model_keys: PathBuf,
    /// This server's own key, as `cocoon release keygen` makes it.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Where machines call.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8444")]
    listen: SocketAddr,
}

impl KeyserverArgs {
    /// Serves until `shutdown`.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let release = self.trust.release()?;
        let owner = Owner {
            policy: self.trust.policy()?,
            configs: configs(&release)?,
            keys: read(&self.model_keys)?,
            identity: SigningKey::read(&self.identity)?,
        };
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr().context("no local address")?;
        println!("keyserver {address}");
        println!("server    {}", owner.identity.public().id());
        serve(&listener, Arc::new(owner), shutdown).await
    }
}

/// Each configuration by what a TD, and what a TPM, reports of it.
fn configs(release: &Release) -> Result<BTreeMap<String, Measured>> {
    let mut configs = BTreeMap::new();
    for config in &release.configs {
        let measured = Measured::parse(config.text.as_bytes())
            .with_context(|| format!("config {} of the release", config.name))?;
        configs.insert(config.sha384.to_string(), measured.clone());
        configs.insert(config.pcr8.to_string(), measured);
    }
    Ok(configs)
}

/// Every key of a folder by the root hash that it opens.
fn read(folder: &Path) -> Result<BTreeMap<Digest256, KeyFile>> {
    let named = || format!("cannot list {}", folder.display());
    let mut keys = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(named)? {
        let path = entry.with_context(named)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            let key = KeyFile::read(&path)?;
            let root = key.root;
            ensure!(
                keys.insert(root, key).is_none(),
                "{} is another key for {root}",
                path.display()
            );
        }
    }
    ensure!(!keys.is_empty(), "{} holds no *.key", folder.display());
    Ok(keys)
}

/// A model owner.
#[derive(Debug)]
pub struct Owner {
    /// Which machines are trusted.
    pub policy: Policy,
    /// What they were told to do, by `mrconfigid` or `pcr8`.
    pub configs: BTreeMap<String, Measured>,
    /// By root hash.
    pub keys: BTreeMap<Digest256, KeyFile>,
    /// Signs what is given.
    pub identity: SigningKey,
}

/// A key that was given.
#[derive(Debug)]
pub struct Released {
    /// `name@revision`.
    pub model: String,
    /// What the machine proved.
    pub checks: Vec<Check>,
}

impl Owner {
    /// Verifies who called, and gives the key that it asks for and may have.
    pub async fn answer<S>(&self, connection: S) -> Result<Released, RefusedKey>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let session = connect(connection, &self.policy).await;
        let mut session = session.map_err(RefusedKey::Machine)?;
        let checks = session.trusted.checks().to_vec();
        let request = frame::read(&mut session.stream, KeyRequest::MAX);
        let request: KeyRequest = timeout(PATIENCE, request)
            .await
            .map_err(|_| RefusedKey::Late)?
            .map_err(RefusedKey::Protocol)?;
        let root = Digest256::from_bytes(request.root);
        let found = self.key_for(root, &checks);
        let answer = match &found {
            Ok(key) => KeyAnswer::Key(self.grant(&session, &request, key)?),
            Err(refusal) => KeyAnswer::Refused(*refusal),
        };
        let said = frame::write(&mut session.stream, &answer).await;
        said.map_err(RefusedKey::Protocol)?;
        // It has what it asked for; whether it says goodbye does not matter.
        session.stream.shutdown().await.unwrap_or_default();
        match found {
            Ok(key) => Ok(Released {
                model: key.model.clone(),
                checks,
            }),
            Err(refusal) => Err(RefusedKey::Model {
                root,
                refusal,
                checks,
            }),
        }
    }

    /// The key for `root`, if the configuration that was proved wants it from here.
    fn key_for(&self, root: Digest256, proved: &[Check]) -> Result<&KeyFile, KeyRefusal> {
        let key = self.keys.get(&root).ok_or(KeyRefusal::Unknown)?;
        let source = Some(KeySource {
            sha256: key.key.digest(),
            server: self.identity.public().id(),
        });
        let config = proved
            .iter()
            .filter(|check| matches!(check.name, "mrconfigid" | "pcr8"))
            .find_map(|check| self.configs.get(&check.found));
        let mut models = config.into_iter().flat_map(|config| &config.models);
        match models.any(|model| model.verity.root_hash == root && model.key == source) {
            true => Ok(key),
            false => Err(KeyRefusal::NotConfigured),
        }
    }

    fn grant<S>(
        &self,
        session: &Session<S>,
        request: &KeyRequest,
        key: &KeyFile,
    ) -> Result<KeyGrant, RefusedKey> {
        let ekm = session.stream.exporter().export(&Nonce(request.nonce));
        let ekm = ekm.map_err(RefusedKey::Session)?;
        let statement = statement(&ekm, &key.root, &key.key.digest());
        let signature = self.identity.sign_fixed(&statement);
        Ok(KeyGrant {
            key: **key.key.bytes(),
            spki: self.identity.public().spki(),
            signature: signature.map_err(RefusedKey::Sign)?,
        })
    }
}

/// Answers everybody until `shutdown`.
async fn serve(
    listener: &TcpListener,
    owner: Arc<Owner>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut calls = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => return Ok(()),
            next = async { (place.await, listener.accept().await) } => next,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let owner = Arc::clone(&owner);
        calls.spawn(async move {
            let line = line(&peer, &owner.answer(tcp).await);
            // A log that is full must not stop the service.
            if let Err(error) = writeln!(io::stdout(), "{line}") {
                tracing::error!("cannot log {line}: {error}");
            }
            drop(place);
        });
        while calls.try_join_next().is_some() {}
    }
}

/// When, to whom, what, and by which measurements.
fn line(peer: &SocketAddr, answer: &Result<Released, RefusedKey>) -> Value {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let time = since.unwrap_or_default().as_secs();
    let (event, what, checks) = match answer {
        Ok(released) => ("released", released.model.clone(), &*released.checks),
        Err(refused) => ("refused", chain(refused), refused.checks()),
    };
    let proved: Map<_, _> = checks
        .iter()
        .map(|check| (check.name.into(), check.found.clone().into()))
        .collect();
    let peer = peer.to_string();
    json!({ "event": event, "peer": peer, "proved": proved, "time": time, "what": what })
}

/// Why nothing was given.
#[derive(Debug, thiserror::Error)]
pub enum RefusedKey {
    /// After it was trusted.
    #[error("the machine took too long to ask")]
    Late,
    /// It did not prove what it is, or not what is accepted.
    #[error("the machine is not trusted")]
    Machine(#[source] ConnectError),
    /// Another model than it may have.
    #[error("no key for {root}: {refusal}")]
    Model {
        /// What it asked for.
        root: Digest256,
        /// What it was told.
        refusal: KeyRefusal,
        /// What it proved.
        checks: Vec<Check>,
    },
    /// Not a request of ours.
    #[error("the machine did not ask as agreed")]
    Protocol(#[source] FrameError),
    /// The exporter.
    #[error("the TLS session gives no keying material")]
    Session(#[source] rustls::Error),
    /// The server's own key.
    #[error("the answer cannot be signed")]
    Sign(#[source] KeyError),
}

impl RefusedKey {
    /// What was looked at before it was refused.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        match self {
            Self::Machine(ConnectError::Challenge(ChallengeError::Rejected(rejection))) => {
                &rejection.checks
            }
            Self::Model { checks, .. } => checks,
            _ => &[],
        }
    }
}

const MAX_CONNECTIONS: usize = 64;

const PATIENCE: Duration = Duration::from_secs(10);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
