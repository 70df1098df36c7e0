//! The whole life on the chain by `cocoon chain`: contracts, documents, an attestation, an
//! order, a channel; a test root, and an emulated TD.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use agent::network::Purse as Till;
use attestation::appraisal::Verdict;
use chain::wallet::Key;
use clap::Parser;
use client::chain::ChainArgs;
use client::network::purse::Purse;
use contracts::claim::Claim;
use contracts::code::{self, Code};
use contracts::registry::{Change, Governance, Policy, Published};
use contracts::{collateral, node, registry};
use tempfile::TempDir;
use tests::chain::{Faucet, LOOPBACK, LocalChain, installed, serve_at};
use tests::collateral::files;
use tests::td::Td;
use tycho_types::boc::Boc;
use tycho_types::cell::Lazy;
use tycho_types::dict::Dict;
use tycho_types::models::StdAddr;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_attests_is_paid_and_the_chain_shows_it() {
    let Some(world) = World::start().await else {
        return;
    };
    let td = Td::new();
    let sample = world.write("sample.quote", td.quote(&[0; 64]));
    for (name, bytes) in files(&td.collateral(now().into())) {
        world.write(name, bytes);
    }

    // What counts is written down, and contracts are made: dry first.
    let (build, config) = (world.path("build"), world.path("config"));
    let model = "06".repeat(32);
    world
        .done(&[
            "propose",
            "--out",
            &build,
            "build-of-quote",
            "--quote",
            &sample,
            "--number",
            "1",
        ])
        .await;
    world
        .done(&[
            "propose",
            "--out",
            &config,
            "configuration-of-quote",
            "--quote",
            &sample,
            "--model",
            &model,
        ])
        .await;
    let collateral = code::address(Code::COLLATERAL_TEST, &collateral::State::new().unwrap());
    let collateral = collateral.unwrap().to_string();
    let make = ["deploy", "collateral", "--test-build"];
    world
        .run(&[&["--dry-run"], &make[..]].concat())
        .await
        .unwrap();
    let error = world
        .run(&["status", "--collateral", &collateral])
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("no contract at"), "{error:#}");
    world.done(&make).await;
    world.done(&make).await;

    let builders = [10, 11, 12].map(|number| world.key(number));
    let keys: Vec<_> = [10, 11, 12]
        .map(|number| seed(number).public().to_string())
        .into();
    let registry = registry_address(&collateral, &[&build, &config]);
    world
        .done(&[
            "deploy",
            "registry",
            "--collateral",
            &collateral,
            "--threshold",
            "2",
            "--builder",
            &keys[0],
            "--builder",
            &keys[1],
            "--builder",
            &keys[2],
            "--counts",
            &build,
            "--counts",
            &config,
        ])
        .await;
    let owner = world.wallet(2);
    let first = node::State::new(owner.clone(), address(&collateral), address(&registry));
    let node = code::address(Code::NODE, &first).unwrap().to_string();
    let owner = owner.to_string();
    world
        .done(&[
            "deploy",
            "node",
            "--collateral",
            &collateral,
            "--registry",
            &registry,
            "--owner",
            &owner,
        ])
        .await;
    let wrong = [
        "deploy",
        "node",
        "--collateral",
        &registry,
        "--registry",
        &registry,
    ];
    let error = world
        .run(&[&wrong[..], &["--owner", &owner]].concat())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is no collateral"), "{error:#}");

    // The TD claims, is quoted, and believed once Intel's documents are there.
    let claim = world.path("claim");
    let (key, long) = ("07".repeat(32), "08".repeat(48));
    let claiming = [
        "attest",
        "claim",
        "--node",
        &node,
        "--receipt-key",
        &key,
        "--seal-key",
        &key,
        "--tls-key",
        &long,
        "--gpus",
        &long,
        "--out",
        &claim,
    ];
    world.done(&claiming).await;
    let claimed: Claim = read(&claim);
    let quote = td.quote(&claimed.report_data().unwrap().0);
    let quote = world.write("quote", quote);
    let attest = ["attest", "send", "--claim", &claim, "--quote", &quote];
    world.refused(&attest).await;
    world.refused(&["status", "--node", &node]).await;
    let folder = world.path("");
    world
        .done(&[
            "publish",
            "collateral",
            "--to",
            &collateral,
            "--files",
            &folder,
            "--quote",
            &quote,
        ])
        .await;
    world.done(&attest).await;
    world
        .done(&[
            "status",
            "--node",
            &node,
            "--registry",
            &registry,
            "--collateral",
            &collateral,
        ])
        .await;
    world.refused(&attest).await;

    // Two builders decide, one after the other; a day has to pass.
    let order = world.path("order");
    world
        .done(&[
            "propose",
            "--registry",
            &registry,
            "--builder-key",
            &builders[2],
            "--out",
            &order,
            "model",
            "--root",
            &model,
            "--name",
            "tiny",
            "--price-class",
            "1",
        ])
        .await;
    let stranger = world.key(9);
    let second = |key| {
        [
            "propose",
            "--registry",
            &registry,
            "--order",
            &order,
            "--builder-key",
            key,
        ]
    };
    let error = world.run(&second(&stranger)).await.unwrap_err();
    assert!(error.to_string().contains("is no builder's"), "{error:#}");
    world.done(&second(&builders[0])).await;
    let error = world.run(&second(&builders[0])).await.unwrap_err();
    assert!(error.to_string().contains("but it is turn 1"), "{error:#}");
    world
        .refused(&["publish", "change", "--registry", &registry, "--turn", "0"])
        .await;

    // A market, and a channel that it counts from the first wallet to the owner.
    let gpu = [
        "--gpu",
        "H100",
        "--capacity",
        "1000000",
        "--stake",
        "1",
        "--price",
        "500000000",
    ];
    let making = [
        "deploy",
        "market",
        "--collateral",
        &collateral,
        "--registry",
        &registry,
    ];
    let rest = ["--model", &model, "--ceiling", "5000000000"];
    world
        .done(&[&making[..], &gpu[..], &rest[..]].concat())
        .await;
    let market = world.newest_contract(Code::MARKET);
    let voucher_key = world.key(20);
    let terms = [
        "--market",
        &market,
        "--payee",
        &owner,
        "--voucher-key",
        &voucher_key,
        "--deposit",
        "500000000",
    ];
    let file = world.path("channel");
    let section = world.path("section");
    let open = ["channel", "open", "--delay", "3600", "--out", &file];
    let open = [&open[..], &["--worker-out", &section]].concat();
    world.done(&[&open[..], &terms[..]].concat()).await;
    let channel = world.newest_contract(Code::CHANNEL);
    let till = fs::read_to_string(&section).unwrap();
    let till = till.replace("[scheduler.channel]", "");
    let till = Till::open(&toml::from_str(&till).unwrap()).unwrap();
    assert_eq!(till.address().to_string(), channel);
    let purse = Purse::open(Path::new(&file), None).unwrap();
    assert_eq!(
        (purse.payee(), purse.balance().budget),
        (&*owner, 500_000_000)
    );
    let (voucher, more) = (world.path("voucher"), world.path("more"));
    let sign = |out, tokens| {
        [
            "channel",
            "voucher",
            "--channel",
            &channel,
            "--voucher-key",
            &voucher_key,
            "--tokens",
            tokens,
            "--price",
            "1000000000",
            "--receipts",
            &key,
            "--out",
            out,
        ]
    };
    world.done(&sign(&voucher, "100000")).await;
    world.done(&["redeem", "--voucher", &voucher]).await;
    let error = world
        .run(&["redeem", "--voucher", &voucher])
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("worth no more than one before it"),
        "{error:#}"
    );
    world
        .done(&[&sign(&more, "50000")[..], &["--last", &voucher]].concat())
        .await;
    world.done(&["redeem", "--voucher", &more]).await;
    world.done(&["channel", "report", "--voucher", &more]).await;
    let used: contracts::market::State = world.kept(&market);
    assert_eq!(
        (used.tokens, used.amount, used.reports),
        (150_000, 150_000_000, 1)
    );
    let error = world
        .run(&["channel", "report", "--voucher", &more])
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("worth no more than one before it"),
        "{error:#}"
    );
    world
        .done(&["channel", "close", "--channel", &channel])
        .await;
    world
        .done(&["status", "--channel", &channel, "--market", &market])
        .await;
}

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    chain: ChainArgs,
}

struct World {
    folder: TempDir,
    chain: Arc<Mutex<LocalChain>>,
}

impl World {
    async fn start() -> Option<Self> {
        if !installed() {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let wallets = [seed(1).public(), seed(2).public()];
        let faucet = Faucet {
            wallets: &wallets,
            coins: 100_000_000_000,
        };
        let chain = LocalChain::open(&folder.path().join("chain"), faucet, now()).unwrap();
        let chain = Arc::new(Mutex::new(chain));
        let server = serve_at(LOOPBACK, Arc::clone(&chain), None).await.unwrap();
        let network = chain.lock().unwrap().network(vec![server]);
        let world = Self { folder, chain };
        world.write("network", network.to_json().unwrap());
        Some(world)
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Verdict> {
        let (network, wallet) = (self.path("network"), self.wallet(1).to_string());
        let key = self.key(1);
        let who = [
            "chain",
            "--network",
            &network,
            "--wallet",
            &wallet,
            "--key",
            &key,
        ];
        let all = who.iter().chain(arguments).map(OsString::from);
        println!("\n> {}", arguments.join(" "));
        Cli::try_parse_from(all)?.chain.run().await
    }

    async fn done(&self, arguments: &[&str]) {
        let verdict = self.run(arguments).await.unwrap();
        assert_eq!(verdict, Verdict::Trusted, "{arguments:?}");
    }

    async fn refused(&self, arguments: &[&str]) {
        let verdict = self.run(arguments).await.unwrap();
        assert_eq!(verdict, Verdict::Rejected, "{arguments:?}");
    }

    fn wallet(&self, number: u8) -> StdAddr {
        let key = seed(number).public();
        self.chain.lock().unwrap().wallet(&key).unwrap()
    }

    fn newest_contract(&self, code: Code) -> String {
        let found = self.chain.lock().unwrap().contracts(&code.cell().unwrap());
        found.unwrap().pop().unwrap().to_string()
    }

    fn kept<T: for<'a> tycho_types::cell::Load<'a>>(&self, contract: &str) -> T {
        let data = self.chain.lock().unwrap().data(&address(contract));
        data.unwrap().parse().unwrap()
    }

    fn key(&self, number: u8) -> String {
        self.write(&format!("key{number}"), hex::encode([number; 32]))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

fn registry_address(collateral: &str, counts: &[&str]) -> String {
    let mut builders = Dict::new();
    for (number, key) in [10, 11, 12].into_iter().enumerate() {
        let number = u8::try_from(number).unwrap();
        builders.set(number, seed(key).public()).unwrap();
    }
    let governance = Governance {
        threshold: 2,
        delay: 24 * 3600,
        builders,
    };
    let policy = Policy {
        tolerated: Default::default(),
        min_evaluation: 0,
        min_version: 0,
        lifetime: 7 * 24 * 3600,
    };
    let mut published = Published::default();
    for count in counts {
        match read(count) {
            Change::PutBuild { build, record } => {
                published.builds.set(build, record).unwrap();
            }
            Change::PutConfiguration {
                configuration,
                record,
            } => {
                published.configurations.set(configuration, record).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    let state = registry::State::new(address(collateral), &governance, policy).unwrap();
    let state = registry::State {
        published: Lazy::new(&published).unwrap(),
        ..state
    };
    code::address(Code::REGISTRY, &state).unwrap().to_string()
}

fn read<T: for<'a> tycho_types::cell::Load<'a>>(path: &str) -> T {
    Boc::decode(fs::read(path).unwrap())
        .unwrap()
        .parse()
        .unwrap()
}

fn address(text: &str) -> StdAddr {
    text.parse().unwrap()
}

fn seed(number: u8) -> Key {
    Key::from_seed([number; 32])
}

fn now() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().try_into().unwrap()
}
