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

use attestation::tdx::Quote;
use contracts::cells::{Bytes, Moment};
use contracts::claim::Claim;
use contracts::code::Code;
use contracts::messages::{Admit, Admitted, Appraise, Excesses, Lacks, Platform, Refused};
use contracts::node::{Attest, Attestation, Host, Leave, Offer, Present, Withdraw};
use contracts::p256::Signature;
use contracts::registry::build_key;
use contracts::reports::Presence;
use sha2::{Digest as _, Sha256};
use tests::td::Td;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};
use tycho_types::num::Tokens;

use emulated::{BLOCK, BLOCK_ROOT, Emulated, LAST, NOW};
use tvm::{Item, Tx, load};
use world::{COIN, POLICY, World, build, software};

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
    assert_eq!(attestation.build, build_key(&Td::REGISTERS));
    let until = u64::from(NOW + POLICY.lifetime);
    assert_eq!(
        attestation.until,
        Moment(until),
        "the policy's lifetime is the shortest"
    );
}

/// DER has a byte more for a number from 128 on.
#[test]
fn versions_from_128_on_are_read_as_der_writes_them() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut platform = tests::pki::Platform::SAMPLE;
    platform.cpu_svn[2..5].copy_from_slice(&[127, 128, 255]);
    let td = Emulated::on(platform);
    let world = td.world(&tvm);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    let sent = tvm.send("anyone", &world.node, COIN, &attest);
    assert_eq!(exits(&sent), [0, 0, 0, 0, 0], "{sent:#?}");
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
    let refused = world.post(&collateral.parts()).unwrap_err();
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
        "root of the next multiple of 100",
        &with(&|claim| claim.block = BLOCK - 50),
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
    other.claim = Lazy::new(&with(&|claim| claim.gpus = Bytes([9; 48]))).unwrap();
    let sent = tvm.send("anyone", &world.node, COIN, &build(&other));
    assert_eq!(sent[0].exit, Some(101), "a claim that is not the quote's");

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
    for late in [BLOCK - 100, BLOCK] {
        let late = build(&admitted(&world.claim(late)));
        let sent = tvm.forge(&world.registry, &world.node, COIN, &late);
        assert_eq!(sent[0].exit, Some(122));
    }
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
        .post(&td.statements().sign(&td.intel).parts())
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
    let admit = Admit {
        query_id: 1,
        node: tvm.wallet("mallory"),
        lacks: Lacks(0),
        evaluation: 20,
        until: Moment::FOREVER,
        software: Lazy::new(&software(build_key(&Td::REGISTERS), &Td::MRCONFIGID)).unwrap(),
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
    assert!(world.state().host.is_none(), "nothing is offered any more");
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
    tvm.set_time(NOW + POLICY.lifetime - 1);
    assert_eq!(exits(&poke()), [0, 0]);
    tvm.set_time(NOW + POLICY.lifetime);
    assert_eq!(poke()[0].exit, Some(134), "the attestation has ended");
}

#[test]
fn a_td_that_could_not_keep_a_secret_is_refused_before_any_signature_is_checked() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let good = td.attest(&world.claim(BLOCK));
    for (name, exit, at, byte) in [
        ("DEBUG", 112, 0, 1),
        ("a reserved attribute", 112, 7, 0x20),
        ("no SEPT_VE_DISABLE", 112, 3, 0),
        ("processor trace", 113, 9, 0x03),
        ("another signed byte", 101, 112 - 1, 1),
    ] {
        let more = changed(good.more.inner(), &[0], at, byte);
        let attest = Attest {
            more: Lazy::from_raw(more).unwrap(),
            ..good.clone()
        };
        let sent = tvm.send("anyone", &world.node, COIN, &build(&attest));
        assert_eq!(sent[0].exit, Some(exit), "{name}");
    }
    // Bits that do not weaken a TD; SEPT_VE_DISABLE is 28, and has to be there.
    let attributes = [16, 27, 30, 31, 63];
    let xfam = [0, 1, 2, 5, 6, 7, 9, 11, 12, 14, 17, 18];
    for (from, harmless, harm) in [(0, &attributes[..], 112), (8, &xfam, 113)] {
        for bit in 0..64 {
            let more = change_at(good.more.inner(), &[0], &|bytes| {
                bytes[from + bit / 8] ^= 1 << (bit % 8)
            });
            let attest = Attest {
                more: Lazy::from_raw(more).unwrap(),
                ..good.clone()
            };
            let exit = if harmless.contains(&bit) { 101 } else { harm };
            let sent = tvm.send("anyone", &world.node, COIN, &build(&attest));
            assert_eq!(sent[0].exit, Some(exit), "bit {bit} from byte {from}");
        }
    }
}

/// What a contract puts between what it is sent is part of what must have been signed:
/// versions, vendor, zeros, identifiers.
#[test]
fn every_byte_that_was_signed_is_covered() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let good = td.attest(&world.claim(BLOCK));
    let refuse = |name: &str, exit: i32, attest: &Attest| {
        let sent = tvm.send("anyone", &world.node, COIN, &build(attest));
        assert_eq!(sent[0].exit, Some(exit), "{name}");
    };
    // Each cell that only the Node reads, by its way from the first one of the quote.
    for (name, path) in [
        ("quote, first cell", &[][..]),
        ("quote, third cell", &[0, 0]),
        ("signature of the quote", &[1]),
        ("QE report", &[2]),
        ("signature of the QE report", &[2, 0]),
        ("certificate", &[3]),
        ("certificate before its TCB", &[3, 0]),
        ("certificate before its TCB, second cell", &[3, 0, 0]),
        ("certificate after its TCB", &[3, 1]),
        ("signature of the certificate", &[3, 2]),
    ] {
        let bytes = usize::from(at_path(good.more.inner(), path).bit_len() / 8);
        for at in [0, bytes / 2, bytes - 1] {
            // A date may be none, or not now.
            let exit = if path == [3] && (2..26).contains(&at) {
                103
            } else {
                101
            };
            let more = flipped(good.more.inner(), path, at);
            let attest = Attest {
                more: Lazy::from_raw(more).unwrap(),
                ..good.clone()
            };
            refuse(&format!("{name}, byte {at}"), exit, &attest);
        }
    }
    // Each byte that goes on to Collateral.
    let cells = [
        ("platform", good.platform.inner()),
        ("software", good.software.inner()),
    ];
    for (name, cell) in cells {
        for at in 0..usize::from(cell.bit_len() / 8) {
            let mut attest = good.clone();
            let other = flipped(cell, &[], at);
            match name {
                "platform" => attest.platform = Lazy::from_raw(other).unwrap(),
                _ => attest.software = Lazy::from_raw(other).unwrap(),
            }
            refuse(&format!("{name}, byte {at}"), 101, &attest);
        }
    }
    for kind in [1, 2, 3] {
        let mut software = good.software.load().unwrap();
        software.kind = kind;
        software.current_tcb = (kind >= 2).then_some(0);
        let software = Lazy::new(&software).unwrap();
        // A body of type 4 has two more cells.
        let exit = if kind == 3 { 9 } else { 101 };
        refuse(
            &format!("kind {kind}"),
            exit,
            &Attest {
                software,
                ..good.clone()
            },
        );
    }
    let other_key = Attest {
        attestation_key: Bytes([1; 64]),
        ..good.clone()
    };
    refuse("another key", 101, &other_key);
    let of_platform = |change: &dyn Fn(&mut Platform)| {
        let mut platform = good.platform.load().unwrap();
        change(&mut platform);
        Attest {
            platform: Lazy::new(&platform).unwrap(),
            ..good.clone()
        }
    };
    let other_ca = of_platform(&|platform| platform.is_processor_ca = true);
    refuse("the other CA's name", 101, &other_ca);
    let other_issuer = of_platform(&|platform| platform.issuer = HashBytes([1; 32]));
    refuse("another issuer", 101, &other_issuer);
    let short = Attest {
        more: Lazy::from_raw(tvm::bytes(&[0; 10])).unwrap(),
        ..good.clone()
    };
    refuse("too few cells", 9, &short);
    refuse("as it is", 0, &good);
}

/// Bodies that only newer modules make, signed by the same enclave.
#[test]
fn a_quote_of_version_5_is_verified_in_each_of_its_shapes() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let claim = world.claim(BLOCK);
    let data = claim.report_data().unwrap().0;
    let mut late = [0; 301];
    // TEE_TCB_SVN_2; TD_ID and DEV_INFO; what the TD was made with.
    late[..16].fill(1);
    late[65..145].fill(2);
    late[193..245].fill(3);
    for (name, body, len) in [
        ("body type 2", [2, 0, 0x48, 2, 0, 0], 0),
        ("body type 3", [3, 0, 0x88, 2, 0, 0], 64),
        ("body type 4", [4, 0, 0x75, 3, 0, 0], 301),
    ] {
        let mut signed = td.quote(&data)[..632].to_vec();
        signed[0] = 5;
        signed.splice(48..48, body);
        signed.extend(&late[..len]);
        let bytes = td.enclave.sign(&signed);
        let attest = Attest::new(7, &Quote::parse(&bytes).unwrap(), &claim).unwrap();
        let arguments = [Item::Cell(build(&attest)), Item::Slice(data.to_vec())];
        let got = tvm.get(&world.node, "appraise", &arguments);
        assert_eq!(got.exit, 0, "{name}");
        let asked = got.cell();
        let asked: Appraise = load(&asked);
        let current = (len > 0).then_some(u128::from_be_bytes([1; 16]));
        assert_eq!(
            asked.software.load().unwrap().current_tcb,
            current,
            "{name}"
        );
    }
}

/// A quote of version 4 says nothing of an update; what a sender puts there is its own.
#[test]
fn what_a_quote_does_not_say_is_not_read() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let mut attest = td.attest(&world.claim(BLOCK));
    let mut software = CellBuilder::new();
    let signed = attest.software.inner().as_slice_allow_exotic();
    software.store_slice(signed).unwrap();
    // SVNs that Collateral would refuse.
    software.store_raw(&[0xff; 16], 128).unwrap();
    attest.software = Lazy::from_raw(software.build().unwrap()).unwrap();
    let sent = tvm.send("anyone", &world.node, COIN, &build(&attest));
    assert_eq!(exits(&sent), [0, 0, 0, 0, 0], "{sent:#?}");
}

/// Truly signed by the enclave, and yet not what a contract takes.
#[test]
fn a_quote_that_says_what_must_be_zero_has_no_form_that_a_contract_takes() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let claim = world.claim(BLOCK);
    let good = td.attest(&claim);
    let signed = td.quote(&claim.report_data().unwrap().0)[..632].to_vec();
    for (name, at) in [
        ("version", 0),
        ("key type", 2),
        ("TEE type", 4),
        ("vendor", 12),
        ("MRSIGNERSEAM", 112),
        ("SEAMATTRIBUTES", 167),
        ("MROWNER", 280),
        ("MROWNERCONFIG", 328),
    ] {
        let mut bytes = signed.clone();
        bytes[at] ^= 0x40;
        let quote = td.enclave.sign(&bytes);
        let signature = quote[636..700].try_into().unwrap();
        let key = quote[700..764].try_into().unwrap();
        if let Ok(quote) = Quote::parse(&quote) {
            let error = Attest::new(7, &quote, &claim).unwrap_err().to_string();
            let expected = "quote is not shaped as the contract knows it from byte";
            assert!(error.starts_with(expected), "{name}: {error}");
        }
        let digest = Sha256::digest(&bytes).into();
        let mut more = good.more.load().unwrap();
        let signature = Signature::new(&key, &digest, &signature).unwrap();
        more.quote_signature = Lazy::new(&signature).unwrap();
        let more = Lazy::new(&more).unwrap();
        let attest = Attest {
            more,
            ..good.clone()
        };
        let sent = tvm.send("anyone", &world.node, COIN, &build(&attest));
        assert_eq!(sent[0].exit, Some(101), "{name}");
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
    let appraise = td.asked(&world);
    let sent = tvm.forge(&world.node, &world.collateral, COIN / 2000, &appraise);
    assert_eq!(sent[0].exit, Some(OUT_OF_GAS));
    let _: Appraise = load(&appraise);
}

const OUT_OF_GAS: i32 = -14;

fn admitted(claim: &Claim) -> Admitted {
    let attestation = Attestation {
        until: Moment::FOREVER,
        build: HashBytes::ZERO,
        model: HashBytes::ZERO,
        claim: Lazy::new(claim).unwrap(),
    };
    Admitted {
        query_id: 1,
        attestation: Lazy::new(&attestation).unwrap(),
    }
}

fn exits(sent: &[Tx]) -> Vec<i32> {
    sent.iter().map(|tx| tx.exit.unwrap_or(-1)).collect()
}

/// With another byte, in the cell at the end of a way of references.
fn changed(cell: &Cell, path: &[u8], at: usize, byte: u8) -> Cell {
    change_at(cell, path, &|bytes| bytes[at] = byte)
}

fn flipped(cell: &Cell, path: &[u8], at: usize) -> Cell {
    change_at(cell, path, &|bytes| bytes[at] ^= 1)
}

fn change_at(cell: &Cell, path: &[u8], change: &dyn Fn(&mut [u8])) -> Cell {
    let mut bytes = cell.data().to_vec();
    if path.is_empty() {
        change(&mut bytes);
    }
    let mut builder = CellBuilder::new();
    builder.store_raw(&bytes, cell.bit_len()).unwrap();
    for (index, reference) in (0..).zip(cell.references().cloned()) {
        let reference = match path.split_first() {
            Some((first, rest)) if *first == index => change_at(&reference, rest, change),
            _ => reference,
        };
        builder.store_reference(reference).unwrap();
    }
    builder.build().unwrap()
}

fn at_path(cell: &Cell, path: &[u8]) -> Cell {
    path.iter().fold(cell.clone(), |cell, index| {
        cell.reference_cloned(*index).unwrap()
    })
}
