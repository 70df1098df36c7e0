//! `cocoon scheduler run`: workers dial in at one port, clients at another.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::chain::client::Client;
use ::chain::network::Network;
use ::chain::wallet::Key;
use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use clap::{Args, Subcommand};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scheduler::books::{Books, Kept};
use scheduler::desk::Desk;
use scheduler::ledger::{Identity, Ledger};
use scheduler::scheduler::Scheduler;
use scheduler::workers::Workers;
use scheduler::{api, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tycho_types::models::StdAddr;

use crate::artefacts::read;
use crate::trust::TrustArgs;

/// What an operator does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring clients' sealed requests to workers that proved themselves.
    ///
    /// It sees who asks for which model and how much, never what.
    Run(Box<RunArgs>),
}

/// Where it listens, whom it takes, and how it is paid.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Where workers dial in.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8091")]
    workers: SocketAddr,
    /// Certificate chain for clients, PEM; without one they connect in clear.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    #[command(flatten)]
    payment: PaymentArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// How it is paid; without a database it asks for nothing.
#[derive(Args, Debug)]
struct PaymentArgs {
    /// Where the books are: sqlite:PATH, or postgres://… for several schedulers.
    #[arg(long, value_name = "URL", requires_all = ["payee", "voucher_key", "network"])]
    database: Option<String>,
    /// The wallet that clients' Channels pay to.
    #[arg(long, value_name = "ADDRESS", requires = "database")]
    payee: Option<StdAddr>,
    /// 64 hex digits: the key that signs for the owners of workers.
    #[arg(long, value_name = "FILE", requires = "database")]
    voucher_key: Option<PathBuf>,
    /// The network's description: its liteservers, and the block that is pinned.
    #[arg(long, value_name = "FILE", requires = "database")]
    network: Option<PathBuf>,
}

/// Runs until `shutdown`, then lets open requests finish.
pub async fn run(
    command: Command,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Verdict> {
    let Command::Run(args) = command;
    let policy = Arc::new(args.trust.policy()?);
    let tls = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => Some(acceptor(certificate, key)?),
        _ => None,
    };
    let books = args.payment.books().await?;
    let workers = listen(args.workers).await?;
    let clients = listen(args.listen).await?;
    println!("workers {}", workers.local_addr()?);
    println!("clients {}/network/v1", clients.local_addr()?);

    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).context("no randomness")?;
    let known = Workers::new(Desk::new(seed));
    let scheduler = Scheduler::new(Arc::clone(&known), known.clone(), books);
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let linked = tokio::spawn(serve::workers(workers, policy, known, end.clone()));
    let api = api::router(Arc::clone(&scheduler));
    let served = tokio::spawn(serve::clients(clients, tls, api, stop.clone()));
    tokio::select! {
        () = scheduler.keep() => {}
        () = shutdown => {}
    }
    // Workers stay until the last client has its answer.
    stop.cancel();
    served.await.context("serving clients failed")?;
    end.cancel();
    linked.await.context("following workers failed")?;
    scheduler.keep_records().await;
    Ok(Verdict::Trusted)
}

impl PaymentArgs {
    async fn books(self) -> Result<Books> {
        let (Some(url), Some(payee), Some(key), Some(network)) =
            (self.database, self.payee, self.voucher_key, self.network)
        else {
            return Ok(Books::Free);
        };
        let network = text(&network)
            .and_then(|text| Ok(Network::parse(&text)?))
            .with_context(|| format!("{} describes no network", network.display()))?;
        let seed = text(&key)?;
        let seed = Key::parse(&seed);
        let key = seed.with_context(|| format!("{} is not 64 hex digits", key.display()))?;
        let client = Client::new(&network, MAX_AGE);
        let newest = client.newest().await.context("cannot ask the chain")?;
        let identity = Identity {
            key,
            payee,
            global_id: newest.global_id(),
        };
        let ledger = Ledger::open(&url, identity.clone()).await?;
        Ok(Books::Kept(Box::new(Kept::new(ledger, client, &identity))))
    }
}

/// What clients that ask for TLS are shown.
fn acceptor(certificate: &Path, key: &Path) -> Result<tokio_rustls::TlsAcceptor> {
    let bad = |path: &Path| format!("{} is not what it should be", path.display());
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| bad(certificate))?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).with_context(|| bad(key))?;
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}"))
}

fn text(path: &Path) -> Result<String> {
    Ok(String::from_utf8(read(path)?)?)
}

/// The oldest state of the chain that is taken.
const MAX_AGE: Duration = Duration::from_secs(60);
