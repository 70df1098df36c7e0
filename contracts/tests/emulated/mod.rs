//! An emulated TD whose quotes the test build of Collateral believes.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each of which uses its own part"
)]

use attestation::certificate::Certificate;
use attestation::tdx::Quote;
use contracts::claim::Claim;
use contracts::code::Code;
use contracts::node::Attest;
use contracts::registry::Published;
use tests::collateral::Statements;
use tests::pki::{Intel, Platform};
use tests::quote::{QuotingEnclave, TdState};
use tests::td::Td;
use tycho_types::cell::Cell;

use super::tvm::{Item, Tvm};
use super::world::{self, World};

pub const NOW: u32 = 1_800_000_000;
/// The newest block of the masterchain.
pub const LAST: u32 = 40_050;
/// The newest one that a claim can be about.
pub const BLOCK: u32 = 40_000;
pub const BLOCK_ROOT: [u8; 32] = [5; 32];

pub struct Emulated {
    platform: Platform,
    pub intel: Intel,
    pub enclave: QuotingEnclave,
    pub state: TdState,
}

impl Emulated {
    pub fn new() -> Self {
        Self::on(Platform::SAMPLE)
    }

    pub fn on(platform: Platform) -> Self {
        let intel = Intel::new(&[1; 32], &platform);
        let enclave = QuotingEnclave::new(&[2; 32], &intel);
        let state = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
        Self {
            platform,
            intel,
            enclave,
            state,
        }
    }

    /// Coordinate of its root's key.
    pub fn root(&self) -> [u8; 32] {
        let root = Certificate::parse(self.intel.root()).unwrap();
        root.key.point[1..33].try_into().unwrap()
    }

    pub fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        self.enclave.quote(&self.state, report_data)
    }

    /// A quote that claims what the claim says.
    pub fn attest(&self, claim: &Claim) -> Attest {
        let bytes = self.quote(&claim.report_data().unwrap().0);
        Attest::new(7, &Quote::parse(&bytes).unwrap(), claim).unwrap()
    }

    /// What a Node asks of Collateral for a quote of now.
    pub fn asked(&self, world: &World<'_>) -> Cell {
        let claim = world.claim(BLOCK);
        let data = claim.report_data().unwrap().0.to_vec();
        let attest = world::build(&self.attest(&claim));
        let arguments = [Item::Cell(attest), Item::Slice(data)];
        world.tvm.get(&world.node, "appraise", &arguments).cell()
    }

    pub fn published(&self) -> Published {
        world::published(&Quote::parse(&self.quote(&[0; 64])).unwrap())
    }

    pub fn statements(&self) -> Statements {
        Statements::good(&self.platform, NOW.into())
    }

    /// Contracts that know everything about the platform, and the blocks up to [`LAST`].
    pub fn world<'a>(&self, tvm: &'a Tvm) -> World<'a> {
        let world = self.empty_world(tvm);
        let collateral = self.statements().sign(&self.intel);
        world.post(&collateral.parts()).unwrap();
        world
    }

    pub fn empty_world<'a>(&self, tvm: &'a Tvm) -> World<'a> {
        let code = test_collateral();
        let world = World::start(tvm, NOW, &code, &self.published());
        tvm.set_blocks(NOW, LAST, &[(BLOCK, BLOCK_ROOT)]);
        world
    }
}

pub fn test_collateral() -> Cell {
    Code::COLLATERAL_TEST.cell().unwrap()
}
