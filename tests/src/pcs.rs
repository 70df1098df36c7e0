//! Intel's Provisioning Certification Service on loopback, for one platform.
//!
//! Each answer is a value that a test may change: status, header, body.
//!
//! Source: Intel PCS API 4.0, as a caching service (PCCS) serves it.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use attestation::evidence::Collateral;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::runtime;
use tokio::sync::oneshot;

/// A running service; it stops when this goes.
pub struct Pcs {
    url: String,
    answers: Answers,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Answers = Arc<Mutex<BTreeMap<String, Answer>>>;

impl Pcs {
    /// Serves `collateral` for platforms with `fmspc`.
    pub fn start(listen: SocketAddr, fmspc: [u8; 6], collateral: &Collateral) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let answers: Answers = Arc::new(Mutex::new(answers(fmspc, collateral).into()));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&answers));
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a fresh socket");
                tokio::select! {
                    _ = stopped => {}
                    served = axum::serve(listener, app) => served.expect("serving never ends"),
                }
            });
        });
        Ok(Self {
            url,
            answers,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What comes before `/tdx` and `/sgx`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// By path and query; what is not there is answered with 404.
    pub fn answers(&self) -> MutexGuard<'_, BTreeMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pcs {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the service does not panic");
        }
    }
}

/// One answer of the service.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Name and PEM of the issuer chain.
    pub issuers: Option<(&'static str, String)>,
    /// Content.
    pub body: Vec<u8>,
}

fn answers(fmspc: [u8; 6], collateral: &Collateral) -> [(String, Answer); 4] {
    let Collateral {
        tcb_info,
        tcb_info_issuer_chain,
        qe_identity,
        qe_identity_issuer_chain,
        pck_crl,
        pck_crl_issuer_chain,
        root_ca_crl,
    } = collateral.clone();
    let fmspc = hex::encode_upper(fmspc);
    [
        (
            format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            Answer {
                status: 200,
                issuers: Some(("tcb-info-issuer-chain", tcb_info_issuer_chain)),
                body: tcb_info.into(),
            },
        ),
        (
            "/tdx/certification/v4/qe/identity".into(),
            Answer {
                status: 200,
                issuers: Some((
                    "sgx-enclave-identity-issuer-chain",
                    qe_identity_issuer_chain,
                )),
                body: qe_identity.into(),
            },
        ),
        (
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der".into(),
            Answer {
                status: 200,
                issuers: Some(("sgx-pck-crl-issuer-chain", pck_crl_issuer_chain)),
                body: pck_crl,
            },
        ),
        (
            "/sgx/certification/v4/rootcacrl".into(),
            Answer {
                status: 200,
                issuers: None,
                body: hex::encode(root_ca_crl).into(),
            },
        ),
    ]
}

async fn answer(State(answers): State<Answers>, uri: Uri) -> Response {
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = uri
        .path_and_query()
        .and_then(|path| answers.get(path.as_str()));
    let Some(answer) = wanted else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let status = StatusCode::from_u16(answer.status).expect("a status of HTTP");
    let mut response = (status, answer.body.clone()).into_response();
    if let Some((name, chain)) = &answer.issuers {
        let chain = utf8_percent_encode(chain, NON_ALPHANUMERIC).to_string();
        let chain = HeaderValue::from_str(&chain).expect("percent-encoded text is ASCII");
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), chain);
    }
    response
}
