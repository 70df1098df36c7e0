//! A small TON on loopback, with a liteserver: for the demo, and to try `cocoon chain`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use chain::network::{Network, Server};
use chain::wallet::Key;
use clap::Parser;
use tests::chain::{Faucet, LocalChain, serve};
use tokio::net::TcpListener;
use tokio::time::interval;
use tycho_crypto::ed25519::{KeyPair, SecretKey};

/// Keeps a chain in a file and serves it; prints the wallets that have coins.
#[derive(Debug, Parser)]
struct Args {
    /// Where the chain is kept.
    #[arg(long)]
    file: PathBuf,
    /// Where clients find the network's description.
    #[arg(long)]
    network: PathBuf,
    /// Where the liteserver listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Files of keys, 64 hex digits each, whose wallets get coins when the chain begins.
    #[arg(long = "wallet", value_name = "FILE")]
    wallets: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let keys = args.wallets.iter().map(|file| {
        let text = fs::read_to_string(file).context("cannot read a key")?;
        Key::parse(&text).context("not a key")
    });
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let public: Vec<_> = keys.iter().map(Key::public).collect();
    let faucet = Faucet {
        wallets: &public,
        coins: COINS,
    };
    let chain = LocalChain::open(&args.file, faucet, now()?)?;
    for key in &public {
        println!("wallet {}", chain.wallet(key)?);
    }
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
    // Whoever reads this file can be the server: there is nothing to protect.
    let key = KeyPair::from(&SecretKey::from_bytes([1; 32]));
    let network = Network {
        servers: vec![Server {
            address: listener.local_addr().context("no local address")?,
            key: key.public_key.to_bytes(),
        }],
        pinned: chain.pinned(),
    };
    fs::write(&args.network, network.to_json()?).context("cannot write the network")?;
    println!("ready");

    let chain = Arc::new(Mutex::new(chain));
    let ticking = Arc::clone(&chain);
    let tick = async move {
        let mut clock = interval(BLOCK);
        loop {
            clock.tick().await;
            let mut chain = ticking
                .lock()
                .map_err(|_| anyhow!("the chain has stopped"))?;
            chain.tick(now()?)?;
        }
    };
    tokio::select! {
        ended = serve(listener, key, chain, None) => ended,
        ended = tick => ended,
    }
}

fn now() -> Result<u32> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u32::try_from(now.as_secs())?)
}

/// Nanotons for each wallet.
const COINS: u128 = 1_000_000_000_000;

/// Between two blocks in which nothing happens.
const BLOCK: Duration = Duration::from_secs(2);
