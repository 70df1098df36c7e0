//! What Intel says reaches the chain: from anyone, in order, never back.

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

use attestation::certificate::Certificate;
use attestation::pem;
use contracts::cells::Moment;
use contracts::collateral::{
    PostAuthority, PostAuthorityList, PostQeIdentity, PostRootList, PostTcbInfo, State,
};
use contracts::messages::{Admit, Appraise, Enclave, Lacks, Software};
use contracts::p256::Signature;
use sha2::{Digest as _, Sha256};
use tests::collateral::Statements;
use tests::pki::{Intel, Platform, Window};
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};

use emulated::{BLOCK, BLOCK_ROOT, Emulated, LAST, NOW};
use tvm::load;
use world::{COIN, World, build};

const DAY: i64 = 24 * 3600;

#[test]
fn what_was_posted_is_what_intel_said() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let state: State = load(&tvm.data(&world.collateral).unwrap());
    let authorities = state.authorities.load().unwrap();
    let ca = authorities.platform_ca.unwrap().load().unwrap();
    assert!(ca.list.unwrap().revoked.is_empty());
    assert!(authorities.processor_ca.is_none());
    let identity = state.qe_identity.unwrap().load().unwrap();
    assert_eq!((identity.evaluation, identity.product_id), (20, 2));
    let fmspc = contracts::cells::Bytes(Platform::SAMPLE.fmspc);
    let info = state.tcb_infos.get(fmspc).unwrap().unwrap().load().unwrap();
    let best = info.levels;
    let expected = u128::from_be_bytes(Platform::SAMPLE.cpu_svn);
    assert_eq!((best.components, best.lacks), (expected, Lacks(0)));
    let worst = best.next.unwrap().load().unwrap();
    assert_eq!((worst.components, worst.lacks), (0, Lacks::UPDATE));
    assert!(worst.next.is_none());
    let module = info.modules.unwrap().load().unwrap();
    assert_eq!((module.version, module.levels.svn), (1, 11));
}

#[test]
fn a_list_needs_the_authority_that_signed_it() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.empty_world(&tvm);
    let collateral = td.statements().sign(&td.intel);
    let parts = collateral.parts();
    let [authority, root] = pem::certificates(parts.pck_crl_issuer_chain).unwrap();
    let list = PostAuthorityList::new(1, parts.pck_crl, &authority).unwrap();
    assert_eq!(post(&world, &build(&list)), 140);
    let certificate = PostAuthority::new(1, &authority, &root).unwrap();
    assert_eq!(post(&world, &build(&certificate)), 0);
    assert_eq!(post(&world, &build(&list)), 0);
    let as_other = PostAuthority {
        is_processor_ca: true,
        ..certificate
    };
    assert_eq!(post(&world, &build(&as_other)), 101, "another's name");
    let of_leaf = pem::certificates::<2>(parts.tcb_info_issuer_chain).unwrap();
    let signer = PostAuthority::new(1, &of_leaf[0], &root).unwrap();
    assert_eq!(post(&world, &build(&signer)), 101, "another's purpose");
}

#[test]
fn processors_have_an_authority_of_their_own() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let [authority, list] = td.intel.processor_ca(td.statements().valid);
    let certificate = PostAuthority::new(1, &authority, td.intel.root()).unwrap();
    let list = PostAuthorityList::new(1, &list, &authority).unwrap();
    let as_platforms = PostAuthorityList {
        is_processor_ca: false,
        ..list.clone()
    };
    assert_eq!(post(&world, &build(&list)), 140);
    assert_eq!(post(&world, &build(&certificate)), 0);
    assert_eq!(post(&world, &build(&as_platforms)), 100, "another's name");
    assert_eq!(post(&world, &build(&list)), 0);
    let state: State = load(&tvm.data(&world.collateral).unwrap());
    let authorities = state.authorities.load().unwrap();
    let processor = authorities.processor_ca.unwrap().load().unwrap();
    let platform = authorities.platform_ca.unwrap().load().unwrap();
    assert!(processor.list.is_some() && platform.list.is_some());
    assert_ne!(processor.x, platform.x);
    let since = |from: i64| {
        let window = Window {
            from,
            ..td.statements().valid
        };
        let [authority, _] = td.intel.processor_ca(window);
        build(&PostAuthority::new(1, &authority, td.intel.root()).unwrap())
    };
    let from = td.statements().valid.from;
    assert_eq!(post(&world, &since(from - 1)), 141, "an older certificate");
    assert_eq!(post(&world, &since(from + 1)), 0);
}

#[test]
fn dates_and_recoveries_never_go_back() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let now = i64::from(NOW);
    let older = Statements {
        valid: Window {
            from: now - 2 * DAY,
            until: now + DAY,
        },
        ..td.statements()
    };
    let earlier = Statements {
        evaluation: 19,
        ..td.statements()
    };
    let all = [0, 2, 3, 4];
    for (statements, refused) in [(older, &all[..]), (earlier, &all[2..])] {
        let messages = messages(&td.intel, &statements);
        for (index, message) in messages.iter().enumerate() {
            let expected = if refused.contains(&index) { 141 } else { 0 };
            assert_eq!(post(&world, message), expected, "{index}");
        }
    }
}

#[test]
fn a_relayer_is_thanked_for_what_was_needed_while_there_is_something_to_thank_with() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let half = NOW + 15 * 24 * 3600;
    tvm.set_time(half);
    let fresh = Statements::good(&Platform::SAMPLE, half.into());
    let messages = messages(&td.intel, &fresh);
    let gain = |message: &Cell| {
        let sent = tvm.send("relayer", &world.collateral, COIN, message);
        assert_eq!(sent[0].exit, Some(0));
        assert_eq!(sent[1].to, Some(tvm.wallet("relayer")));
        i64::try_from(sent[1].value).unwrap() - i64::try_from(COIN).unwrap()
    };
    let bounty = i64::try_from(COIN / 50).unwrap();
    let cost = bounty / 2;
    assert!(gain(&messages[0]) > bounty - cost, "the list was half over");
    assert!(gain(&messages[0]) < 0, "it is fresh now");
    assert!(gain(&messages[1]) < 0, "a certificate is nobody's to renew");
    for needed in [2, 3, 4] {
        assert!(gain(&messages[needed]) > bounty - 2 * cost, "{needed}");
        assert!(gain(&messages[needed]) < 0, "{needed} is fresh now");
    }
    // What is reserved for storage is no bounty.
    let mut time = half;
    let gained = |time: u32| {
        tvm.set_time(time);
        let fresh = Statements::good(&Platform::SAMPLE, time.into());
        gain(&self::messages(&td.intel, &fresh)[0])
    };
    let mut last = 0;
    for _ in 0..25 {
        time += 16 * 24 * 3600;
        last = gained(time);
    }
    assert!(last < 0, "nothing is left to thank with");
    assert!(tvm.balance(&world.collateral) >= COIN / 2);
}

#[test]
fn half_of_the_time_has_to_be_over_before_anyone_is_thanked() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let half = NOW + 14 * 24 * 3600;
    let fresh = Statements::good(&Platform::SAMPLE, half.into());
    let list = &messages(&td.intel, &fresh)[0];
    tvm.set_time(half);
    let sent = tvm.send("relayer", &world.collateral, COIN, list);
    assert_eq!(sent[0].exit, Some(0));
    assert!(sent[1].value < COIN, "it is just half over");
}

#[test]
fn nobody_trusts_a_level_that_intel_has_revoked() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let good = td.statements();
    let revoked: [fn(&mut Statements); 3] = [
        |statements| statements.platform_status = "Revoked",
        |statements| statements.module_status = "Revoked",
        |statements| statements.qe_status = "Revoked",
    ];
    for revoke in revoked {
        let mut statements = good.clone();
        revoke(&mut statements);
        let world = td.empty_world(&tvm);
        for message in messages(&td.intel, &statements) {
            assert_eq!(post(&world, &message), 0);
        }
        let attest = build(&td.attest(&world.claim(BLOCK)));
        let sent = tvm.send("anyone", &world.node, COIN, &attest);
        assert_eq!(sent[1].exit, Some(151));
    }
}

#[test]
fn a_module_that_intel_says_nothing_of_is_refused() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let collateral = td.statements().sign(&td.intel);
    let (_, from) = collateral.tcb_info.split_at("{\"tcbInfo\":".len());
    let (info, _) = from.rsplit_once(",\"signature\"").unwrap();
    let begin = info.find("\"tdxModuleIdentities\"").unwrap();
    let end = info.find("\"tcbLevels\":[{\"tcb\":{\"sgx").unwrap();
    let info = [&info[..begin], &info[end..]].concat();
    let signature = hex::encode(td.intel.sign_statement(info.as_bytes()));
    let info = format!(r#"{{"tcbInfo":{info},"signature":"{signature}"}}"#);
    let chain = pem::certificates(collateral.parts().tcb_info_issuer_chain).unwrap();
    let message = PostTcbInfo::new(4, &info, &chain).unwrap();
    assert_eq!(post(&world, &build(&message)), 0);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    let sent = tvm.send("anyone", &world.node, COIN, &attest);
    assert_eq!(sent[1].exit, Some(150));
}

#[test]
fn what_collateral_admits_ends_with_the_first_thing_that_it_rests_on() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let asked = td.asked(&world);
    let appraise: Appraise = load(&asked);
    let collateral = u64::try_from(td.statements().valid.until).unwrap();
    for (certificate, expected) in [
        (collateral - 1, collateral - 1),
        (collateral + 1, collateral),
    ] {
        let body = build(&Appraise {
            until: Moment(certificate),
            ..appraise.clone()
        });
        let sent = tvm.forge(&world.node, &world.collateral, COIN, &body);
        assert_eq!(load::<Admit>(&sent[1].body).until, Moment(expected));
    }
}

#[test]
fn what_is_needed_for_an_appraisal_is_asked_for_and_must_fit_together() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.empty_world(&tvm);
    let asked = td.asked(&world);
    let exit = |body: &Cell| {
        let sent = tvm.forge(&world.node, &world.collateral, COIN, body);
        sent[0].exit.unwrap()
    };
    for message in messages(&td.intel, &td.statements()) {
        assert_eq!(exit(&asked), 140, "something is missing");
        assert_eq!(post(&world, &message), 0);
    }
    assert_eq!(exit(&asked), 0);
    let appraise: Appraise = load(&asked);
    let with = |change: &dyn Fn(&mut contracts::messages::Platform)| {
        let mut platform = appraise.platform.load().unwrap();
        change(&mut platform);
        let platform = Lazy::new(&platform).unwrap();
        exit(&build(&Appraise {
            platform,
            ..appraise.clone()
        }))
    };
    assert_eq!(with(&|platform| platform.issuer = HashBytes([1; 32])), 144);
    assert_eq!(with(&|platform| platform.is_processor_ca = true), 140);
    let with_software = |change: &dyn Fn(&mut Software)| {
        let mut software = appraise.software.load().unwrap();
        change(&mut software);
        let software = Lazy::new(&software).unwrap();
        exit(&build(&Appraise {
            software,
            ..appraise.clone()
        }))
    };
    assert_eq!(with_software(&|software| software.fmspc.0[0] ^= 1), 140);
    assert_eq!(with_software(&|software| software.pce_id = 1), 146);
    assert_eq!(
        with(&|platform| platform.components = 0),
        0,
        "the lowest level"
    );
    let before_modules = with_software(&|software| {
        (software.kind, software.current_tcb) = (2, Some(0));
    });
    assert_eq!(before_modules, 0);
    let enclave: [&dyn Fn(&mut Enclave); 4] = [
        &|enclave| enclave.signer.0[0] ^= 1,
        &|enclave| enclave.misc_select ^= 1,
        &|enclave| enclave.attributes ^= 1 << 127,
        &|enclave| enclave.product_id ^= 1,
    ];
    for change in enclave {
        assert_eq!(with(&|platform| change(&mut platform.enclave)), 147);
    }
    assert_eq!(with(&|platform| platform.enclave.svn = 3 << 8), 148);
    for (tcb, expected) in [([10, 1], 150), ([11, 2], 150)] {
        let mut bytes = [0xff; 16];
        bytes[..2].copy_from_slice(&tcb);
        let tcb = u128::from_be_bytes(bytes);
        assert_eq!(
            with_software(&|software| software.launch_tcb = tcb),
            expected
        );
    }
    tvm.set_time(NOW + 31 * 24 * 3600);
    assert_eq!(exit(&asked), 103, "all of it is over");
}

/// Intel's "checkForRelaunch", status by status.
#[test]
fn what_a_td_lacks_is_what_its_host_lacked_at_launch_unless_that_was_updated() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let asked = td.asked(&world);
    let appraise: Appraise = load(&asked);
    let software = appraise.software.load().unwrap();
    let new = software.launch_tcb;
    let lacks = |launch_tcb, current_tcb| {
        let software = Software {
            kind: 2,
            launch_tcb,
            current_tcb: Some(current_tcb),
            ..software.clone()
        };
        let appraise = Appraise {
            software: Lazy::new(&software).unwrap(),
            ..appraise.clone()
        };
        let body = build(&appraise);
        let sent = tvm.forge(&world.node, &world.collateral, COIN, &body);
        load::<Admit>(&sent[1].body).lacks
    };
    for (status, configuration) in [
        ("UpToDate", Lacks(0)),
        ("ConfigurationNeeded", Lacks::CONFIGURATION),
    ] {
        let statements = Statements {
            platform_status: status,
            ..td.statements()
        };
        assert_eq!(post(&world, &messages(&td.intel, &statements)[3]), 0);
        assert_eq!(lacks(new, new), configuration, "{status}");
        assert_eq!(lacks(new, 0), configuration, "{status}");
        assert_eq!(lacks(0, 0), Lacks::UPDATE, "{status}");
        let again = Lacks(Lacks::RELAUNCH.0 | configuration.0);
        assert_eq!(lacks(0, new), again, "{status}");
    }
}

#[test]
fn a_revoked_platform_is_refused_from_the_next_list_on() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let revoked = Statements {
        revoked: true,
        ..td.statements()
    };
    assert_eq!(post(&world, &messages(&td.intel, &revoked)[2]), 0);
    tvm.set_blocks(NOW, LAST, &[(BLOCK, BLOCK_ROOT)]);
    let attest = build(&td.attest(&world.claim(BLOCK)));
    let sent = tvm.send("anyone", &world.node, COIN, &attest);
    assert_eq!(sent[1].exit, Some(142));
}

#[test]
fn a_list_that_its_authority_signed_in_another_form_is_not_read() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let td = Emulated::new();
    let world = td.world(&tvm);
    let revoked = Statements {
        revoked: true,
        ..td.statements()
    };
    let collateral = revoked.sign(&td.intel);
    let parts = collateral.parts();
    let [authority, _] = pem::certificates::<2>(parts.pck_crl_issuer_chain).unwrap();
    let key: [u8; 64] = Certificate::parse(&authority).unwrap().key.point[1..]
        .try_into()
        .unwrap();
    let good = PostAuthorityList::new(3, parts.pck_crl, &authority).unwrap();
    let body = bytes_of(&good.list);
    let all = |tag: &[u8]| -> Vec<usize> {
        let starts = 0..body.len() - tag.len();
        starts.filter(|at| body[*at..].starts_with(tag)).collect()
    };
    let [this, _next, entrys] = all(&[0x17, 0x0d])[..] else {
        panic!("a list with one entry has three times");
    };
    let is_entry = |at: &usize| {
        let serial = usize::from(body[at + 3]);
        body[*at] == 0x30 && body[at + 2] == 2 && at + 4 + serial == entrys
    };
    let entry = (this..entrys - 4).find(is_entry).unwrap();
    let extension = all(&[0x06, 0x03, 0x55, 0x1d])
        .into_iter()
        .find(|at| *at > entrys)
        .unwrap();
    for (name, at, expected) in [
        ("as it is", 0, 0),
        ("another header", 0, 100),
        ("another time", this, 100),
        ("a time of another zone", this + 14, 100),
        ("another entry", entry, 100),
        ("another serial", entry + 2, 100),
        ("another time of an entry", entrys, 100),
        ("another extension", extension - 2, 100),
        ("another identifier", extension, 100),
        ("a critical extension", extension + 5, 100),
    ] {
        let mut changed = body.clone();
        changed[at] ^= u8::from(expected != 0);
        let digest = Sha256::digest(&changed).into();
        let signature = td.intel.sign_list(&changed);
        let message = PostAuthorityList {
            list: in_place_of(&good.list, &changed),
            signature: Signature::new(&key, &digest, &signature).unwrap(),
            ..good.clone()
        };
        assert_eq!(post(&world, &build(&message)), expected, "{name}");
    }
}

/// Of a chain of cells.
fn bytes_of(chain: &Cell) -> Vec<u8> {
    let rest = chain.references().cloned().next();
    let rest = rest.map(|next| bytes_of(&next)).unwrap_or_default();
    [chain.data(), &rest].concat()
}

/// A chain with these bytes, cut where another one is.
fn in_place_of(chain: &Cell, bytes: &[u8]) -> Cell {
    let (here, rest) = bytes.split_at(chain.data().len());
    let mut builder = CellBuilder::new();
    builder.store_raw(here, chain.bit_len()).unwrap();
    for next in chain.references().cloned() {
        builder.store_reference(in_place_of(&next, rest)).unwrap();
    }
    builder.build().unwrap()
}

/// Root list, authority, its list, TCB info, QE identity.
fn messages(intel: &Intel, statements: &Statements) -> [Cell; 5] {
    let collateral = statements.sign(intel);
    let parts = collateral.parts();
    let [authority, root] = pem::certificates(parts.pck_crl_issuer_chain).unwrap();
    let chain = pem::certificates(parts.tcb_info_issuer_chain).unwrap();
    [
        build(&PostRootList::new(1, parts.root_crl, &root).unwrap()),
        build(&PostAuthority::new(2, &authority, &root).unwrap()),
        build(&PostAuthorityList::new(3, parts.pck_crl, &authority).unwrap()),
        build(&PostTcbInfo::new(4, parts.tcb_info, &chain).unwrap()),
        build(&PostQeIdentity::new(5, parts.qe_identity, &chain).unwrap()),
    ]
}

fn post(world: &World<'_>, message: &Cell) -> i32 {
    let sent = world.tvm.send("relayer", &world.collateral, COIN, message);
    sent[0].exit.unwrap()
}
