//! `cocoon gateway`.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use attestation::appraisal::Verdict;
use clap::Args;
use tokio::net::TcpListener;

use super::front::Front;
use super::keys::Keys;
use crate::address::Address;
use crate::network::args::NetworkArgs;
use crate::receipts::Recorder;
use crate::trust::TrustArgs;
use crate::worker::{FRESH, Worker};

/// Whom to ask, and for whom.
#[derive(Args, Debug)]
pub struct GatewayArgs {
    /// The worker, https://HOST:PORT.
    #[arg(value_name = "URL", required_unless_present = "network")]
    worker: Option<Address>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Where applications connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Who may ask, for what, and how often: TOML with hashes of API keys.
    #[arg(long, value_name = "FILE")]
    api_keys: Option<PathBuf>,
    /// A site whose pages may use this gateway, https://HOST; may be repeated.
    #[arg(long, value_name = "ORIGIN")]
    origin: Vec<String>,
    /// Write the receipt of each answer here, checked.
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Beside each receipt, write what was sent and answered, and what a replay needs.
    #[arg(long, requires = "receipts")]
    transcripts: bool,
    #[command(flatten)]
    trust: TrustArgs,
}

impl GatewayArgs {
    /// Whether others than its user depend on it: what they do is logged.
    #[must_use]
    pub const fn is_service(&self) -> bool {
        self.api_keys.is_some() || self.network.is_asked()
    }

    /// Serves until `shutdown`.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Verdict> {
        let policy = Arc::new(self.trust.policy()?);
        let keys = self.api_keys.as_deref().map(Keys::read).transpose()?;
        let router = match self.worker {
            None => self.network.open(policy)?.router(),
            Some(worker) => {
                let worker = Arc::new(Worker::new(worker, policy, FRESH));
                match self.receipts {
                    Some(folder) => {
                        super::recording(worker, Recorder::new(folder, self.transcripts)?)
                    }
                    None => super::router(worker),
                }
            }
        };
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr().context("no local address")?;
        println!("gateway http://{address}/v1");
        let front = Front::new(address, keys, self.origin);
        super::serve(listener, front.before(router), shutdown).await?;
        Ok(Verdict::Trusted)
    }
}
