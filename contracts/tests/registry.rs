//! Builders decide: together, in turn, in sight of everyone.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod tvm;
mod world;

use attestation::register::Digest384;
use contracts::cells::{Bytes, Moment};
use contracts::code::Code;
use contracts::messages::{Admit, Admitted, Lacks};
use contracts::registry::{
    Apply, Build, Change, Configuration, Decide, Governance, Model, Order, Policy, Published,
    State, Waiting, configuration_key,
};
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Load as _};
use tycho_types::dict::Dict;
use tycho_types::models::StdAddr;

use tvm::{Tvm, load};
use world::{COIN, GLOBAL_ID, POLICY, World, build, builder, software};

const NOW: u32 = 1_800_000_000;
const DELAY: u32 = 24 * 3600;
const KEY: HashBytes = HashBytes([7; 32]);
const CONFIGURATION: [u8; 48] = [8; 48];

#[test]
fn a_change_that_lets_more_in_waits_in_sight_and_anyone_has_it_applied() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    assert_eq!(registry.decide(&put_build(1), &[0, 1]), 0);
    let state = registry.state();
    assert_eq!(state.turn, 1);
    assert!(state.published.load().unwrap().builds.is_empty());
    let Waiting { from, change } = state.waiting.get(0).unwrap().unwrap();
    assert_eq!(from, Moment(u64::from(NOW + DELAY)));
    let seen = Change::load_from(&mut change.as_slice_allow_exotic()).unwrap();
    assert_eq!(seen, put_build(1));

    assert_eq!(registry.apply(1), 165, "another turn");
    tvm.set_time(NOW + DELAY - 1);
    assert_eq!(registry.apply(0), 165, "too soon");
    tvm.set_time(NOW + DELAY);
    assert_eq!(registry.apply(0), 0);
    let published = registry.state().published.load().unwrap();
    assert_eq!(published.builds.get(KEY).unwrap(), Some(record(1)));
    assert_eq!(registry.apply(0), 165, "once");
}

#[test]
fn an_order_needs_enough_builders_its_turn_its_place_and_its_time() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    let change = put_build(1);
    let order = registry.order(&change);
    assert_eq!(registry.decide(&change, &[0]), 161, "one of two");
    assert_eq!(registry.decide(&change, &[]), 161, "nobody");
    let mut unknown = registry.signed(&order, &[0, 1]);
    let strange = Bytes(builder(9).sign(&hash(&order)).as_ref().try_into().unwrap());
    unknown.signatures.set(9, strange).unwrap();
    assert_eq!(
        registry.send(&build(&unknown)),
        161,
        "a third who is no builder"
    );
    let mut forged = registry.signed(&order, &[0]);
    let again = forged.signatures.get(0).unwrap().unwrap();
    forged.signatures.set(1, again).unwrap();
    assert_eq!(registry.send(&build(&forged)), 161, "one builder twice");

    let refuse = |exit: i32, name: &str, change: &dyn Fn(&mut Order)| {
        let mut order = order.clone();
        change(&mut order);
        let decide = registry.signed(&order, &[0, 1, 2]);
        assert_eq!(registry.send(&build(&decide)), exit, "{name}");
    };
    refuse(162, "another network", &|order| order.global_id = -3);
    refuse(162, "another Registry", &|order| {
        order.registry = tvm.wallet("owner")
    });
    refuse(162, "a later turn", &|order| order.turn = 1);
    let late = Moment(u64::from(NOW - 1));
    refuse(163, "too late", &|order| order.valid_until = late);

    let in_time = Order {
        valid_until: Moment(u64::from(NOW)),
        ..order.clone()
    };
    let decide = build(&registry.signed(&in_time, &[0, 2]));
    assert_eq!(registry.send(&decide), 0);
    assert_eq!(registry.send(&decide), 162, "replay");
}

#[test]
fn whatever_lets_less_in_holds_at_once_and_never_lets_more_in() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    let soon = Moment(u64::from(NOW + 10));
    let end_build = |until| Change::EndBuild { build: KEY, until };
    let configuration = configuration_key(&Digest384::from_bytes(CONFIGURATION));
    let end_configuration = |until| Change::EndConfiguration {
        configuration,
        until,
    };
    assert_eq!(registry.decide(&end_build(soon), &[0, 1]), 164, "unknown");
    assert_eq!(
        registry.decide(&end_configuration(soon), &[0, 1]),
        164,
        "unknown"
    );
    registry.publish();

    let ends: [&dyn Fn(Moment) -> Change; 2] = [&end_build, &end_configuration];
    for end in ends {
        let now = Moment(u64::from(registry.now.get()));
        assert_eq!(registry.admit(), 0);
        assert_eq!(
            registry.decide(&end(Moment::FOREVER), &[0, 1]),
            166,
            "not sooner"
        );
        assert_eq!(registry.decide(&end(now), &[0, 1]), 0);
        assert!(registry.state().waiting.is_empty(), "nothing is left to do");
        let found = registry.admit();
        assert!([170, 171].contains(&found), "{found}");
        assert_eq!(registry.decide(&end(now), &[0, 1]), 166, "not sooner again");
        registry.publish();
    }

    let as_it_is = Policy {
        min_version: 1,
        ..POLICY
    };
    assert_eq!(
        registry.decide(&Change::Tighten { policy: as_it_is }, &[0, 1]),
        0
    );
    assert_eq!(registry.admit(), 0);
    let tighter = Policy {
        min_version: 2,
        ..POLICY
    };
    assert_eq!(
        registry.decide(&Change::Tighten { policy: tighter }, &[0, 1]),
        0
    );
    assert_eq!(registry.admit(), 174);
    assert!(registry.state().waiting.is_empty());
    for looser in [
        POLICY,
        Policy {
            tolerated: Lacks::UPDATE,
            ..tighter
        },
        Policy {
            lifetime: POLICY.lifetime + 1,
            ..tighter
        },
    ] {
        let change = Change::Tighten { policy: looser };
        assert_eq!(registry.decide(&change, &[0, 1]), 166);
    }
}

#[test]
fn a_build_that_is_not_for_workers_makes_no_worker() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    registry.publish();
    let another = Build {
        roles: 2,
        ..record(1)
    };
    let change = Change::PutBuild {
        build: KEY,
        record: another,
    };
    assert_eq!(registry.enact(&change), 0);
    assert_eq!(registry.admit(), 175);
}

#[test]
fn an_attestation_ends_with_the_first_of_what_it_rests_on() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    registry.publish();
    let until = |hardware: Moment| {
        let admit = Admit {
            until: hardware,
            ..registry.admission()
        };
        let sent = tvm.forge(
            &registry.collateral,
            &registry.address,
            COIN,
            &build(&admit),
        );
        let admitted: Admitted = load(&sent[1].body);
        let attestation = admitted.attestation.load().unwrap();
        assert_eq!(
            (attestation.build, attestation.model),
            (KEY, HashBytes([6; 32]))
        );
        attestation.until
    };
    let at = |seconds: u32| Moment(u64::from(registry.now.get() + seconds));
    assert_eq!(until(Moment::FOREVER), at(POLICY.lifetime), "the policy");
    assert_eq!(until(at(1000)), at(1000), "the hardware");
    let configuration = configuration_key(&Digest384::from_bytes(CONFIGURATION));
    let end = Change::EndConfiguration {
        configuration,
        until: at(900),
    };
    assert_eq!(registry.decide(&end, &[0, 1]), 0);
    assert_eq!(until(at(1000)), at(900), "the configuration");
    let end = Change::EndBuild {
        build: KEY,
        until: at(800),
    };
    assert_eq!(registry.decide(&end, &[0, 1]), 0);
    assert_eq!(until(at(1000)), at(800), "the build");
    tvm.set_time(registry.now.get() + 800);
    assert_eq!(registry.admit(), 170, "its end is not part of its time");
}

#[test]
fn hardware_is_held_to_the_policy() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    registry.publish();
    let good = registry.admission();
    let exit = |change: &dyn Fn(&mut Admit)| {
        let mut admit = good.clone();
        change(&mut admit);
        registry.sent_by_collateral(&admit)
    };
    assert_eq!(exit(&|_| {}), 0);
    for lacks in [
        Lacks::HARDENING,
        Lacks::UPDATE,
        Lacks::RELAUNCH,
        Lacks::ADVISED,
    ] {
        assert_eq!(exit(&|admit| admit.lacks = lacks), 172);
    }
    let other = HashBytes([9; 32]);
    let of_other = |build, configuration| {
        let software = Lazy::new(&software(build, &configuration)).unwrap();
        exit(&|admit| admit.software = software.clone())
    };
    assert_eq!(of_other(other, Digest384::from_bytes(CONFIGURATION)), 170);
    assert_eq!(of_other(KEY, Digest384::from_bytes([9; 48])), 171);
    for (min_evaluation, expected) in [(20, 0), (21, 173)] {
        let policy = Policy {
            min_evaluation,
            ..POLICY
        };
        assert_eq!(registry.decide(&Change::Tighten { policy }, &[0, 1]), 0);
        assert_eq!(exit(&|_| {}), expected);
    }
}

#[test]
fn what_waits_can_be_cancelled_and_what_can_govern_nothing_is_refused() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    assert_eq!(registry.decide(&put_build(1), &[0, 1]), 0);
    assert_eq!(registry.decide(&Change::Cancel { turn: 0 }, &[1, 2]), 0);
    assert!(registry.state().waiting.is_empty());
    assert_eq!(registry.decide(&Change::Cancel { turn: 0 }, &[1, 2]), 164);
    registry.wait();
    assert_eq!(registry.apply(0), 165);

    let governance = |threshold, delay, builders: Dict<u8, HashBytes>| {
        let governance = Governance {
            threshold,
            delay,
            builders,
        };
        let governance = Lazy::new(&governance).unwrap();
        Change::SetGovernance { governance }
    };
    let trusting = Policy {
        tolerated: Lacks::TRUST,
        ..POLICY
    };
    for (name, change) in [
        ("nobody", governance(0, DELAY, world::builders())),
        (
            "more than there are",
            governance(4, DELAY, world::builders()),
        ),
        ("no builders", governance(1, DELAY, Dict::new())),
        (
            "no time to watch",
            governance(2, DELAY - 1, world::builders()),
        ),
        ("revoked hardware", Change::SetPolicy { policy: trusting }),
    ] {
        assert_eq!(registry.enact(&change), 167, "{name}");
    }
    // A change that nobody knows waits in vain.
    let order = Order {
        change: Lazy::from_raw(tvm::bytes(&[1, 2, 3, 4])).unwrap(),
        ..registry.order(&put_build(1))
    };
    let turn = order.turn;
    assert_eq!(registry.send(&build(&registry.signed(&order, &[0, 1]))), 0);
    registry.wait();
    assert_eq!(registry.apply(turn), 0xffff);
}

#[test]
fn governance_policy_models_and_code_change_by_order() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let registry = Registry::start(&tvm);
    let policy = Policy {
        tolerated: Lacks::HARDENING,
        ..POLICY
    };
    assert_eq!(registry.enact(&Change::SetPolicy { policy }), 0);
    assert_eq!(registry.state().policy, policy);
    let record = Model {
        name: Bytes(*b"small\0\0\0\0\0\0\0\0\0"),
        price_class: 3,
    };
    assert_eq!(registry.enact(&Change::PutModel { model: KEY, record }), 0);
    let published = registry.state().published.load().unwrap();
    assert_eq!(published.models.get(KEY).unwrap(), Some(record));
    let alone = Governance {
        threshold: 3,
        delay: 2 * DELAY,
        builders: world::builders(),
    };
    let least = Governance {
        threshold: 2,
        delay: DELAY,
        ..alone.clone()
    };
    for next in [least, alone] {
        let governance = Lazy::new(&next).unwrap();
        assert_eq!(registry.enact(&Change::SetGovernance { governance }), 0);
        assert_eq!(registry.state().governance.load().unwrap(), next);
    }
    assert_eq!(registry.decide(&put_build(1), &[0, 1]), 161, "three now");
    let code = Code::P256_PROBE.cell().unwrap();
    assert_eq!(
        registry.decide(&Change::SetCode { code: code.clone() }, &[0, 1, 2]),
        0
    );
    registry.wait();
    registry.wait();
    assert_eq!(registry.apply(registry.state().turn - 1), 0);
    assert_eq!(tvm.code(&registry.address), Some(code));
}

struct Registry<'a> {
    tvm: &'a Tvm,
    address: StdAddr,
    collateral: StdAddr,
    now: std::cell::Cell<u32>,
}

impl<'a> Registry<'a> {
    fn start(tvm: &'a Tvm) -> Self {
        let code = Code::COLLATERAL.cell().unwrap();
        let world = World::start(tvm, NOW, &code, &Published::default());
        Self {
            tvm,
            address: world.registry,
            collateral: world.collateral,
            now: NOW.into(),
        }
    }

    fn state(&self) -> State {
        load(&self.tvm.data(&self.address).unwrap())
    }

    fn send(&self, body: &Cell) -> i32 {
        let sent = self.tvm.send("anyone", &self.address, COIN, body);
        let exit = sent[0].exit.unwrap();
        if exit == 0 {
            assert_eq!(sent[1].to, Some(self.tvm.wallet("anyone")));
            assert!(sent[1].value > COIN * 9 / 10, "what is left goes back");
        }
        exit
    }

    fn order(&self, change: &Change) -> Order {
        Order {
            global_id: GLOBAL_ID,
            registry: self.address.clone(),
            turn: self.state().turn,
            valid_until: Moment::FOREVER,
            change: Lazy::new(change).unwrap(),
        }
    }

    fn signed(&self, order: &Order, builders: &[u8]) -> Decide {
        let mut signatures = Dict::new();
        for number in builders {
            let signature = builder(*number).sign(&hash(order));
            let signature = Bytes(signature.as_ref().try_into().unwrap());
            signatures.set(*number, signature).unwrap();
        }
        Decide {
            query_id: 1,
            order: Lazy::new(order).unwrap(),
            signatures,
        }
    }

    fn decide(&self, change: &Change, builders: &[u8]) -> i32 {
        self.send(&build(&self.signed(&self.order(change), builders)))
    }

    fn apply(&self, turn: u32) -> i32 {
        self.send(&build(&Apply { query_id: 1, turn }))
    }

    fn wait(&self) {
        self.now.set(self.now.get() + DELAY);
        self.tvm.set_time(self.now.get());
    }

    /// Decides, waits and applies.
    fn enact(&self, change: &Change) -> i32 {
        let turn = self.state().turn;
        assert_eq!(self.decide(change, &[0, 1]), 0);
        self.wait();
        self.apply(turn)
    }

    fn publish(&self) {
        let record = Configuration {
            model: HashBytes([6; 32]),
            until: Moment::FOREVER,
        };
        let configuration = configuration_key(&Digest384::from_bytes(CONFIGURATION));
        assert_eq!(self.enact(&put_build(1)), 0);
        let change = Change::PutConfiguration {
            configuration,
            record,
        };
        assert_eq!(self.enact(&change), 0);
    }

    fn admission(&self) -> Admit {
        Admit {
            query_id: 1,
            node: self.tvm.wallet("node"),
            lacks: Lacks(0),
            evaluation: 20,
            until: Moment::FOREVER,
            software: Lazy::new(&software(KEY, &Digest384::from_bytes(CONFIGURATION))).unwrap(),
            claim: Cell::default(),
        }
    }

    fn sent_by_collateral(&self, admit: &Admit) -> i32 {
        let sent = self
            .tvm
            .forge(&self.collateral, &self.address, COIN, &build(admit));
        sent[0].exit.unwrap()
    }

    fn admit(&self) -> i32 {
        self.sent_by_collateral(&self.admission())
    }
}

fn record(version: u32) -> Build {
    Build {
        manifest: HashBytes([3; 32]),
        version,
        roles: 1,
        until: Moment::FOREVER,
    }
}

fn put_build(version: u32) -> Change {
    let record = record(version);
    Change::PutBuild { build: KEY, record }
}

fn hash(order: &Order) -> [u8; 32] {
    CellBuilder::build_from(order).unwrap().repr_hash().0
}
