//! A wallet, a chain, and a liteserver between them that may say what it likes.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chain::client::{Client, ClientError};
use chain::network::Server;
use chain::tl::{Answer, BlockIdExt, BlockLink, Request, SignatureSet};
use chain::wallet::{Key, Order, Wallet};
use tempfile::TempDir;
use tests::chain::{
    Consensus, Faucet, GLOBAL_ID, LOOPBACK, LocalChain, Tamper, Validators, installed, serve_at,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tycho_crypto::ed25519::{KeyPair, SecretKey};
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::models::{AccountState, StdAddr};

const COIN: u128 = 1_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_sends_and_what_came_of_it_is_proved() {
    let Some(world) = World::start() else { return };
    let client = world.client(&[world.serve(None).await]);
    let block = client.newest().await.unwrap();
    assert_eq!(block.global_id(), GLOBAL_ID);

    let (from, to) = (world.wallet(), StdAddr::new(0, HashBytes([7; 32])));
    assert!(client.account(&to).await.unwrap().account.is_none());
    let order = Order {
        to: to.clone(),
        value: 3 * COIN,
        bounce: false,
        body: Cell::default(),
        init: None,
    };
    let state = client.account(&from).await.unwrap();
    assert_eq!(state.balance(), 1000 * COIN);
    let wallet = Wallet::of(&from, &state, &key()).unwrap();
    let message = wallet.sign(&key(), &[order], now() + 60).unwrap();
    client.send(&message).await.unwrap();
    let trace = client.trace(&from, message.repr_hash(), PATIENCE).await;
    let trace = trace.unwrap();
    let accounts: Vec<_> = trace.iter().map(|step| step.address.clone()).collect();
    assert_eq!(accounts, [from.clone(), to.clone()]);
    assert_eq!(client.account(&to).await.unwrap().balance(), 3 * COIN);

    let again = client.send(&message).await.unwrap_err().to_string();
    assert!(
        again.contains("exitcode=133") || again.contains("not accepted"),
        "{again}"
    );
    let after = client.account(&from).await.unwrap();
    assert_eq!(Wallet::of(&from, &after, &key()).unwrap().seqno(), 1);
    let stranger = Wallet::of(&from, &after, &Key::from_seed([9; 32])).unwrap_err();
    assert!(
        stranger.to_string().starts_with("the key is "),
        "{stranger}"
    );
    let mut other = after.clone();
    let AccountState::Active(init) = &mut other.account.as_mut().unwrap().state else {
        panic!("no wallet")
    };
    init.code = Some(Cell::default());
    let other = Wallet::of(&from, &other, &key()).unwrap_err();
    assert!(
        other.to_string().starts_with("the contract's code is "),
        "{other}"
    );
    let none = Wallet::of(&to, &client.account(&to).await.unwrap(), &key()).unwrap_err();
    assert!(
        none.to_string().starts_with("there is no wallet yet"),
        "{none}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_goes_on_after_a_restart_and_when_its_validators_change() {
    let Some(mut world) = World::start() else {
        return;
    };
    let pinned = world.chain.lock().unwrap().pinned();
    for _ in 0..20 {
        world.chain.lock().unwrap().rotate(now()).unwrap();
    }
    let last = world.chain.lock().unwrap().newest();
    // The machine stopped while it wrote.
    let file = world.folder.path().join("chain");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend([200, 0, 0, 0, 1, 2, 3]);
    std::fs::write(&file, bytes).unwrap();
    world.reopen();
    assert_eq!(world.chain.lock().unwrap().pinned(), pinned);
    assert_eq!(world.chain.lock().unwrap().newest(), last);
    world.chain.lock().unwrap().tick(now()).unwrap();

    let client = world.client(&[world.serve(None).await]);
    let newest = client.newest().await.unwrap();
    assert_eq!(newest.id().seqno, last.seqno + 1);
    let hundred = client.block(100).await.unwrap();
    assert_eq!(hundred.id().seqno, 100);
    let state = client.account(&world.wallet()).await.unwrap();
    assert_eq!(state.balance(), 1000 * COIN);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_signed_as_before_2026_count_too() {
    let Some(world) = World::start() else { return };
    let server = world.serve(signed(Consensus::Catchain, &[0, 1, 2])).await;
    world.client(&[server]).newest().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_server_is_named_and_another_one_asked() {
    let Some(world) = World::start() else { return };
    let liar = world.serve(signed(Consensus::Simplex, &[0, 1])).await;
    let honest = world.serve(None).await;
    let closed = Server {
        address: "127.0.0.1:1".parse().unwrap(),
        key: honest.key,
    };
    let stranger = Server {
        key: KeyPair::from(&SecretKey::from_bytes([9; 32]))
            .public_key
            .to_bytes(),
        ..honest
    };
    world
        .client(&[closed, stranger, liar, honest])
        .newest()
        .await
        .unwrap();

    let error = world.client(&[closed, liar]).newest().await.unwrap_err();
    let ClientError::Servers(failures) = &error else {
        panic!("{error}")
    };
    assert_eq!(failures.len(), 2);
    let text = error.to_string();
    assert!(
        text.contains("no connection: the connection failed"),
        "{text}"
    );
    assert!(text.contains("signed by a weight of 6 of 10"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closed_an_idle_connection_is_asked_again() {
    let Some(world) = World::start() else { return };
    let server = world.serve(None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = Server {
        address: listener.local_addr().unwrap(),
        ..server
    };
    let (close, mut closed) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(server.address).await.unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => {}
                _ = closed.recv() => {}
            }
        }
    });
    let client = world.client(&[between]);
    client.newest().await.unwrap();
    close.send(()).await.unwrap();
    client.newest().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_signatures_are_refused() {
    let Some(world) = World::start() else { return };
    let forge = |change: fn(&mut SignatureSet)| forward(move |link| change(&mut link.signatures));
    let cases: [(Option<Tamper>, &str); 7] = [
        (
            signed(Consensus::Simplex, &[]),
            "signed by a weight of 0 of 10",
        ),
        // Two thirds are not more than two thirds.
        (
            signed(Consensus::Catchain, &[1, 2]),
            "signed by a weight of 5 of 10",
        ),
        (
            signed(Consensus::Simplex, &[0, 1, 2, 2]),
            "is no validator, or signs twice",
        ),
        (
            forge(|set| signatures(set)[1].signature[10] ^= 1),
            "is forged",
        ),
        (
            forge(|set| signatures(set)[1].signature.truncate(63)),
            "is forged",
        ),
        (
            forge(|set| signatures(set)[0].node_id_short[0] ^= 1),
            "is no validator, or signs twice",
        ),
        (
            forward(|link| {
                link.signatures = Validators { epoch: 2 }.sign(
                    Consensus::Simplex,
                    &link.to.id().unwrap(),
                    tests::chain::ALL,
                );
            }),
            "signed by validators",
        ),
    ];
    for (tamper, expected) in cases {
        world.refuses(tamper, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_for_another_block_are_refused() {
    let Some(world) = World::start() else { return };
    let other = forward(|link| {
        let mut block = link.to.id().unwrap();
        block.file_hash = HashBytes([1; 32]);
        let epoch = Validators { epoch: 1 };
        link.signatures = epoch.sign(Consensus::Simplex, &block, tests::chain::ALL);
    });
    world.refuses(other, "the votes are for block").await;
    let garbage = forward(|link| match &mut link.signatures {
        SignatureSet::Simplex { candidate, .. } => candidate.push(0),
        SignatureSet::Ordinary { .. } => panic!("not Simplex"),
    });
    world
        .refuses(garbage, "the candidate of the votes cannot be read")
        .await;
    let slot = forward(|link| match &mut link.signatures {
        SignatureSet::Simplex { slot, .. } => *slot += 1,
        SignatureSet::Ordinary { .. } => panic!("not Simplex"),
    });
    world.refuses(slot, "is forged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_links_are_refused() {
    let Some(world) = World::start() else { return };
    world.chain.lock().unwrap().rotate(now()).unwrap();
    world.chain.lock().unwrap().tick(now()).unwrap();
    let cases: [(Option<Tamper>, &str); 8] = [
        (
            forward(|link| link.from.seqno += 1),
            "the link starts at block 2, expected 1",
        ),
        (
            forward(|link| link.to.workchain = 0),
            "the link leads out of the masterchain",
        ),
        (
            forward(|link| link.to_key_block ^= true),
            "whether it is a key block",
        ),
        (
            forward(|link| link.to.root_hash[0] ^= 1),
            "the block's header is not proved",
        ),
        (forward(|link| link.to.seqno += 1), "the header is of block"),
        (
            forward(|link| link.config_proof = link.dest_proof.clone()),
            "the proof is of",
        ),
        (
            forward(|link| link.dest_proof.truncate(40)),
            "not a bag of the expected cells",
        ),
        (
            forward(|link| link.config_proof.clear()),
            "not a bag of the expected cells",
        ),
    ];
    for (tamper, expected) in cases {
        world.refuses(tamper, expected).await;
    }
    world
        .refuses(
            proofs(|steps| {
                steps.pop();
            }),
            "no proof leads to block",
        )
        .await;
    world
        .refuses(
            proofs(|steps| {
                steps.remove(0);
            }),
            "the link starts at block",
        )
        .await;
    let back = proofs(|steps| {
        let BlockLink::Forward(link) = steps[0].clone() else {
            panic!("no link forward")
        };
        *steps = vec![BlockLink::Back {
            to_key_block: true,
            from: link.from,
            to: link.to,
            dest_proof: Vec::new(),
            proof: Vec::new(),
            state_proof: Vec::new(),
        }];
    });
    world.refuses(back, "the proof leads back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_account_is_refused() {
    let Some(world) = World::start() else { return };
    let other = StdAddr::new(0, HashBytes([7; 32]));
    let chain = Arc::clone(&world.chain);
    let elsewhere = move |account: StdAddr| -> Option<Tamper> {
        let chain = Arc::clone(&chain);
        Some(Arc::new(move |request, answer| match request {
            Request::GetAccountState { block, .. } => {
                let account = (&account).into();
                let request = Request::GetAccountState {
                    block: *block,
                    account,
                };
                chain.lock().unwrap().answer(&request).unwrap()
            }
            _ => answer,
        }))
    };
    let second = world
        .chain
        .lock()
        .unwrap()
        .wallet(&second().public())
        .unwrap();
    let cases: [(Option<Tamper>, &str); 9] = [
        (elsewhere(second), "lacks what is needed"),
        (elsewhere(other), "lacks what is needed"),
        (
            account(|state| state.id.seqno -= 1),
            "the state is that after block",
        ),
        (
            account(|state| state.shard_block.root_hash[0] ^= 1),
            "not the one that the masterchain names",
        ),
        (
            account(|state| state.shard_block.seqno += 1),
            "not the one that the masterchain names",
        ),
        (
            account(|state| state.state.clear()),
            "the account does not hold",
        ),
        (
            account(|state| state.proof.truncate(100)),
            "the proof of the account does not hold",
        ),
        (
            account(|state| std::mem::swap(&mut state.proof, &mut state.shard_proof)),
            "does not hold",
        ),
        (
            account(|state| {
                let last = state.state.len() - 1;
                state.state[last] ^= 1;
            }),
            "the account",
        ),
    ];
    for (tamper, expected) in cases {
        let client = world.client(&[world.serve(tamper).await]);
        let error = client
            .account(&world.wallet())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let made_up = account(|state| state.state = vec![1]);
    let client = world.client(&[world.serve(made_up).await]);
    let nobody = StdAddr::new(0, HashBytes([7; 32]));
    let error = client.account(&nobody).await.unwrap_err().to_string();
    assert!(
        error.contains("a state of an account that does not exist"),
        "{error}"
    );
    let master = StdAddr::new(-1, HashBytes([7; 32]));
    let error = client.account(&master).await.unwrap_err().to_string();
    assert!(
        error.contains("the account is of workchain -1, expected 0"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_transactions_are_refused() {
    let Some(world) = World::start() else { return };
    let wallet = world.wallet();
    let other = world.chain.lock().unwrap().wallet(&second().public());
    let other = other.unwrap();
    for (key, from, to) in [(key(), &wallet, &other), (second(), &other, &wallet)] {
        let client = world.client(&[world.serve(None).await]);
        let state = client.account(from).await.unwrap();
        let order = Order {
            to: to.clone(),
            value: COIN,
            bounce: false,
            body: Cell::default(),
            init: None,
        };
        let signed = Wallet::of(from, &state, &key).unwrap();
        let message = signed.sign(&key, &[order], now() + 60).unwrap();
        client.send(&message).await.unwrap();
    }
    let client = world.client(&[world.serve(None).await]);
    let good = client.transactions(&wallet).await.unwrap();
    assert_eq!(good.len(), 2);
    let before = good[1].transaction.lt;
    let hash = good[1].hash;

    let chain = Arc::clone(&world.chain);
    let shortened: Tamper = Arc::new(move |request, answer| match request {
        Request::GetTransactions { account, .. } => {
            let request = Request::GetTransactions {
                count: 1,
                account: *account,
                lt: before,
                hash: hash.0,
            };
            chain.lock().unwrap().answer(&request).unwrap()
        }
        _ => answer,
    });
    let cut: Tamper = Arc::new(|_, mut answer| {
        if let Answer::TransactionList { transactions, .. } = &mut answer {
            transactions.truncate(50);
        }
        answer
    });
    for (tamper, expected) in [
        (shortened, "the transaction is "),
        (cut, "the transactions cannot be decoded"),
    ] {
        let client = world.client(&[world.serve(Some(tamper)).await]);
        let error = client.transactions(&wallet).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_state_is_refused() {
    let Some(world) = World::start() else { return };
    let old = world.chain.lock().unwrap().newest();
    world.chain.lock().unwrap().tick(now()).unwrap();
    let calls = Mutex::new(0);
    let older: Tamper = Arc::new(move |_, mut answer| {
        if let Answer::MasterchainInfo { last, .. } = &mut answer {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            if *calls > 1 {
                *last = BlockIdExt::from(&old);
            }
        }
        answer
    });
    let client = world.client(&[world.serve(Some(older)).await]);
    client.newest().await.unwrap();
    let error = client.newest().await.unwrap_err().to_string();
    assert!(
        error.contains("its newest block is 101, but 102 was seen already"),
        "{error}"
    );

    let Some(world) = World::start_at(now() - 100) else {
        return;
    };
    world.refuses(None, "old, expected at most 30s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_something_else_are_refused() {
    let Some(world) = World::start() else { return };
    let nonsense: Tamper = Arc::new(|_, _| Answer::SendMsgStatus { status: 1 });
    world
        .refuses(
            Some(nonsense),
            "the answer is sendMsgStatus, not what was asked",
        )
        .await;
    let refusal: Tamper = Arc::new(|_, _| Answer::Error {
        code: -400,
        message: b"not\x1b[2J here".to_vec(),
    });
    world
        .refuses(Some(refusal), "it refuses: not[2J here (code -400)")
        .await;
    let before: Tamper = Arc::new(|_, mut answer| {
        if let Answer::MasterchainInfo { last, .. } = &mut answer {
            last.seqno = 1;
        }
        answer
    });
    world
        .refuses(Some(before), "block 1 is not after the pinned block")
        .await;
}

struct World {
    folder: TempDir,
    chain: Arc<Mutex<LocalChain>>,
}

impl World {
    fn start() -> Option<Self> {
        Self::start_at(now())
    }

    fn start_at(now: u32) -> Option<Self> {
        if !installed() {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let chain = open(folder.path(), now);
        Some(Self { folder, chain })
    }

    fn reopen(&mut self) {
        self.chain = open(self.folder.path(), now());
    }

    fn wallet(&self) -> StdAddr {
        self.chain.lock().unwrap().wallet(&key().public()).unwrap()
    }

    async fn serve(&self, tamper: Option<Tamper>) -> Server {
        let chain = Arc::clone(&self.chain);
        serve_at(LOOPBACK, chain, tamper).await.unwrap()
    }

    fn client(&self, servers: &[Server]) -> Client {
        let network = self.chain.lock().unwrap().network(servers.to_vec());
        Client::new(&network, Duration::from_secs(30))
    }

    async fn refuses(&self, tamper: Option<Tamper>, expected: &str) {
        let client = self.client(&[self.serve(tamper).await]);
        let error = client.newest().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

fn open(folder: &Path, now: u32) -> Arc<Mutex<LocalChain>> {
    let wallets = [key().public(), second().public()];
    let faucet = Faucet {
        wallets: &wallets,
        coins: 1000 * COIN,
    };
    let chain = LocalChain::open(&folder.join("chain"), faucet, now).unwrap();
    Arc::new(Mutex::new(chain))
}

fn signed(consensus: Consensus, who: &'static [u8]) -> Option<Tamper> {
    forward(move |link| {
        let epoch = Validators { epoch: 1 };
        link.signatures = epoch.sign(consensus, &link.to.id().unwrap(), who);
    })
}

fn forward(change: impl Fn(&mut chain::tl::Forward) + Send + Sync + 'static) -> Option<Tamper> {
    proofs(move |steps| {
        if let Some(BlockLink::Forward(link)) = steps.first_mut() {
            change(link);
        }
    })
}

fn proofs(change: impl Fn(&mut Vec<BlockLink>) + Send + Sync + 'static) -> Option<Tamper> {
    Some(Arc::new(move |_, mut answer| {
        if let Answer::PartialBlockProof { steps, .. } = &mut answer {
            change(steps);
        }
        answer
    }))
}

fn account(
    change: impl Fn(&mut chain::tl::AccountState) + Send + Sync + 'static,
) -> Option<Tamper> {
    Some(Arc::new(move |_, mut answer| {
        if let Answer::AccountState(state) = &mut answer {
            change(state);
        }
        answer
    }))
}

fn signatures(set: &mut SignatureSet) -> &mut Vec<chain::tl::Signature> {
    match set {
        SignatureSet::Ordinary { signatures, .. } | SignatureSet::Simplex { signatures, .. } => {
            signatures
        }
    }
}

fn key() -> Key {
    Key::from_seed([1; 32])
}

fn second() -> Key {
    Key::from_seed([2; 32])
}

fn now() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().try_into().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(60);
