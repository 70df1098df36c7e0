//! One scheduler of several: where NATS is, and where the others are let in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use attestation::appraisal::chain;
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use scheduler::desk::Desk;
use scheduler::fabric::Fabric;
use scheduler::fabric::key::Key;
use scheduler::fabric::peers::{self, Peers};
use scheduler::fabric::registry::{self, Registry};
use scheduler::scheduler::Scheduler;
use scheduler::workers::Workers;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::sockets::listen;
use super::text;

/// What the schedulers of one deployment are to each other; without it there is one.
#[derive(Args, Debug)]
pub(super) struct FabricArgs {
    /// Where several schedulers tell each other of their workers: nats://HOST:PORT, or
    /// tls://…; may be repeated.
    #[arg(long, value_name = "URL", requires_all = ["fabric_key", "peers"])]
    nats: Vec<String>,
    /// How many servers of a NATS cluster keep what is said, if nobody has made the bucket.
    #[arg(long, value_name = "COUNT", requires = "nats", default_value_t = 1)]
    nats_replicas: u8,
    /// NATS credentials of this scheduler.
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_credentials: Option<PathBuf>,
    /// Who vouches for NATS, PEM; the system's roots without it.
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_root: Option<PathBuf>,
    /// 64 hex digits that all schedulers of the deployment have, and nobody else.
    #[arg(long, value_name = "FILE", requires = "nats")]
    fabric_key: Option<PathBuf>,
    /// Where the other schedulers connect.
    #[arg(long, value_name = "ADDRESS", requires = "nats")]
    peers: Option<SocketAddr>,
    /// How they reach it, if not there: HOST:PORT.
    #[arg(long, value_name = "ADDRESS", requires = "peers")]
    peers_as: Option<String>,
}

/// A scheduler's place among the others.
pub(super) struct Place {
    /// Of all schedulers.
    pub(super) workers: Arc<Workers>,
    /// Reaches them.
    pub(super) fabric: Arc<dyn Fabric>,
    joined: Option<(TcpListener, Key, Registry)>,
}

impl FabricArgs {
    /// Listens, and begins to connect; NATS may be away.
    pub(super) async fn join(self) -> Result<Place> {
        let (Some(path), Some(address)) = (self.fabric_key, self.peers) else {
            let mut seed = [0; 32];
            aws_lc_rs::rand::fill(&mut seed).context("no randomness")?;
            let workers = Workers::new(Desk::new(seed).expecting(DIAL));
            return Ok(Place {
                fabric: workers.clone(),
                workers,
                joined: None,
            });
        };
        let key = Key::parse(&text(&path)?);
        let key = key.with_context(|| format!("{} is not 64 hex digits", path.display()))?;
        let listener = listen(address).await?;
        let at = match self.peers_as {
            Some(at) => at,
            None => {
                let at = listener.local_addr()?;
                ensure!(
                    !at.ip().is_unspecified(),
                    "nobody reaches {at}: --peers-as is needed"
                );
                at.to_string()
            }
        };
        let mut options = registry::options();
        if let Some(path) = self.nats_credentials {
            let read = options.credentials_file(&path).await;
            options = read.with_context(|| format!("{} holds no credentials", path.display()))?;
        }
        if let Some(path) = self.nats_root {
            // Else a file without any would be noticed by nobody but the operator of NATS.
            let named = || format!("{} holds no certificate", path.display());
            let mut roots = CertificateDer::pem_file_iter(&path).with_context(named)?;
            roots.next().with_context(named)?.with_context(named)?;
            options = options.add_root_certificates(path).require_tls(true);
        }
        let nats = registry::connect(&self.nats, options).await;
        let nats = nats.context("no connection to NATS can be begun")?;
        println!("peers {at}");
        let workers = Workers::new(Desk::new(key.seed()).expecting(DIAL));
        let registry = Registry::new(nats, Arc::clone(&workers), key.clone(), at);
        let registry = registry.replicated(self.nats_replicas.into());
        Ok(Place {
            fabric: Peers::new(Arc::clone(&workers), &key)?,
            workers,
            joined: Some((listener, key, registry)),
        })
    }
}

impl Place {
    /// Serves the other schedulers, and keeps up with them, until `stop`.
    pub(super) async fn keep(
        self,
        scheduler: Arc<Scheduler>,
        stop: CancellationToken,
    ) -> Result<()> {
        let Some((listener, key, registry)) = self.joined else {
            return Ok(());
        };
        let others = peers::listen(listener, &key, scheduler, stop.clone())?;
        let kept = async {
            stop.run_until_cancelled(registry.keep()).await;
            if let Err(error) = registry.leave().await {
                tracing::warn!(
                    "the others learn later that this one leaves: {}",
                    chain(&error)
                );
            }
        };
        tokio::join!(others, kept);
        Ok(())
    }
}

/// A worker that lost its scheduler is back after so long, with its proof.
const DIAL: Duration = Duration::from_secs(10);
