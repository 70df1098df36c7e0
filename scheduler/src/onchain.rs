//! What the chain proves of prices, builds and machines, for people and clients to see.
//!
//! Markets are those that the operator names; the Registry and Collateral that a Market names
//! are whose word on builds and Nodes counts. A worker's Node is that of the owner whom its
//! Channel pays, and is about the worker if the claim in it has its seal key.
//!
//! Read in the background. What could not be read anew stays, with the block that proved it.

mod market;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use attestation::appraisal::chain;
use attestation::register::{Digest256, Digest384, TdRegisters};
use chain::account::State;
use chain::client::Client;
use contracts::cells::Moment;
use contracts::code::{self, Code};
use contracts::registry::build_key;
use contracts::{node, registry};
use serde::Serialize;
use tycho_types::cell::{HashBytes, Load};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::books::now;
use crate::ledger::{Ledger, Side};
use crate::workers::{self, Worker, Workers};

pub use market::{Authority, Ended, Market, ReadError, Used};

/// Who looks, and what was seen.
#[derive(Debug)]
pub struct Onchain {
    client: Client,
    markets: Vec<StdAddr>,
    seen: RwLock<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    markets: BTreeMap<StdAddr, Market>,
    registries: BTreeMap<StdAddr, Read<registry::Published>>,
    /// By their addresses; nothing where there is no such contract.
    nodes: BTreeMap<StdAddr, Read<Option<node::State>>>,
    /// The Nodes that a worker's owners would have.
    of_workers: HashMap<Digest256, Vec<StdAddr>>,
}

#[derive(Clone, Debug)]
struct Read<T> {
    kept: T,
    block: Block,
}

/// Of the masterchain, which proves something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Block {
    /// Its number.
    pub seqno: u32,
    /// Unix seconds.
    pub made: u32,
}

impl Block {
    const fn of(state: &State) -> Self {
        Self {
            seqno: state.block.id().seqno,
            made: state.block.generated(),
        }
    }
}

/// The chain's word on a build, or on a worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub enum Word {
    /// Nobody was asked, or nobody answered with proofs.
    Unknown,
    /// It does not count.
    No {
        /// As of then.
        block: Block,
    },
    /// It counts.
    Counts {
        /// The contract that says so.
        by: String,
        /// Unix seconds; none where there is no end.
        until: Option<u64>,
        /// As of then.
        block: Block,
    },
}

impl Word {
    fn until(until: Moment, by: &StdAddr, block: Block) -> Self {
        match u64::from(now()) < until.0 {
            true => Self::Counts {
                by: by.to_string(),
                until: (until != Moment::FOREVER).then_some(until.0),
                block,
            },
            false => Self::No { block },
        }
    }

    /// That it counts rather than that it does not, and either rather than nothing.
    fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Counts { .. }, _) | (_, Self::Unknown) => self,
            _ => other,
        }
    }
}

impl Onchain {
    /// Looks at these Markets, and at what follows from them.
    #[must_use]
    pub fn new(client: Client, markets: Vec<StdAddr>) -> Self {
        Self {
            client,
            markets,
            seen: RwLock::default(),
        }
    }

    /// One look at everything. To be called every minute or so.
    pub async fn look(&self, workers: &Workers, ledger: &Ledger) {
        for address in &self.markets {
            match Market::read(&self.client, address).await {
                Ok(market) => drop(self.write().markets.insert(address.clone(), market)),
                Err(error) => tracing::warn!(%address, "not read: {}", chain(&error)),
            }
        }
        let authorities: BTreeSet<_> = {
            let seen = self.read();
            seen.markets
                .values()
                .map(|it| it.authority.clone())
                .collect()
        };
        for registry in authorities.iter().map(|it| &it.registry) {
            let read = self.kept::<registry::State>(registry, Code::REGISTRY);
            if let Some(Read { kept, block }) = read.await
                && let Some(Ok(kept)) = kept.map(|kept| kept.published.load())
            {
                let read = Read { kept, block };
                self.write().registries.insert(registry.clone(), read);
            }
        }
        let of_workers = nodes(workers, ledger, &authorities).await;
        let mut nodes = BTreeMap::new();
        for address in of_workers.values().flatten().collect::<BTreeSet<_>>() {
            if nodes.len() >= MAX_NODES {
                break;
            }
            let read = self.kept(address, Code::NODE).await;
            if let Some(read) = read.or_else(|| self.read().nodes.get(address).cloned()) {
                nodes.insert(address.clone(), read);
            }
        }
        let mut seen = self.write();
        seen.of_workers = of_workers;
        seen.nodes = nodes;
    }

    /// Markets that were read.
    #[must_use]
    pub fn markets(&self) -> Vec<Market> {
        self.read().markets.values().cloned().collect()
    }

    /// Whether a Registry has a build.
    #[must_use]
    pub fn build(&self, build: &workers::Build) -> Word {
        let Some(key) = key(build) else {
            return Word::Unknown;
        };
        let seen = self.read();
        let words = seen.registries.iter().map(|(address, registry)| {
            let block = registry.block;
            match registry.kept.builds.get(key) {
                Ok(Some(build)) => Word::until(build.until, address, block),
                Ok(None) => Word::No { block },
                Err(_) => Word::Unknown,
            }
        });
        words.fold(Word::Unknown, Word::or)
    }

    /// Whether the worker has shown on the chain what it runs.
    #[must_use]
    pub fn worker(&self, worker: &Digest256) -> Word {
        let seen = self.read();
        let nodes = seen.of_workers.get(worker).into_iter().flatten();
        let words = nodes.filter_map(|address| {
            let node = seen.nodes.get(address)?;
            let until = node.kept.as_ref().and_then(|it| attested(it, worker));
            Some(match until {
                Some(until) => Word::until(until, address, node.block),
                None => Word::No { block: node.block },
            })
        });
        words.fold(Word::Unknown, Word::or)
    }

    /// What a contract of that code keeps, with its block; nothing where that cannot be proved.
    async fn kept<T: for<'a> Load<'a>>(
        &self,
        address: &StdAddr,
        code: Code,
    ) -> Option<Read<Option<T>>> {
        let state = match self.client.account(address).await {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%address, "not read: {}", chain(&error));
                return None;
            }
        };
        Some(Read {
            kept: market::kept(&state, code).ok(),
            block: Block::of(&state),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Seen> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Seen> {
        self.seen.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Nodes that the owners of workers here would have under these authorities.
async fn nodes(
    workers: &Workers,
    ledger: &Ledger,
    authorities: &BTreeSet<Authority>,
) -> HashMap<Digest256, Vec<StdAddr>> {
    let mut found = HashMap::new();
    for (id, worker) in workers.all().into_iter().take(MAX_NODES) {
        let mut nodes = Vec::new();
        for owner in owners(&worker, ledger).await {
            let of = |authority: &Authority| node_of(owner.clone(), authority).ok();
            nodes.extend(authorities.iter().filter_map(of));
        }
        found.insert(id, nodes);
    }
    found
}

/// Whom its Channels pay, those that are in the books.
async fn owners(worker: &Worker, ledger: &Ledger) -> BTreeSet<StdAddr> {
    let mut owners = BTreeSet::new();
    for channel in worker.channels.iter() {
        if let Ok(Some((Side::Worker, account))) = ledger.account(channel.address).await {
            owners.insert(account.channel.terms.payee);
        }
    }
    owners
}

fn node_of(owner: StdAddr, authority: &Authority) -> Result<StdAddr, Error> {
    let Authority {
        collateral,
        registry,
    } = authority.clone();
    code::address(Code::NODE, &node::State::new(owner, collateral, registry))
}

/// Until when the worker is attested there, if it is that worker, and its owner stays.
fn attested(node: &node::State, worker: &Digest256) -> Option<Moment> {
    let attestation = node.attestation.as_ref()?.load().ok()?;
    let keys = attestation.claim.load().ok()?.keys.load().ok()?;
    let is_it = keys.seal == HashBytes(*worker.as_bytes()) && node.leaves_at == 0;
    is_it.then_some(attestation.until)
}

/// As a Registry knows a build; none where a register is missing.
fn key(build: &workers::Build) -> Option<HashBytes> {
    let register = |name| build.get(name)?.parse::<Digest384>().ok();
    Some(build_key(&TdRegisters {
        mrtd: register("mrtd")?,
        rtmr0: register("rtmr0")?,
        rtmr1: register("rtmr1")?,
        rtmr2: register("rtmr2")?,
        rtmr3: register("rtmr3")?,
    }))
}

/// Workers whose Nodes are looked at, and Nodes that are.
const MAX_NODES: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    use contracts::cells::Bytes;
    use contracts::claim::{Claim, Keys};
    use contracts::node::Attestation;
    use tycho_types::cell::Lazy;

    const BLOCK: Block = Block { seqno: 7, made: 8 };

    fn somebody() -> StdAddr {
        StdAddr::new(0, HashBytes([1; 32]))
    }

    fn node(seal: [u8; 32], leaves_at: u32) -> node::State {
        let keys = Keys {
            receipt: HashBytes::ZERO,
            seal: HashBytes(seal),
            tls: Bytes([0; 48]),
        };
        let claim = Claim {
            global_id: -239,
            node: somebody(),
            gpus: Bytes([0; 48]),
            block: 100,
            block_root: HashBytes::ZERO,
            keys: Lazy::new(&keys).unwrap(),
        };
        let attestation = Attestation {
            until: Moment(5),
            build: HashBytes::ZERO,
            model: HashBytes::ZERO,
            claim: Lazy::new(&claim).unwrap(),
        };
        node::State {
            leaves_at,
            attestation: Some(Lazy::new(&attestation).unwrap()),
            ..node::State::new(somebody(), somebody(), somebody())
        }
    }

    #[test]
    fn a_node_speaks_for_the_worker_whose_key_it_has_as_long_as_its_owner_stays() {
        let worker = Digest256::from_bytes([3; 32]);
        let other = Digest256::from_bytes([4; 32]);
        assert_eq!(attested(&node([3; 32], 0), &worker), Some(Moment(5)));
        assert_eq!(attested(&node([3; 32], 0), &other), None);
        assert_eq!(attested(&node([3; 32], 1), &worker), None);
        let new = node::State::new(somebody(), somebody(), somebody());
        assert_eq!(attested(&new, &worker), None);
    }

    #[test]
    fn what_has_ended_does_not_count_and_one_that_says_so_suffices() {
        let no = Word::No { block: BLOCK };
        assert_eq!(Word::until(Moment(5), &somebody(), BLOCK), no);
        let yes = Word::until(Moment::FOREVER, &somebody(), BLOCK);
        let shown = serde_json::to_value(&yes).unwrap();
        assert_eq!(
            (&shown["word"], &shown["until"]),
            (&"counts".into(), &serde_json::Value::Null)
        );
        for words in [
            [&no, &yes, &Word::Unknown],
            [&yes, &no, &Word::Unknown],
            [&Word::Unknown, &no, &yes],
        ] {
            assert_eq!(
                words.into_iter().cloned().fold(Word::Unknown, Word::or),
                yes
            );
        }
        assert_eq!(Word::Unknown.or(no.clone()), no);
        assert_eq!(no.clone().or(Word::Unknown), no);
    }

    #[test]
    fn a_build_is_known_by_all_five_registers() {
        let names = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];
        let mut build: workers::Build = names.map(|name| (name, "00".repeat(48))).into();
        let zero = Digest384::ZERO;
        let registers = TdRegisters {
            mrtd: zero,
            rtmr0: zero,
            rtmr1: zero,
            rtmr2: zero,
            rtmr3: zero,
        };
        assert_eq!(key(&build), Some(build_key(&registers)));
        build.remove("rtmr3");
        assert_eq!(key(&build), None);
    }
}
