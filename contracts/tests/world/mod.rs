//! Collateral, Registry and a Node together, as they are deployed.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each of which uses its own part"
)]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use attestation::pem::{self, PemError};
use attestation::register::Digest384;
use attestation::tdx::{CollateralParts, Quote};
use contracts::EvidenceError;
use contracts::cells::{Bytes, Moment};
use contracts::claim::{Claim, Keys};
use contracts::code::Code;
use contracts::collateral::{
    self, PostAuthority, PostAuthorityList, PostQeIdentity, PostRootList, PostTcbInfo,
};
use contracts::messages::{Lacks, Software};
use contracts::node::{self, Attest};
use contracts::registry::{
    self, Build, Configuration, Governance, Policy, Published, build_key, configuration_key,
};
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Store};
use tycho_types::dict::Dict;
use tycho_types::models::StdAddr;

use super::tvm::{Item, Tvm, Tx, load};

pub const COIN: u64 = 1_000_000_000;

/// All of them, in a TVM.
pub struct World<'a> {
    pub tvm: &'a Tvm,
    pub collateral: StdAddr,
    pub node: StdAddr,
    pub registry: StdAddr,
}

impl<'a> World<'a> {
    /// At a time, with what counts already published. Who runs the Node is `owner`.
    pub fn start(tvm: &'a Tvm, now: u32, collateral: &Cell, published: &Published) -> Self {
        tvm.restart(now);
        let (empty, code) = (Cell::default(), |code: Code| code.cell().unwrap());
        let data = build(&collateral::State::new().unwrap());
        let (collateral, _) = tvm.deploy(collateral, &data, COIN, &empty);
        let governance = Governance {
            threshold: 2,
            delay: 24 * 3600,
            builders: builders(),
        };
        let mut state = registry::State::new(collateral.clone(), &governance, POLICY).unwrap();
        state.published = Lazy::new(published).unwrap();
        let (registry, _) = tvm.deploy(&code(Code::REGISTRY), &build(&state), COIN, &empty);
        let owner = tvm.wallet("owner");
        let state = node::State::new(owner, collateral.clone(), registry.clone());
        let (node, _) = tvm.deploy(&code(Code::NODE), &build(&state), COIN, &empty);
        Self {
            tvm,
            collateral,
            node,
            registry,
        }
    }

    /// Brings a whole set of collateral, in the only order that is taken.
    pub fn post(&self, parts: &CollateralParts<'_>) -> Result<Vec<Tx>, Refusal> {
        let messages = messages(parts)?;
        let post = |message: &Cell| {
            let mut sent = self.tvm.send("relayer", &self.collateral, COIN, message);
            match sent[0].exit.unwrap() {
                0 => Ok(sent.remove(0)),
                exit => Err(Refusal::Exit(exit)),
            }
        };
        messages.iter().map(post).collect()
    }

    /// What the Node keeps.
    pub fn state(&self) -> node::State {
        load(&self.tvm.data(&self.node).unwrap())
    }

    /// The verdict on a quote that claims nothing for this Node: everything is checked by
    /// the code that checks a claimed one.
    pub fn judge(&self, quote: &Quote<'_>) -> Result<Vec<Tx>, Refusal> {
        let attest = Attest::new(7, quote, &self.claim(1))?;
        let data = quote.unverified_body().report_data.0.to_vec();
        let arguments = [Item::Cell(build(&attest)), Item::Slice(data)];
        let got = self.tvm.get(&self.node, "appraise", &arguments);
        if got.exit != 0 {
            return Err(Refusal::Exit(got.exit));
        }
        let sent = self
            .tvm
            .forge(&self.node, &self.collateral, COIN, &got.cell());
        match sent.iter().find(|tx| tx.exit != Some(0) && !tx.bounced) {
            Some(refused) => Err(Refusal::Exit(refused.exit.unwrap())),
            None => Ok(sent),
        }
    }

    pub fn claim(&self, block: u32) -> Claim {
        let keys = Keys {
            receipt: HashBytes([1; 32]),
            seal: HashBytes([2; 32]),
            tls: Bytes([3; 48]),
        };
        Claim {
            global_id: GLOBAL_ID,
            node: self.node.clone(),
            gpus: Bytes([4; 48]),
            block,
            block_root: HashBytes([5; 32]),
            keys: Lazy::new(&keys).unwrap(),
        }
    }
}

/// A whole set of collateral, in the only order that is taken.
pub fn messages(parts: &CollateralParts<'_>) -> Result<[Cell; 5], Refusal> {
    let ca: [Vec<u8>; 2] = pem::certificates(parts.pck_crl_issuer_chain)?;
    let tcb = pem::certificates(parts.tcb_info_issuer_chain)?;
    let qe = pem::certificates(parts.qe_identity_issuer_chain)?;
    let [authority, root] = &ca;
    Ok([
        build(&PostRootList::new(1, parts.root_crl, root)?),
        build(&PostAuthority::new(2, authority, root)?),
        build(&PostAuthorityList::new(3, parts.pck_crl, authority)?),
        build(&PostTcbInfo::new(4, parts.tcb_info, &tcb)?),
        build(&PostQeIdentity::new(5, parts.qe_identity, &qe)?),
    ])
}

/// Why evidence comes to nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It cannot even be sent.
    Unsendable(String),
    /// A contract says no.
    Exit(i32),
}

impl From<EvidenceError> for Refusal {
    fn from(error: EvidenceError) -> Self {
        Self::Unsendable(error.to_string())
    }
}

impl From<PemError> for Refusal {
    fn from(error: PemError) -> Self {
        Self::Unsendable(error.to_string())
    }
}

/// Everything that a quote says of its software counts.
pub fn published(quote: &Quote<'_>) -> Published {
    let body = quote.unverified_body();
    let mut published = Published::default();
    let build = Build {
        manifest: HashBytes::ZERO,
        version: 1,
        roles: 1,
        until: Moment::FOREVER,
    };
    let configuration = Configuration {
        model: HashBytes([6; 32]),
        until: Moment::FOREVER,
    };
    published
        .builds
        .set(build_key(&body.registers), build)
        .unwrap();
    published
        .configurations
        .set(configuration_key(&body.mrconfigid), configuration)
        .unwrap();
    published
}

/// Of a quote of version 4.
pub fn software(build: HashBytes, configuration: &Digest384) -> Software {
    Software {
        build,
        pce_id: 0,
        fmspc: Bytes([0; 6]),
        configuration: Bytes(*configuration.as_bytes()),
        launch_tcb: 0,
        kind: 0,
        current_tcb: None,
    }
}

/// Three of them, each with a key of its own.
pub fn builders() -> Dict<u8, HashBytes> {
    let mut builders = Dict::new();
    for number in 0..3 {
        let key = builder(number).public_key().as_ref().try_into().unwrap();
        builders.set(number, HashBytes(key)).unwrap();
    }
    builders
}

pub fn builder(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number + 1; 32]).unwrap()
}

pub const POLICY: Policy = Policy {
    tolerated: Lacks(0),
    min_evaluation: 0,
    min_version: 0,
    lifetime: 7 * 24 * 3600,
};

/// Of the network that the sandbox is.
pub const GLOBAL_ID: i32 = -239;

pub fn build(value: &dyn Store) -> Cell {
    CellBuilder::build_from(value).unwrap()
}
