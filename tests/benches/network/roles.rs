//! What this program is in another process.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use client::gateway;
use client::gateway::front::Front;
use client::network::scheduler::Scheduler as Way;
use client::network::secret::Secret;
use client::network::{Network, Options};
use scheduler::books::Books;
use scheduler::desk::Desk;
use scheduler::scheduler::Scheduler;
use scheduler::workers::Workers;
use scheduler::{api, serve};
use tests::asker::PRICE;
use tests::stand_in::{StandIn, Terms, Till};
use tests::td::Td;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::money;
use crate::takes::Takes;

pub(crate) fn is_known(role: &str) -> bool {
    matches!(role, "server" | "scheduler" | "worker" | "gateway")
}

/// Until standard input ends: with who started it.
#[tokio::main]
pub(crate) async fn play(role: &str, arguments: &[String]) {
    std::thread::spawn(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap_or(0);
        std::process::exit(0)
    });
    let (others, folder) = match arguments {
        [others, folder] => (others.as_str(), Some(Path::new(folder))),
        [others] => (others.as_str(), None),
        _ => ("", None),
    };
    match role {
        "server" => server().await,
        "scheduler" => scheduler(folder).await,
        "worker" => worker(others, folder).await,
        _ => gateway(others, folder).await,
    }
}

async fn server() {
    let answer = async || ([(CONTENT_TYPE, "application/json")], ANSWER);
    let app = Router::new().route("/v1/chat/completions", post(answer));
    let listener = listen().await;
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// Where there is a folder, all that is asked is paid for.
async fn scheduler(folder: Option<&Path>) {
    let known = Workers::new(Desk::new([7; 32]));
    let books = match folder {
        Some(folder) => money::books(folder).await,
        None => Books::Free,
    };
    let scheduler = Scheduler::new(Arc::clone(&known), known.clone(), books);
    let (workers, clients) = (listen().await, listen().await);
    println!(
        "{} {}",
        workers.local_addr().unwrap(),
        clients.local_addr().unwrap()
    );
    let (policy, stop) = (Arc::new(Td::new().policy()), CancellationToken::new());
    tokio::join!(
        serve::workers(workers, policy, known, stop.clone()),
        serve::clients(
            clients,
            None,
            api::router(Arc::clone(&scheduler)),
            stop.clone()
        ),
        scheduler.keep(&stop),
    );
}

async fn worker(scheduler: &str, folder: Option<&Path>) {
    let terms = Terms {
        answer: Some((ANSWER, TOKENS)),
        ..Terms::default()
    };
    let till = folder.map(|folder| -> Arc<dyn Till> { Arc::new(Takes(money::till(folder))) });
    let mut worker = StandIn::paid(Td::new(), terms, till).await;
    worker.dial(scheduler.parse().unwrap());
    println!("{}", worker.id);
    std::future::pending().await
}

async fn gateway(scheduler: &str, folder: Option<&Path>) {
    let way = Way::new(format!("http://{scheduler}").parse().unwrap());
    let options = Options {
        max_price: PRICE,
        tip: 0,
        prices: None,
        answer: 100,
        deadline: Duration::from_secs(20),
        hedge: false,
    };
    let policy = Arc::new(Td::new().policy());
    let purses = folder.map(money::purse).into_iter().collect();
    let secret = Secret::random().unwrap();
    let network = Network::new(vec![way.unwrap()], policy, purses, options, &secret);
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    println!("{address}");
    let app = Front::new(address, None, Vec::new()).before(network.router());
    gateway::serve(listener, app, std::future::pending())
        .await
        .unwrap();
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"echo","choices":[{"index":0,"message":{"role":"assistant","content":"Yea, though I walk through the valley of the shadow of death, I will fear no evil: for thou art with me; thy rod and thy staff they comfort me."},"finish_reason":"stop"}],"usage":{"prompt_tokens":0,"completion_tokens":37,"total_tokens":37}}"#;

/// As the answer says.
const TOKENS: u64 = 37;
