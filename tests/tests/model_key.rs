//! Who gets the key of a private model, and from whom a machine takes one.

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::keys::{Cause, ask};
use attestation::appraisal::{Check, chain};
use attestation::binding::{Nonce, ReportData};
use attestation::config::{KEY_LEN, KeySource, Measured};
use attestation::evidence::PlatformEvidence;
use attestation::model_key::{GrantError, KeyAnswer, KeyRefusal, KeyRequest};
use attestation::register::{Digest256, Digest384};
use attestation::vtpm::{Credential, Endorsement};
use client::model::key::{KeyFile, ModelKey};
use client::model::keyserver::{Owner, RefusedKey, Released};
use client::release::key::SigningKey;
use session::client::connect;
use session::frame;
use session::provider::{Provider, ProviderError};
use session::server::Worker;
use tests::adversary;
use tests::quote::{DEBUG, TdState};
use tests::td::Td;
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

type Asked = Result<Zeroizing<[u8; KEY_LEN]>, Cause>;
type Answered = Result<Released, RefusedKey>;

/// An owner of the models 1 and 2, and a configuration that names the first.
struct Story {
    owner: Owner,
    source: KeySource,
    key: [u8; KEY_LEN],
}

const ROOT: Digest256 = Digest256::from_bytes([1; 32]);
const NINES: Digest384 = Digest384::from_bytes([9; 48]);
const OTHER: Digest256 = Digest256::from_bytes([2; 32]);

impl Story {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = SigningKey::generate(&folder.path().join("identity")).unwrap();
        let file = |root| KeyFile {
            model: "me/private@1".into(),
            root,
            key: ModelKey::generate().unwrap(),
        };
        let keys = BTreeMap::from([ROOT, OTHER].map(|root| (root, file(root))));
        let key = &keys[&ROOT].key;
        let source = KeySource {
            sha256: key.digest(),
            server: identity.public().id(),
        };
        let key = **key.bytes();
        let mut story = Self {
            owner: Owner {
                policy: Td::new().policy(),
                configs: BTreeMap::new(),
                keys,
                identity,
            },
            source,
            key,
        };
        story.configure(ROOT, source);
        story
    }

    /// What the published machine was told.
    fn configure(&mut self, root: Digest256, source: KeySource) {
        let KeySource { sha256, server } = source;
        let salt = "0".repeat(64);
        let text = format!(
            "version = 1\nrole = \"worker\"\n[[model]]\nname = \"m\"\n\
             verity = \"sha256:{root}:{salt}:7\"\n\
             key = {{ sha256 = \"{sha256}\", server = \"{server}\" }}\n"
        );
        let measured = Measured::parse(text.as_bytes()).unwrap();
        self.owner.configs = [(Td::MRCONFIGID.to_string(), measured)].into();
    }

    async fn ask(&self, machine: impl Provider) -> (Asked, Answered) {
        self.ask_for(machine, ROOT, self.source).await
    }

    async fn ask_for(
        &self,
        machine: impl Provider,
        root: Digest256,
        source: KeySource,
    ) -> (Asked, Answered) {
        let worker = Worker::start(Arc::new(machine)).await.unwrap();
        let (here, there) = tokio::io::duplex(1 << 16);
        tokio::join!(ask(&worker, here, &source, &root), self.owner.answer(there))
    }
}

fn failed(answered: Answered) -> Vec<&'static str> {
    let refused = answered.unwrap_err();
    let failed = |check: &&Check| !check.passed;
    refused
        .checks()
        .iter()
        .filter(failed)
        .map(|check| check.name)
        .collect()
}

#[tokio::test]
async fn the_published_machine_gets_the_key_of_its_model() {
    let story = Story::new();
    let (asked, answered) = story.ask(Td::new()).await;
    assert_eq!(*asked.unwrap(), story.key);
    let released = answered.unwrap();
    assert_eq!(released.model, "me/private@1");
    let proved = |name| released.checks.iter().any(|check| check.name == name);
    assert!(proved("mrtd") && proved("mrconfigid"));
}

#[tokio::test]
async fn a_machine_that_differs_gets_nothing_and_the_owner_reads_in_what() {
    type Change = fn(&mut TdState);
    let cases: [(&str, Change); 3] = [
        ("rtmr2", |td| td.registers.rtmr2 = NINES),
        ("mrconfigid", |td| td.mrconfigid = NINES),
        ("td-debug", |td| td.attributes |= DEBUG),
    ];
    for (name, change) in cases {
        let mut state = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
        change(&mut state);
        let (asked, answered) = Story::new().ask(Td::in_state(state)).await;
        assert!(matches!(asked, Err(Cause::HungUp(_))), "{name}");
        assert_eq!(failed(answered), [name]);
    }
}

/// Shows what Intel said more than a year ago.
struct Stale(Td);

impl Provider for Stale {
    fn endorsement(&self) -> Option<Endorsement> {
        None
    }

    fn attest(
        &self,
        report_data: &ReportData,
        _credential: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let then = now.saturating_sub(Duration::from_secs(400 * 24 * 3600));
        let then = then.as_secs();
        Ok(PlatformEvidence::Tdx {
            quote: self.0.quote(&report_data.0),
            collateral: self.0.collateral(i64::try_from(then)?),
        })
    }

    fn event_log(&self) -> &[u8] {
        self.0.event_log()
    }
}

#[tokio::test]
async fn stale_evidence_gets_nothing() {
    let (asked, answered) = Story::new().ask(Stale(Td::new())).await;
    assert!(matches!(asked, Err(Cause::HungUp(_))));
    assert_eq!(failed(answered), ["collateral"]);
}

#[tokio::test]
async fn evidence_of_another_channel_or_an_earlier_one_gets_nothing() {
    let story = Story::new();
    let worker = Worker::start(Arc::new(Td::new())).await.unwrap();
    let genuine = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = genuine.local_addr().unwrap();
    let machine = tokio::spawn(async move {
        let (tcp, _) = genuine.accept().await.unwrap();
        ask(&worker, tcp, &Story::new().source, &ROOT).await
    });
    let middle = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = middle.local_addr().unwrap();
    let adversary = tokio::spawn(async move {
        let recorded = adversary::relay(&middle, address).await?;
        adversary::replay(&middle, &recorded).await
    });
    for _relayed_then_replayed in 0..2 {
        let tcp = TcpStream::connect(between).await.unwrap();
        assert_eq!(failed(story.owner.answer(tcp).await), ["report-data"]);
    }
    adversary.await.unwrap().unwrap();
    assert!(machine.await.unwrap().is_err());
}

#[tokio::test]
async fn a_trusted_machine_gets_no_key_but_those_that_it_was_configured_with() {
    let mut story = Story::new();
    let refusal = |(asked, answered): (Asked, Answered)| {
        let Err(RefusedKey::Model { refusal, .. }) = answered else {
            panic!("not refused for its model");
        };
        assert!(matches!(asked, Err(Cause::Refused(told)) if told == refusal));
        refusal
    };
    let unknown = Digest256::from_bytes([3; 32]);
    let asked = story.ask_for(Td::new(), unknown, story.source).await;
    assert_eq!(refusal(asked), KeyRefusal::Unknown);
    let asked = story.ask_for(Td::new(), OTHER, story.source).await;
    assert_eq!(refusal(asked), KeyRefusal::NotConfigured);

    // The same model with another key, and by another server.
    let source = story.source;
    for other in [
        KeySource {
            sha256: OTHER,
            ..source
        },
        KeySource {
            server: OTHER,
            ..source
        },
    ] {
        story.configure(ROOT, other);
        assert_eq!(
            refusal(story.ask(Td::new()).await),
            KeyRefusal::NotConfigured
        );
    }
}

#[tokio::test]
async fn a_machine_takes_no_key_but_the_measured_one_from_the_measured_server() {
    let story = Story::new();
    let (sha256, server) = (story.source.sha256, story.source.server);
    let with = |source| story.ask_for(Td::new(), ROOT, source);
    let (asked, _) = with(KeySource {
        sha256,
        server: OTHER,
    })
    .await;
    let Err(Cause::Grant(error)) = asked else {
        panic!("another server was believed");
    };
    assert_eq!(
        error,
        GrantError::Server {
            found: server,
            expected: OTHER
        }
    );
    let (asked, _) = with(KeySource {
        sha256: OTHER,
        server,
    })
    .await;
    let Err(Cause::Grant(error)) = asked else {
        panic!("another key was taken");
    };
    assert_eq!(
        error,
        GrantError::Key {
            found: sha256,
            expected: OTHER
        }
    );
}

#[tokio::test]
async fn a_key_that_was_given_in_another_session_is_not_taken() {
    let story = Story::new();
    let policy = Td::new().policy();
    let worker = Worker::start(Arc::new(Td::new())).await.unwrap();

    // A genuine grant, as a machine that may have it would record it.
    let (here, there) = tokio::io::duplex(1 << 16);
    let recorded = async {
        let (mut stream, _) = worker.accept(here).await.unwrap();
        let request = KeyRequest {
            nonce: [7; 32],
            root: *ROOT.as_bytes(),
        };
        frame::write(&mut stream, &request).await.unwrap();
        let ekm = stream.exporter().export(&Nonce(request.nonce)).unwrap();
        let answer = frame::read(&mut stream, KeyAnswer::MAX).await.unwrap();
        let KeyAnswer::Key(grant) = answer else {
            panic!("no key");
        };
        assert!(grant.verify(&story.source, &ekm, &ROOT).is_ok());
        assert_eq!(
            grant.verify(&story.source, &ekm, &OTHER),
            Err(GrantError::Forged)
        );
        KeyAnswer::Key(grant)
    };
    let (recorded, _) = tokio::join!(recorded, story.owner.answer(there));

    let (here, there) = tokio::io::duplex(1 << 16);
    let replay = async {
        let mut session = connect(there, &policy).await.unwrap();
        let _: KeyRequest = frame::read(&mut session.stream, KeyRequest::MAX)
            .await
            .unwrap();
        frame::write(&mut session.stream, &recorded).await.unwrap();
    };
    let (asked, ()) = tokio::join!(ask(&worker, here, &story.source, &ROOT), replay);
    let error = asked.unwrap_err();
    assert!(
        matches!(error, Cause::Grant(GrantError::Forged)),
        "{}",
        chain(&error)
    );
}
