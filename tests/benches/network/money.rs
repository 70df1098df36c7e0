//! A chain, a Channel from the client to the scheduler, and one from it to the owner of the
//! worker; in a folder, where each finds its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::network::Purse as Till;
use attestation::config;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chain::client::Client;
use chain::network::Network;
use client::network::purse::{ChannelFile, Purse};
use scheduler::books::{Books, Kept};
use scheduler::ledger::{Identity, Ledger};
use tempfile::TempDir;
use tests::chain::{GLOBAL_ID, Town, key};
use tycho_types::boc::Boc;
use tycho_types::cell::CellBuilder;

pub(crate) struct Money {
    folder: TempDir,
    _town: Town,
}

impl Money {
    /// `None` where there is no TVM: `npm ci` in `contracts`.
    pub(crate) async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let town = Town::start(folder.path(), &[SCHEDULER, CLIENT, OWNER]).await?;
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write("chain.json", town.network.to_json().unwrap());
        write("payee", town.wallet(SCHEDULER).to_string());
        let all = DEPOSIT + COIN / 50;
        let earned = town.open(CLIENT, SCHEDULER, None, all).await;
        let file = ChannelFile {
            channel: earned.address.to_string(),
            global_id: GLOBAL_ID,
            payee: earned.terms.payee.to_string(),
            deposit: DEPOSIT,
            until: earned.terms.until,
            voucher_key: "key".into(),
        };
        write("channel.json", serde_json::to_string(&file).unwrap());
        write("key", hex::encode([CLIENT; 32]));
        let paid = town.open(SCHEDULER, OWNER, None, all).await;
        let state = CellBuilder::build_from(&paid.state).unwrap();
        write("till", BASE64_STANDARD.encode(Boc::encode(state)));
        Some(Self {
            folder,
            _town: town,
        })
    }

    pub(crate) fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }
}

/// The scheduler's, on SQLite.
pub(crate) async fn books(folder: &Path) -> Books {
    let identity = Identity {
        key: key(SCHEDULER),
        payee: read(folder, "payee").parse().unwrap(),
        global_id: GLOBAL_ID,
    };
    let url = format!("sqlite:{}", folder.join("books").display());
    let ledger = Ledger::open(&url, identity.clone()).await.unwrap();
    let network = Network::parse(&read(folder, "chain.json")).unwrap();
    let chain = Client::new(&network, Duration::from_secs(3600));
    Books::Kept(Box::new(Kept::new(ledger, chain, &identity, DEPOSIT)))
}

/// The owner's, as the agent has it.
pub(crate) fn till(folder: &Path) -> Arc<Till> {
    let till = Till::open(&config::Channel {
        state: read(folder, "till"),
        network: GLOBAL_ID,
        deposit: DEPOSIT,
        paid: 0,
    });
    Arc::new(till.unwrap())
}

/// The client's, with its file beside it.
pub(crate) fn purse(folder: &Path) -> Arc<Purse> {
    Arc::new(Purse::open(&folder.join("channel.json"), None).unwrap())
}

fn read(folder: &Path, name: &str) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::read_to_string(path).unwrap()
}

const SCHEDULER: u8 = 1;
const CLIENT: u8 = 2;
const OWNER: u8 = 3;

const COIN: u64 = 1_000_000_000;
const DEPOSIT: u64 = 60 * COIN;
