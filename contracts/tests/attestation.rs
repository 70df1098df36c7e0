//! An emulated TD attests on the chain: what is taken, and each thing that is not.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod emulated;
mod tvm;
mod world;

use contracts::cells::{Bytes, Moment};
use contracts::claim::Claim;
use contracts::code::Code;
use contracts::messages::{Admit, Admitted, Appraise, Excesses, Lacks, Refused};
use contracts::node::{Attest, Host, Leave, Offer, Present, Withdraw};
use contracts::reports::Presence;
use tests::td::Td;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};
use tycho_types::num::Tokens;

use emulated::{BLOCK, BLOCK_ROOT, Emulated, LAST, NOW, parts};
use tvm::{Item, Tx, load};
use world::{COIN, POLICY, World, build};

#[test]
fn a_claimed_quote_is_admitted_and_remembered_until_its_first_end() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let claim = world.claim(BLOCK);
    let before = tvm.balance(&world.node);
    let sent = tvm.send("anyone", &world.node, COIN, &build(&td.attest(&claim)));
    assert_eq!(exits(&sent), [0, 0, 0, 0, 0], "{sent:#?}");
    let excess = sent.last().unwrap();
    assert_eq!(
        excess.to,
        Some(tvm.wallet("owner")),
        "what is left is the owner's"
    );
    let Excesses { query_id } = load(&excess.body);
    assert_eq!(query_id, 7);
    assert!(excess.value > COIN * 95 / 100);
    assert!(tvm.balance(&world.node) <= before, "nothing of it stays");

    let state = world.state();
    assert_eq!(state.seqno, BLOCK);
    let attestation = state.attestation.unwrap().load().unwrap();
    assert_eq!(attestation.claim.load().unwrap(), claim);
    assert_eq!(attestation.model, HashBytes([6; 32]));
    assert_eq!(
        attestation.build,
        contracts::registry::build_key(&Td::REGISTERS)
    );
    let until = u64::from(NOW + POLICY.lifetime);
    assert_eq!(
        attestation.until,
        Moment(until),
        "the policy's lifetime is the shortest"
    );
}

#[test]
fn the_test_root_is_the_emulated_tds_and_no_production_code_has_it() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let under = tvm::collateral_under(&td.root());
    let test = emulated::test_collateral();
    assert_eq!(
        under,
        test,
        "roots/test/key.tolk is {}",
        hex::encode(td.root())
    );
    let production = Code::COLLATERAL.cell().unwrap();
    assert_ne!(production.repr_hash(), test.repr_hash());

    let world = World::start(&tvm, NOW, &production, &td.published());
    let collateral = td.statements().sign(&td.intel);
    let refused = world.post(&parts(&collateral)).unwrap_err();
    assert_eq!(refused, world::Refusal::Exit(101));
    // A Node says in its first state, and so in its address, whom it believes.
    assert_ne!(world.node, td.world(&tvm).node);
}

#[test]
fn a_claim_counts_once_for_one_node_on_one_network_while_its_block_is_known() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let good = world.claim(BLOCK);
    let refuse = |exit: i32, name: &str, claim: &Claim| {
        let sent = tvm.send("anyone", &world.node, COIN, &build(&td.attest(claim)));
        assert_eq!(sent[0].exit, Some(exit), "{name}");
        assert!(sent[1].bounced, "{name}: the value goes back");
    };
    let with = |change: &dyn Fn(&mut Claim)| {
        let mut claim = good.clone();
        change(&mut claim);
        claim
    };
    refuse(
        120,
        "another Node",
        &with(&|claim| claim.node = tvm.wallet("owner")),
    );
    refuse(120, "another network", &with(&|claim| claim.global_id = -3));
    refuse(
        121,
        "another root",
        &with(&|claim| claim.block_root.0[0] ^= 1),
    );
    refuse(
        121,
        "block is no multiple of 100",
        &with(&|claim| claim.block = LAST),
    );
    refuse(
        121,
        "block of the future",
        &with(&|claim| claim.block = BLOCK + 100),
    );
    refuse(
        121,
        "block too old",
        &with(&|claim| claim.block = BLOCK - 1600),
    );

    let mut other = td.attest(&good);
    let mut more = other.more.load().unwrap();
    more.claim = Lazy::new(&with(&|claim| claim.gpus = Bytes([9; 48]))).unwrap();
    other.more = Lazy::new(&more).unwrap();
    let sent = tvm.send("anyone", &world.node, COIN, &build(&other));
    assert_eq!(sent[0].exit, Some(119), "a claim that is not the quote's");

    let attest = build(&td.attest(&good));
    assert_eq!(
        tvm.send("anyone", &world.node, COIN, &attest)[0].exit,
        Some(0)
    );
    assert_eq!(
        tvm.send("anyone", &world.node, COIN, &attest)[0].exit,
        Some(122),
        "replay"
    );
    refuse(
        122,
        "older than the last",
        &with(&|claim| claim.block = BLOCK - 100),
    );
}

#[test]
fn of_two_claims_on_their_way_the_newer_one_stays() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let newer = build(&td.attest(&world.claim(BLOCK)));
    assert_eq!(
        tvm.send("anyone", &world.node, COIN, &newer)[0].exit,
        Some(0)
    );
    let late = admitted(&world.claim(BLOCK - 100));
    let sent = tvm.forge(&world.registry, &world.node, COIN, &build(&late));
    assert_eq!(sent[0].exit, Some(122));
    assert_eq!(world.state().seqno, BLOCK);
}

#[test]
fn whoever_refuses_the_owner_hears_why_and_gets_the_rest() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let owner_hears = |world: &World<'_>, exit: i32| {
        let attest = build(&td.attest(&world.claim(BLOCK)));
        let sent = tvm.send("anyone", &world.node, COIN, &attest);
        let last = sent.last().unwrap();
        assert_eq!(last.to, Some(tvm.wallet("owner")));
        let refused: Refused = load(&last.body);
        assert_eq!((refused.query_id, refused.exit_code), (7, exit));
        assert!(last.value > COIN * 95 / 100);
        assert!(world.state().attestation.is_none());
    };
    // Collateral knows nothing.
    owner_hears(&td.empty_world(&tvm), 140);
    // Registry, two hops away, does not know the build.
    let world = td.world(&tvm);
    let other = World::start(&tvm, NOW, &emulated::test_collateral(), &Default::default());
    assert_ne!(world.registry, other.registry, "another first state");
    tvm.set_blocks(NOW, LAST, &[(BLOCK, BLOCK_ROOT)]);
    other
        .post(&parts(&td.statements().sign(&td.intel)))
        .unwrap();
    owner_hears(&other, 170);
}

#[test]
fn nobody_can_speak_for_another() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let host = Host {
        gpu: Bytes(*b"H100\0\0\0\0\0\0\0\0\0\0\0\0"),
        memory_gib: 80,
        hours_per_week: 168,
        ask: Tokens::new(5),
        market: tvm.wallet("market"),
    };
    let host = Lazy::new(&host).unwrap();
    let refused = Refused {
        query_id: 1,
        exit_code: 1,
    };
    let for_node = [
        build(&admitted(&world.claim(BLOCK))),
        build(&refused),
        build(&Offer { query_id: 1, host }),
        build(&Leave { query_id: 1 }),
        build(&Withdraw { query_id: 1 }),
    ];
    for body in &for_node {
        let sent = tvm.send("mallory", &world.node, COIN, body);
        assert_eq!(sent[0].exit, Some(130), "{:x}", sent[0].op());
    }
    let software = contracts::messages::Software {
        build: contracts::registry::build_key(&Td::REGISTERS),
        configuration: Bytes(*Td::MRCONFIGID.as_bytes()),
    };
    let admit = Admit {
        query_id: 1,
        node: tvm.wallet("mallory"),
        lacks: Lacks(0),
        evaluation: 20,
        until: Moment::FOREVER,
        software: Lazy::new(&software).unwrap(),
        claim: build(&world.claim(BLOCK)),
    };
    let sent = tvm.send("mallory", &world.registry, COIN, &build(&admit));
    assert_eq!(sent[0].exit, Some(160));
}

#[test]
fn the_owner_offers_leaves_and_takes_the_stake_after_a_day() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    tvm.send("anyone", &world.node, COIN, &attest);
    let host = Host {
        gpu: Bytes([0; 16]),
        memory_gib: 80,
        hours_per_week: 168,
        ask: Tokens::new(5),
        market: tvm.wallet("market"),
    };
    let offer = Offer {
        query_id: 1,
        host: Lazy::new(&host).unwrap(),
    };
    let sent = tvm.send("owner", &world.node, 10 * COIN, &build(&offer));
    assert_eq!(exits(&sent), [0], "the stake stays");
    assert_eq!(world.state().host.unwrap().load().unwrap(), host);

    let act = |body: &Cell| tvm.send("owner", &world.node, COIN, body);
    let (leave, withdraw) = (
        build(&Leave { query_id: 2 }),
        build(&Withdraw { query_id: 3 }),
    );
    assert_eq!(act(&withdraw)[0].exit, Some(132), "not asked for");
    assert_eq!(exits(&act(&leave)), [0, 0]);
    assert!(world.state().attestation.is_none(), "it ends at once");
    let leaving = [&attest, &build(&offer), &leave];
    for body in leaving {
        assert_eq!(act(body)[0].exit, Some(133));
    }
    let admitted = build(&admitted(&world.claim(BLOCK + 100)));
    let late = tvm.forge(&world.registry, &world.node, COIN, &admitted);
    assert_eq!(late[0].exit, Some(133), "an answer that was on its way");
    tvm.set_time(NOW + 24 * 3600 - 1);
    assert_eq!(act(&withdraw)[0].exit, Some(132), "too soon");
    tvm.set_time(NOW + 24 * 3600);
    let before = tvm.balance(&world.node);
    let sent = act(&withdraw);
    assert_eq!(exits(&sent), [0, 0]);
    let (paid, kept) = (sent[1].value, tvm.balance(&world.node));
    assert_eq!(kept, COIN / 50, "stays for storage");
    assert!(
        paid > before + COIN - kept - COIN / 100,
        "all else is the owner's"
    );
    // Whoever comes back does so with the same claims used up.
    assert_eq!(world.state().seqno, BLOCK);
    assert_eq!(
        tvm.send("anyone", &world.node, COIN, &attest)[0].exit,
        Some(122)
    );
}

#[test]
fn a_node_that_counts_is_presented_once_an_hour_by_anyone() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let present = build(&Present { query_id: 5 });
    let poke = || tvm.send("anyone", &world.node, COIN, &present);
    assert_eq!(poke()[0].exit, Some(134), "nothing offered or proved");
    let attest = build(&td.attest(&world.claim(BLOCK)));
    tvm.send("anyone", &world.node, COIN, &attest);
    assert_eq!(poke()[0].exit, Some(134), "nothing offered");
    let host = Host {
        gpu: Bytes([1; 16]),
        memory_gib: 80,
        hours_per_week: 168,
        ask: Tokens::new(5),
        market: tvm.wallet("market"),
    };
    let host = Lazy::new(&host).unwrap();
    let offer = Offer {
        query_id: 1,
        host: host.clone(),
    };
    tvm.send("owner", &world.node, 10 * COIN, &build(&offer));
    let stake = tvm.balance(&world.node);
    let sent = poke();
    assert_eq!(exits(&sent), [0, 0]);
    assert_eq!(sent[1].to, Some(tvm.wallet("market")));
    let presence: Presence = load(&sent[1].body);
    let expected = Presence {
        query_id: 5,
        epoch: NOW / 3600,
        owner: tvm.wallet("owner"),
        model: HashBytes([6; 32]),
        stake: presence.stake,
        host,
    };
    assert_eq!(presence, expected);
    let stake = u128::from(stake) - presence.stake.into_inner();
    assert!(stake < 100, "all but a minute of storage: {stake}");
    assert_eq!(world.state().presented, NOW / 3600);
    assert_eq!(poke()[0].exit, Some(135), "once");
    tvm.set_time(NOW + 3600);
    assert_eq!(exits(&poke()), [0, 0]);
    tvm.set_time(NOW + 8 * 24 * 3600);
    assert_eq!(poke()[0].exit, Some(134), "the attestation has ended");
}

#[test]
fn a_td_that_could_not_keep_a_secret_is_refused_before_any_signature_is_checked() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let signed = td.quote(&[0; 64])[..632].to_vec();
    let good = td.attest(&world.claim(BLOCK));
    let refuse = |name: &str, exit: i32, bytes: &[u8], lengths: &[usize]| {
        let attest = Attest {
            quote: cut(bytes, lengths),
            ..good.clone()
        };
        let got = tvm.get(&world.node, "appraise", &[Item::Cell(build(&attest))]);
        assert_eq!(got.exit, exit, "{name}");
    };
    let v4 = [112, 120, 96, 96, 96, 112];
    let changed = |at: usize, byte: u8| {
        let mut bytes = signed.clone();
        bytes[at] = byte;
        bytes
    };
    for (name, exit, at, byte) in [
        ("version 3", 110, 0, 3),
        ("key type 3", 110, 2, 3),
        ("TEE SGX", 110, 4, 0),
        ("another vendor", 110, 12, 0),
        ("MRSIGNERSEAM", 111, 112, 1),
        ("SEAMATTRIBUTES", 111, 167, 1),
        ("DEBUG", 112, 168, 1),
        ("a reserved attribute", 112, 175, 0x20),
        ("no SEPT_VE_DISABLE", 112, 171, 0),
        ("processor trace", 113, 177, 0x03),
        ("MROWNER", 114, 280, 1),
        ("MROWNERCONFIG", 114, 328, 1),
        ("another signed byte", 101, 632 - 1, 1),
    ] {
        refuse(name, exit, &changed(at, byte), &v4);
    }
    refuse("cut otherwise", 100, &signed, &[111, 121, 96, 96, 96, 112]);

    // Version 5 with everything that a body can have.
    let v5 = |kind: u8, size: u16, more: &[u8]| {
        let mut bytes = signed[..48].to_vec();
        bytes[0] = 5;
        bytes.extend([kind, 0]);
        bytes.extend(u32::from(size).to_le_bytes());
        bytes.extend(&signed[48..]);
        bytes.extend(more);
        bytes
    };
    let lengths = [118, 120, 96, 96, 96, 112, 64, 81, 100, 56];
    refuse("body type 2", 101, &v5(2, 584, &[]), &lengths[..6]);
    refuse("body type 3", 101, &v5(3, 648, &[0; 64]), &lengths[..7]);
    refuse("body type 4", 101, &v5(4, 885, &[0; 301]), &lengths);
    refuse("body type 5", 110, &v5(5, 648, &[0; 64]), &lengths[..7]);
    refuse("size of another", 110, &v5(3, 584, &[0; 64]), &lengths[..7]);
    let mut more = [0; 301];
    for (name, exit, at) in [
        ("MRSERVICETD", 115, 63),
        ("VMID", 116, 64),
        ("INIT_SERVICE_TD_HASH", 115, 64 + 81 + 47),
        ("CUR_SERVICE_TD_HASH", 115, 64 + 81 + 100),
    ] {
        more[at] = 1;
        refuse(name, exit, &v5(4, 885, &more), &lengths);
        more[at] = 0;
    }
}

#[test]
fn what_no_contract_knows_or_pays_for_is_refused() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let unknown = tvm::bytes(&[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    for contract in [&world.node, &world.collateral, &world.registry] {
        let sent = tvm.send("anyone", contract, COIN, &unknown);
        assert_eq!(sent[0].exit, Some(0xffff));
        let sent = tvm.send("anyone", contract, COIN, &Cell::default());
        assert_eq!(exits(&sent), [0], "coins alone are taken");
    }
    let attest = build(&td.attest(&world.claim(BLOCK)));
    let sent = tvm.send("anyone", &world.node, COIN * 3 / 100 - 1, &attest);
    assert_eq!(sent[0].exit, Some(131));
    // What is asked for pays for every hop.
    let sent = tvm.send("anyone", &world.node, COIN * 3 / 100, &attest);
    assert_eq!(exits(&sent), [0, 0, 0, 0, 0]);
    // One hop alone, without the gas for it, changes nothing and gives back.
    let appraise = tvm
        .get(&world.node, "appraise", &[Item::Cell(attest)])
        .cell();
    let sent = tvm.forge(&world.node, &world.collateral, COIN / 2000, &appraise);
    assert_eq!(sent[0].exit, Some(OUT_OF_GAS));
    let _: Appraise = load(&appraise);
}

const OUT_OF_GAS: i32 = -14;

fn admitted(claim: &Claim) -> Admitted {
    Admitted {
        query_id: 1,
        until: Moment::FOREVER,
        build: HashBytes::ZERO,
        model: HashBytes::ZERO,
        claim: build(claim),
    }
}

fn exits(sent: &[Tx]) -> Vec<i32> {
    sent.iter().map(|tx| tx.exit.unwrap_or(-1)).collect()
}

fn cut(mut bytes: &[u8], lengths: &[usize]) -> Cell {
    let mut pieces = Vec::new();
    for len in lengths {
        let (piece, rest) = bytes.split_at(*len);
        pieces.push(piece);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    let mut next: Option<Cell> = None;
    for piece in pieces.iter().rev() {
        let mut builder = CellBuilder::new();
        let bits = u16::try_from(piece.len() * 8).unwrap();
        builder.store_raw(piece, bits).unwrap();
        if let Some(next) = next {
            builder.store_reference(next).unwrap();
        }
        next = Some(builder.build().unwrap());
    }
    next.unwrap()
}
