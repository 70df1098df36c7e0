//! A small TON on loopback, with a liteserver: for the demo, and to try `cocoon chain`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use chain::wallet::Key;
use clap::Parser;
use tests::chain::{Faucet, LocalChain, now, serve_at};
use tokio::time::interval;

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
    let chain = LocalChain::open(&args.file, faucet, now())?;
    for key in &public {
        println!("wallet {}", chain.wallet(key)?);
    }
    let chain = Arc::new(Mutex::new(chain));
    let server = serve_at(args.listen, Arc::clone(&chain), None).await?;
    let stopped = || anyhow!("the chain has stopped");
    let network = chain.lock().map_err(|_| stopped())?.network(vec![server]);
    fs::write(&args.network, network.to_json()?).context("cannot write the network")?;
    println!("ready");

    let mut clock = interval(BLOCK);
    loop {
        clock.tick().await;
        chain.lock().map_err(|_| stopped())?.tick(now())?;
    }
}

/// Nanotons for each wallet.
const COINS: u128 = 1_000_000_000_000;

/// Between two blocks in which nothing happens.
const BLOCK: Duration = Duration::from_secs(2);
