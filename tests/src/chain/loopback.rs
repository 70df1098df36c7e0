//! The chain on loopback, and people who have coins there. Their keys are no secrets: the
//! number of each, thirty-two times.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use chain::client::Client;
use chain::network::{Network, Server};
use chain::wallet::{Key, Order, Wallet};
use contracts::cells::Bytes;
use contracts::channel::{COUNTED, Channel, Open, Terms};
use contracts::code::{self, Code};
use contracts::market::{self, Children};
use contracts::reports::epoch;
use tokio::net::TcpListener;
use tycho_crypto::ed25519::{KeyPair, SecretKey};
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::models::{StateInit, StdAddr};

use super::liteserver::{Tamper, serve};
use super::{Faucet, LocalChain, installed};

/// Serves a chain for as long as the runtime lasts. Whoever reads this can be the server:
/// there is nothing to protect.
pub async fn serve_at(
    address: SocketAddr,
    chain: Arc<Mutex<LocalChain>>,
    tamper: Option<Tamper>,
) -> Result<Server> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    let key = KeyPair::from(&SecretKey::from_bytes([1; 32]));
    let server = Server {
        address: listener.local_addr().context("no local address")?,
        key: key.public_key.to_bytes(),
    };
    tokio::spawn(serve(listener, key, chain, tamper));
    Ok(server)
}

/// Any port of this machine's.
pub const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl LocalChain {
    /// What its clients are given.
    #[must_use]
    pub fn network(&self, servers: Vec<Server>) -> Network {
        Network {
            servers,
            pinned: self.pinned(),
        }
    }
}

/// A chain that is served, and asked.
#[derive(Debug)]
pub struct Town {
    /// What happens.
    pub chain: Arc<Mutex<LocalChain>>,
    /// Where it is.
    pub network: Network,
    client: Client,
}

impl Town {
    /// In a folder of its own. `None` where there is no TVM, which CI is not allowed.
    pub async fn start(folder: &Path, people: &[u8]) -> Option<Self> {
        if !installed() {
            return None;
        }
        let wallets: Vec<_> = people.iter().map(|person| key(*person).public()).collect();
        let faucet = Faucet {
            wallets: &wallets,
            coins: COINS,
        };
        let chain = LocalChain::open(&folder.join("chain"), faucet, now());
        let chain = Arc::new(Mutex::new(chain.expect("a chain begins")));
        let server = serve_at(LOOPBACK, Arc::clone(&chain), None).await;
        let servers = vec![server.expect("there are ports")];
        let network = chain.lock().expect("no panics").network(servers);
        Some(Self {
            client: client(&network),
            chain,
            network,
        })
    }

    /// Somebody's.
    #[must_use]
    pub fn wallet(&self, person: u8) -> StdAddr {
        let chain = self.chain.lock().expect("no panics");
        chain
            .wallet(&key(person).public())
            .expect("it began with it")
    }

    /// A Channel of thirty days with so many nanotons; `market` counts what it pays.
    pub async fn open(
        &self,
        payer: u8,
        payee: u8,
        market: Option<&StdAddr>,
        deposit: u64,
    ) -> Channel {
        let terms = Terms {
            payer: self.wallet(payer),
            payee: self.wallet(payee),
            key: key(payer).public(),
            until: now().saturating_add(30 * 24 * 3600),
            delay: DELAY,
            fee: market.map_or(0, |_| COUNTED),
            market: market.cloned().unwrap_or_else(|| self.wallet(payee)),
        };
        let open = Open::new(0, terms).expect("these terms are good");
        let init = Some((open.code, open.data));
        self.send(payer, &open.address, deposit, &open.body, init)
            .await;
        self.channel(&open.address).await
    }

    /// Of some model on some GPUs, whose price begins there; under authorities that are not
    /// there.
    pub async fn market(&self, person: u8, price: u64) -> StdAddr {
        let nobody = StdAddr::new(0, HashBytes([9; 32]));
        let children = Children::new(nobody.clone(), nobody).expect("there are codes");
        let terms = market::Terms {
            model: HashBytes([1; 32]),
            gpu: Bytes([b'H'; 16]),
            capacity: 1_000_000,
            stake: 1,
            ceiling: price.saturating_mul(5),
            children: Lazy::new(&children).expect("it fits"),
        };
        let state = market::State::new(epoch(now()), price, &terms).expect("it fits");
        let address = code::address(Code::MARKET, &state).expect("it fits");
        let code = Code::MARKET.cell().expect("it is there");
        let data = CellBuilder::build_from(&state).expect("it fits");
        self.send(person, &address, COIN / 2, &(), Some((code, data)))
            .await;
        address
    }

    /// Somebody sends a message, and waits for all that follows from it.
    pub async fn send(
        &self,
        from: u8,
        to: &StdAddr,
        value: u64,
        body: &dyn Store,
        init: Option<(Cell, Cell)>,
    ) {
        let (from, key) = (self.wallet(from), key(from));
        let state = self.client.account(&from).await.expect("it is there");
        let wallet = Wallet::of(&from, &state, &key).expect("it is a wallet");
        let order = Order {
            to: to.clone(),
            value: value.into(),
            bounce: init.is_none(),
            body: CellBuilder::build_from(body).expect("it fits"),
            init: init.map(|(code, data)| StateInit {
                code: Some(code),
                data: Some(data),
                ..StateInit::default()
            }),
        };
        let message = wallet.sign(&key, &[order], now().saturating_add(60));
        let message = message.expect("it fits");
        self.client.send(&message).await.expect("it is taken");
        let patience = Duration::from_secs(60);
        let steps = self.client.trace(&from, message.repr_hash(), patience);
        steps.await.expect("it arrives");
    }

    /// Nanotons.
    pub async fn balance(&self, address: &StdAddr) -> u64 {
        let state = self.client.account(address).await.expect("it is there");
        state.balance().try_into().expect("there are not as many")
    }

    /// As it is now.
    pub async fn channel(&self, address: &StdAddr) -> Channel {
        let state = self.client.account(address).await.expect("it is there");
        let data = state.data().expect("it has begun");
        Channel::load(address, data).expect("it is a Channel")
    }

    /// What another contract keeps.
    pub async fn kept<T: for<'a> Load<'a>>(&self, address: &StdAddr) -> T {
        let state = self.client.account(address).await.expect("it is there");
        let data = state.data().expect("it has begun");
        data.parse().expect("it is such a contract")
    }

    /// Another connection to it.
    #[must_use]
    pub fn client(&self) -> Client {
        client(&self.network)
    }
}

/// Nothing is older than a test.
fn client(network: &Network) -> Client {
    Client::new(network, Duration::from_secs(3600))
}

/// Of somebody's wallet and vouchers.
#[must_use]
pub fn key(person: u8) -> Key {
    Key::from_seed([person; 32])
}

/// Unix seconds.
#[must_use]
pub fn now() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    now.try_into().expect("before 2106")
}

/// Nanotons.
const COIN: u64 = 1_000_000_000;

/// Nanotons of each.
const COINS: u128 = 1_000_000_000_000;

/// Seconds in which a Channel can be claimed once its payer closes it.
const DELAY: u32 = 2 * 3600;
