//! The worker's side of the network: it connects to the schedulers that its host named,
//! and answers requests that they pass on and cannot read.
//!
//! ```text
//! GET  /network/offer             what it can do, line by line, while the connection lasts
//! POST /network/evidence          evidence for a client that nobody but it has to believe
//! POST /network/requests          a sealed request, and its sealed answer; 409 `replayed` if
//!                                 one with its identifier is being answered, or was
//! GET  /network/settlements/{id}  what an answer came to, if its end was lost: 202 while it
//!                                 is under way, 404 if it is not and was not
//! GET  /network/vouchers          what the owner can claim
//! GET  /v1/aci/keyset             keys that receipts count under, and requests are sealed to
//! ```
//!
//! Nothing here sees a prompt that came in clear, and nothing that leaves here is one. A
//! scheduler is believed in nothing: it pays before, and whatever it changes of a request
//! makes that one nobody can open. Only TDs serve the network: who hosts a TPM reads along.

mod answer;
mod dial;
mod intake;
mod offer;
mod purse;
mod refusal;
mod requests;
mod seen;
mod settlements;
mod tenants;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use attestation::binding::Nonce;
use attestation::cbor;
use attestation::config::Scheduler;
use attestation::evidence::PlatformEvidence;
use attestation::protocol::{Refusal, Request, Response as Shown};
use attestation::register::Digest256;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use inference::Engine;
use serde_json::{Value, json};
use session::server::Worker;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tycho_types::cell::HashBytes;

use crate::api::{Models, Served, router};
use crate::receipts;

pub use purse::{NotCovered, Purse, PurseError, Reservation};
use seen::Seen;
use settlements::{Known, Settled, Settlements};
use tenants::Tenants;

/// A worker of the network.
#[derive(Clone, Debug)]
pub struct Network(Arc<Shared>);

/// What all schedulers are served with.
#[derive(Debug)]
struct Shared {
    worker: Arc<Worker>,
    id: Digest256,
    /// As the Registry knows it.
    build: HashBytes,
    models: BTreeMap<String, Offered>,
    seen: Seen,
    tenants: Tenants,
    links: Vec<Arc<Link>>,
    stop: CancellationToken,
}

/// A model, and an API that has no other.
#[derive(Debug)]
struct Offered {
    served: Arc<Served>,
    api: Router,
}

/// One scheduler.
#[derive(Debug)]
struct Link {
    scheduler: Scheduler,
    purse: Option<Arc<Purse>>,
    /// One for all schedulers that pay out of the same Channel.
    settlements: Arc<Settlements>,
}

/// Where the requests of one scheduler are served.
#[derive(Clone, Debug)]
struct Desk {
    network: Arc<Shared>,
    link: Arc<Link>,
}

impl Network {
    /// Gets ready to serve these schedulers.
    pub async fn start(
        worker: Arc<Worker>,
        models: &Models,
        schedulers: Vec<Scheduler>,
    ) -> anyhow::Result<Self> {
        let Ok((_, _, PlatformEvidence::Tdx { quote, .. })) = worker.report(None).await else {
            bail!("the network takes workers only that are TDs");
        };
        let build = receipts::build(&quote).context("the platform's quote cannot be read")?;
        let mut links = Vec::new();
        for scheduler in schedulers {
            links.push(Link::new(scheduler, &links)?);
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).context("the system gives no randomness")?;
        let models = models.each().map(|(served, alone)| {
            let api = receipts::around(router(alone), Arc::clone(&worker));
            (served.name().to_owned(), Offered { served, api })
        });
        Ok(Self(Arc::new(Shared {
            id: worker.seal_id(),
            build: HashBytes(*build.as_bytes()),
            models: models.collect(),
            seen: Seen::new(secret),
            tenants: Tenants::default(),
            links,
            stop: CancellationToken::new(),
            worker,
        })))
    }

    /// For the owner of this machine, who reaches it as its clients do.
    pub fn vouchers(&self) -> Router {
        let route = Router::new().route("/network/vouchers", get(vouchers));
        route.with_state(Arc::clone(&self.0))
    }

    /// Serves until `shutdown`, then lets answers under way finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let tasks = TaskTracker::new();
        for link in &self.0.links {
            let desk = Desk {
                network: Arc::clone(&self.0),
                link: Arc::clone(link),
            };
            tasks.spawn(dial::keep(desk.clone(), desk.api()));
        }
        shutdown.await;
        self.0.stop.cancel();
        tasks.close();
        timeout(DRAIN, tasks.wait())
            .await
            .with_context(|| format!("{} schedulers outlived the drain", tasks.len()))
    }
}

impl Desk {
    fn api(self) -> Router {
        let worker = Arc::clone(&self.network.worker);
        let evidence = post(evidence).layer(DefaultBodyLimit::max(Request::MAX));
        Router::new()
            .route("/network/offer", get(offer::watch))
            .route("/network/evidence", evidence)
            .route("/network/requests", post(requests::create))
            .route("/network/settlements/{id}", get(settlement))
            .with_state(self.clone())
            .route("/network/vouchers", get(vouchers))
            .with_state(self.network)
            .merge(receipts::keys(worker))
    }
}

impl Link {
    fn new(scheduler: Scheduler, others: &[Arc<Self>]) -> anyhow::Result<Arc<Self>> {
        let open = others.iter().filter_map(|other| other.purse.as_ref());
        let channel = scheduler.channel.as_ref();
        let purse = channel.map(|channel| Purse::shared(channel, open));
        let purse = purse.transpose();
        let purse = purse.with_context(|| format!("the channel of {}", scheduler.address))?;
        let same = others.iter().find(|other| match (&other.purse, &purse) {
            (Some(other), Some(purse)) => Arc::ptr_eq(other, purse),
            _ => false,
        });
        let settlements = same.map(|other| Arc::clone(&other.settlements));
        Ok(Arc::new(Self {
            settlements: settlements.unwrap_or_default(),
            scheduler,
            purse,
        }))
    }

    fn ask(&self, model: &str) -> u64 {
        self.scheduler.ask(model)
    }
}

impl Offered {
    fn engine(&self) -> &Engine {
        self.served.engine()
    }

    fn root(&self) -> HashBytes {
        requests::root(self.served.model().root.as_deref())
    }

    /// Whether the engine would refuse whatever comes.
    fn is_full(&self) -> bool {
        self.engine().is_full()
    }
}

/// `POST /network/evidence`
async fn evidence(State(desk): State<Desk>, body: Bytes) -> Response {
    let shown = match cbor::decode(&body) {
        Ok(Request::Challenge(nonce)) => desk.network.worker.attest_sealed(Nonce(nonce)).await,
        Ok(Request::Credential(_)) => Shown::Refused(Refusal::OutOfOrder),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    ([(CONTENT_TYPE, "application/cbor")], cbor::encode(&shown)).into_response()
}

/// `GET /network/settlements/{id}`
async fn settlement(State(desk): State<Desk>, Path(id): Path<String>) -> Response {
    let mut bytes = [0; 16];
    let known = hex::decode_to_slice(id, &mut bytes).ok();
    match known.and_then(|()| desk.link.settlements.of(&bytes)) {
        Some(Known::Settled(Settled { settlement, earned })) => {
            if let Some(earned) = earned {
                earned.count();
            }
            ([(CONTENT_TYPE, "application/cbor")], settlement).into_response()
        }
        Some(Known::UnderWay) => StatusCode::ACCEPTED.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `GET /network/vouchers`: of Channels without one too, since schedulers learn here what
/// they pay into; of each once, however many pay into it.
async fn vouchers(State(network): State<Arc<Shared>>) -> Json<Value> {
    let mut purses: Vec<&Arc<Purse>> = Vec::new();
    for purse in network.links.iter().filter_map(|link| link.purse.as_ref()) {
        if !purses.iter().any(|other| Arc::ptr_eq(other, purse)) {
            purses.push(purse);
        }
    }
    let all = purses.into_iter().map(|purse| {
        let newest = purse.newest();
        let worth = newest.as_ref().and_then(|signed| signed.unverified().ok());
        json!({
            "channel": purse.address().to_string(),
            "network": purse.network(),
            "spent": purse.spent(),
            "amount": worth.map_or(0, |voucher| voucher.amount),
            "signed": newest.as_ref().and_then(purse::encode).map(|boc| BASE64_STANDARD.encode(boc)),
        })
    });
    Json(json!({"vouchers": all.collect::<Vec<_>>()}))
}

/// For answers under way when the machine is told to stop.
const DRAIN: Duration = Duration::from_secs(8);
