//! Each message and state: what is built is what is read, no part of it is anything, and
//! no cell makes a reader panic.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use contracts::cells::{Bytes, Moment, Rest};
use contracts::claim::{Claim, Keys};
use contracts::collateral::{self, Authorities, Authority, QeIdentity, RevocationList, TcbInfo};
use contracts::collateral::{Module, PlatformLevel, VersionLevel, Window};
use contracts::messages::{
    Admit, Admitted, Appraise, Enclave, Excesses, Lacks, Platform, Refused, Software,
};
use contracts::node::{self, Attestation, Host, Leave, Offer, Present, Withdraw};
use contracts::p256::Signature;
use contracts::registry::{
    self, Apply, Build, Change, Configuration, Governance, Model, Order, Policy, Published, Waiting,
};
use contracts::reports::Presence;
use proptest::prelude::*;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::dict::Dict;
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_built_is_what_is_read_and_no_part_of_it_is(seed in any::<[u8; 32]>(), some in any::<bool>()) {
        for (name, whole, reader) in all(seed, some) {
            let again = reader(&whole);
            prop_assert_eq!(again.as_ref(), Some(&whole), "{}", name);
            for part in parts(&whole) {
                // What ends in bytes of any length may be shorter, and is then another.
                let read = reader(&part);
                prop_assert!(read.is_none() || read == Some(part), "{}", name);
            }
        }
    }

    #[test]
    fn no_cell_makes_a_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..=127),
        references in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=127), 0..=4),
        tagged in any::<bool>(),
    ) {
        for (_, whole, reader) in all([1; 32], true) {
            let mut builder = CellBuilder::new();
            let bits = if tagged { whole.bit_len().min(32) } else { 0 };
            builder.store_raw(whole.data(), bits).unwrap();
            let left = 1023 - bits;
            let bits = u16::try_from(bytes.len() * 8).unwrap().min(left);
            builder.store_raw(&bytes, bits).unwrap();
            for reference in &references {
                builder.store_reference(cell(reference)).unwrap();
            }
            let cell = builder.build().unwrap();
            let _ = reader(&cell);
        }
    }
}

/// What a type makes of a cell that it reads to its end: the cell that it writes then.
type Reader = fn(&Cell) -> Option<Cell>;

fn read<T: Store + for<'a> Load<'a>>(cell: &Cell) -> Option<Cell> {
    let mut slice = cell.as_slice_allow_exotic();
    let value = T::load_from(&mut slice).ok()?;
    slice.is_empty().then_some(())?;
    CellBuilder::build_from(value).ok()
}

/// Without its last bits, and without its last reference.
fn parts(whole: &Cell) -> Vec<Cell> {
    let references: Vec<Cell> = whole.references().cloned().collect();
    let make = |bits: u16, references: &[Cell]| {
        let mut builder = CellBuilder::new();
        builder.store_raw(whole.data(), bits).unwrap();
        for reference in references {
            builder.store_reference(reference.clone()).unwrap();
        }
        builder.build().unwrap()
    };
    let shorter = (0..whole.bit_len()).map(|bits| make(bits, &references));
    let fewer = references
        .split_last()
        .map(|(_, rest)| make(whole.bit_len(), rest));
    shorter.chain(fewer).collect()
}

macro_rules! samples {
    ($($kind:ty = $value:expr;)*) => {
        vec![$({
            let value: $kind = $value;
            let cell = CellBuilder::build_from(value).unwrap();
            let reader: Reader = read::<$kind>;
            (stringify!($kind), cell, reader)
        },)*]
    };
}

mod paid;

/// One of each.
fn all(seed: [u8; 32], some: bool) -> Vec<(&'static str, Cell, Reader)> {
    [samples(seed, some), paid::samples(seed, some)].concat()
}

fn samples(seed: [u8; 32], some: bool) -> Vec<(&'static str, Cell, Reader)> {
    let hash = HashBytes(seed);
    let number = u128::from_be_bytes(seed[..16].try_into().unwrap());
    let short = u32::from_be_bytes(seed[16..20].try_into().unwrap());
    let byte = seed[20];
    let query_id = u64::from_be_bytes(seed[..8].try_into().unwrap());
    let moment = Moment(u64::from(short));
    let address = StdAddr::new(0, hash);
    let lazy = cell(&seed);
    let window = Window {
        from: moment,
        until: Moment::FOREVER,
    };
    let serial = Bytes::<20>(seed[..20].try_into().unwrap());
    let fmspc = Bytes::<6>(seed[..6].try_into().unwrap());
    let wide = Bytes::<48>([byte; 48]);
    let next = |value: Cell| some.then_some(value);
    let claim = Claim {
        global_id: -239,
        node: address.clone(),
        gpus: wide,
        block: short,
        block_root: hash,
        keys: Lazy::from_raw(lazy.clone()).unwrap(),
    };
    let enclave = Enclave {
        misc_select: short,
        attributes: number,
        signer: hash,
        product_id: 2,
        svn: 3,
    };
    let list = RevocationList {
        window,
        revoked: dict(serial, true),
    };
    let authority = Authority {
        x: hash,
        serial,
        window,
        list: some.then(|| list.clone()),
    };
    let authorities = Authorities {
        root_list: some.then(|| list.clone()),
        platform_ca: next(build(&authority)).map(|cell| Lazy::from_raw(cell).unwrap()),
        processor_ca: None,
    };
    let version = VersionLevel {
        svn: 4,
        lacks: Lacks(byte),
        next: next(lazy.clone()).map(|cell| Lazy::from_raw(cell).unwrap()),
    };
    let level = PlatformLevel {
        components: number,
        tdx_components: !number,
        pce_svn: 5,
        lacks: Lacks(byte),
        next: next(lazy.clone()).map(|cell| Lazy::from_raw(cell).unwrap()),
    };
    let signature = Signature {
        point: Bytes([byte; 33]),
        u: hash,
        v: hash,
    };
    let policy = Policy {
        tolerated: Lacks(byte),
        min_evaluation: short,
        min_version: 1,
        lifetime: 2,
    };
    let record = Build {
        manifest: hash,
        version: short,
        roles: 1,
        until: moment,
    };
    let configuration = Configuration {
        model: hash,
        until: moment,
    };
    let model = Model {
        name: Bytes([byte; 14]),
        price_class: 1,
    };
    let governance = Governance {
        threshold: 1,
        delay: short,
        builders: dict(byte, hash),
    };
    let published = Published {
        builds: dict(hash, record),
        configurations: dict(hash, configuration),
        models: dict(hash, model),
    };
    let document = collateral::Document {
        signer: lazy.clone(),
        signer_signature: Lazy::new(&signature).unwrap(),
        text: lazy.clone(),
        text_signature: Lazy::new(&signature).unwrap(),
    };
    let host = Host {
        gpu: Bytes([byte; 16]),
        memory_gib: short,
        hours_per_week: 168,
        ask: Tokens::new(number >> 8),
        market: address.clone(),
    };
    samples! {
        Claim = claim.clone();
        Keys = Keys { receipt: hash, seal: hash, tls: wide };
        Platform = Platform {
            issuer: hash,
            is_processor_ca: some,
            enclave: enclave.clone(),
            components: number,
            pce_svn: byte,
            serial: Rest(seed[..21].to_vec()),
        };
        Enclave = enclave;
        Software = Software {
            build: hash,
            pce_id: 0,
            fmspc,
            configuration: wide,
            launch_tcb: number,
            kind: if some { 2 } else { 1 },
            current_tcb: some.then_some(number),
        };
        Appraise = Appraise {
            query_id,
            registry: address.clone(),
            until: moment,
            platform: Lazy::from_raw(lazy.clone()).unwrap(),
            software: Lazy::from_raw(lazy.clone()).unwrap(),
            claim: lazy.clone(),
        };
        Admit = Admit {
            query_id,
            node: address.clone(),
            lacks: Lacks(byte),
            evaluation: short,
            until: moment,
            software: Lazy::from_raw(lazy.clone()).unwrap(),
            claim: lazy.clone(),
        };
        Admitted = Admitted {
            query_id,
            attestation: Lazy::from_raw(lazy.clone()).unwrap(),
        };
        Attestation = Attestation {
            until: moment,
            build: hash,
            model: hash,
            claim: Lazy::new(&claim).unwrap(),
        };
        Refused = Refused { query_id, exit_code: -14 };
        Excesses = Excesses { query_id };
        collateral::State = collateral::State {
            authorities: Lazy::new(&authorities).unwrap(),
            qe_identity: next(lazy.clone()).map(|cell| Lazy::from_raw(cell).unwrap()),
            tcb_infos: dict(fmspc, Lazy::from_raw(lazy.clone()).unwrap()),
        };
        Authorities = authorities;
        Authority = authority;
        RevocationList = list;
        TcbInfo = TcbInfo {
            window,
            signer: serial,
            evaluation: short,
            pce_id: 0,
            levels: level.clone(),
            modules: next(lazy.clone()).map(|cell| Lazy::from_raw(cell).unwrap()),
        };
        PlatformLevel = level;
        Module = Module { version: byte, levels: version.clone(), next: None };
        QeIdentity = QeIdentity {
            window,
            signer: serial,
            evaluation: short,
            misc_select: short,
            misc_select_mask: 0,
            attributes: number,
            attributes_mask: 0,
            mr_signer: hash,
            product_id: 1,
            levels: version.clone(),
        };
        VersionLevel = version;
        collateral::PostRootList = collateral::PostRootList {
            query_id,
            list: lazy.clone(),
            signature: signature.clone(),
        };
        collateral::PostAuthority = collateral::PostAuthority {
            query_id,
            is_processor_ca: some,
            certificate: lazy.clone(),
            signature: signature.clone(),
        };
        collateral::PostAuthorityList = collateral::PostAuthorityList {
            query_id,
            is_processor_ca: some,
            list: lazy.clone(),
            signature: signature.clone(),
        };
        collateral::PostTcbInfo = collateral::PostTcbInfo { query_id, document: document.clone() };
        collateral::PostQeIdentity = collateral::PostQeIdentity { query_id, document };
        node::State = node::State {
            attestation: next(lazy.clone()).map(|cell| Lazy::from_raw(cell).unwrap()),
            host: next(build(&host)).map(|cell| Lazy::from_raw(cell).unwrap()),
            ..node::State::new(address.clone(), address.clone(), address.clone())
        };
        node::Attest = node::Attest {
            query_id,
            attestation_key: Bytes([byte; 64]),
            platform: Lazy::from_raw(lazy.clone()).unwrap(),
            software: Lazy::from_raw(lazy.clone()).unwrap(),
            claim: Lazy::from_raw(lazy.clone()).unwrap(),
            more: Lazy::from_raw(lazy.clone()).unwrap(),
        };
        node::AttestMore = node::AttestMore {
            quote: Bytes([byte; 120]),
            td: lazy.clone(),
            quote_signature: Lazy::new(&signature).unwrap(),
            enclave: lazy.clone(),
            certificate: lazy.clone(),
        };
        Signature = signature;
        Host = host.clone();
        Offer = Offer { query_id, host: Lazy::new(&host).unwrap() };
        Present = Present { query_id };
        Leave = Leave { query_id };
        Withdraw = Withdraw { query_id };
        Presence = Presence {
            query_id,
            epoch: short,
            owner: address.clone(),
            model: hash,
            stake: Tokens::new(number >> 8),
            host: Lazy::new(&host).unwrap(),
        };
        registry::State = registry::State {
            collateral: address.clone(),
            turn: short,
            governance: Lazy::new(&governance).unwrap(),
            policy,
            published: Lazy::new(&published).unwrap(),
            waiting: dict(short, Waiting { from: moment, change: lazy.clone() }),
        };
        Governance = governance.clone();
        Published = published;
        Change = Change::PutBuild { build: hash, record };
        Change = Change::PutConfiguration { configuration: hash, record: configuration };
        Change = Change::PutModel { model: hash, record: model };
        Change = Change::SetPolicy { policy };
        Change = Change::SetGovernance { governance: Lazy::new(&governance).unwrap() };
        Change = Change::SetCode { code: lazy.clone() };
        Change = Change::EndBuild { build: hash, until: moment };
        Change = Change::EndConfiguration { configuration: hash, until: moment };
        Change = Change::Tighten { policy };
        Change = Change::Cancel { turn: short };
        Order = Order {
            global_id: -3,
            registry: address,
            turn: short,
            valid_until: moment,
            change: Lazy::new(&Change::Cancel { turn: short }).unwrap(),
        };
        registry::Decide = registry::Decide {
            query_id,
            order: Lazy::from_raw(lazy).unwrap(),
            signatures: dict(byte, Bytes([byte; 64])),
        };
        Apply = Apply { query_id, turn: short };
    }
}

fn dict<K, V>(key: K, value: V) -> Dict<K, V>
where
    K: tycho_types::dict::StoreDictKey,
    V: Store,
{
    let mut dict = Dict::new();
    dict.set(key, value).unwrap();
    dict
}

fn build(value: &dyn Store) -> Cell {
    CellBuilder::build_from(value).unwrap()
}

fn cell(bytes: &[u8]) -> Cell {
    let mut builder = CellBuilder::new();
    let bits = u16::try_from(bytes.len() * 8).unwrap();
    builder.store_raw(bytes, bits).unwrap();
    builder.build().unwrap()
}
