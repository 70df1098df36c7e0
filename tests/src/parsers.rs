//! Every reader of somebody else's bytes: one table for the fuzz targets (`fuzz/`)
//! and for the test of their seeds.
//!
//! A reader behind a signature gets its bytes signed first, by keys that anyone
//! has; nothing that a fuzzer makes up would get past the door.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use attestation::aci::{Keyset, Opening, Signed};
use attestation::certificate::Certificate;
use attestation::config::{Measured, Unmeasured};
use attestation::crl::Crl;
use attestation::eventlog::Log;
use attestation::evidence::GpuEvidence;
use attestation::model_key::{KeyAnswer, KeyGrant, KeyRefusal, KeyRequest};
use attestation::nvidia::{Report, Revocation, Rim};
use attestation::protocol::{Refusal, Request, Response};
use attestation::tdx::{CollateralParts, Quote, QuotePolicy};
use attestation::verity::Verity;
use attestation::{cbor, pem, ratls};
use chain::bag;
use chain::network::Network;
use chain::tl::{self, Answer};
use image::ImageFormat;
use measurements::acpi::Blobs;
use measurements::hob::td_hob;
use measurements::initrd::Initrd;
use measurements::kernel::served;
use measurements::pe::authenticode;
use measurements::release::Release;
use measurements::tdvf::Tdvf;
use measurements::volume::Volumes;
use media::{Audio, Image};
use sealed::{
    Assignment, AssignmentRequest, Envelope, Offer, RequestHead, ResponseHead, Settlement,
};

use good::{
    DATA, EK, FILLED_IN, GOOD, MEASURED, MEMORY, POLICY, RIM_AT, TPM_LOG, UNMEASURED, answers,
    binding, challenge, document, endorsed, endorsement, evidence, gpu_chain, path, sgx_extension,
    told, verity,
};
use paper_td::Paper;
use paper_td::pki;
use paper_tpm::{AkPublic, Attest};

// The path is said because `fuzz` includes this file from elsewhere.
#[path = "parsers/cuts.rs"]
mod cuts;
#[path = "parsers/files.rs"]
mod files;
#[path = "parsers/good.rs"]
mod good;
#[path = "parsers/receipts.rs"]
mod receipts;
#[path = "parsers/seals.rs"]
mod seals;
#[path = "parsers/small.rs"]
mod small;
#[path = "parsers/ton.rs"]
mod ton;

#[path = "../../attestation/tests/paper_td/mod.rs"]
mod paper_td;
#[allow(
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "helpers of tests, of which this uses a part"
)]
#[path = "../../attestation/tests/paper_tpm/mod.rs"]
mod paper_tpm;

/// One reader.
#[derive(Clone, Copy, Debug)]
pub struct Parser {
    /// As `cargo xtask fuzz` calls it.
    pub name: &'static str,
    /// Reads, and says whether it took the bytes.
    pub read: fn(&[u8]) -> bool,
    /// Good inputs that code makes.
    made: fn() -> Vec<Vec<u8>>,
    /// Recorded ones: how their paths end.
    recorded: &'static [&'static str],
    /// A good one with so many of what there may be many of.
    pub grown: Option<fn(usize) -> Vec<u8>>,
}

/// All of them.
pub const PARSERS: &[Parser] = &[
    Parser {
        name: "quote",
        read: |bytes| Quote::parse(bytes).is_ok_and(|quote| quote.unverified_platform().is_some()),
        made: || vec![GOOD.quote.clone(), Paper::td15_ex().build().quote],
        recorded: &[".quote.bin"],
        ..NOTHING
    },
    Parser {
        name: "tcb-info",
        read: |bytes| {
            document(bytes, "tcbInfo", |text| CollateralParts {
                tcb_info: text,
                ..GOOD.parts()
            })
        },
        made: || vec![Paper::good().tcb_info.to_string().into()],
        recorded: &["tcb_info.json"],
        grown: Some(|count| {
            let mut paper = Paper::good();
            let level = paper.tcb_info["tcbLevels"][1].clone();
            paper.tcb_info["tcbLevels"] = vec![level; count].into();
            paper.tcb_info.to_string().into()
        }),
    },
    Parser {
        name: "qe-identity",
        read: |bytes| {
            document(bytes, "enclaveIdentity", |text| CollateralParts {
                qe_identity: text,
                ..GOOD.parts()
            })
        },
        made: || vec![Paper::good().qe_identity.to_string().into()],
        recorded: &["td_qe_identity.json"],
        grown: Some(|count| {
            let mut paper = Paper::good();
            let level = paper.qe_identity["tcbLevels"][1].clone();
            paper.qe_identity["tcbLevels"] = vec![level; count].into();
            paper.qe_identity.to_string().into()
        }),
    },
    Parser {
        name: "certificate",
        read: |bytes| Certificate::parse(bytes).is_ok_and(|read| read.common_name().is_ok()),
        made: || {
            [Paper::good().pck, Paper::good().root]
                .map(|paper| paper.sign())
                .into()
        },
        recorded: &["root_ca.der"],
        grown: Some(|count| {
            let mut paper = Paper::good();
            let unknown = pki::extension(&[0x2a, 3], false, &[5, 0]);
            paper.pck.extensions.extend(vec![unknown; count]);
            paper.pck.sign()
        }),
    },
    Parser {
        name: "crl",
        read: |bytes| Crl::parse(bytes).is_ok(),
        made: || vec![GOOD.pck_crl.clone()],
        recorded: &["crl.der"],
        grown: Some(|count| {
            let mut paper = Paper::good();
            let revoked =
                (1..=count).map(|serial| ([&[1], &serial.to_be_bytes()[..]].concat(), vec![]));
            paper.pck_crl.revoked = revoked.collect();
            paper.pck_crl.sign()
        }),
    },
    Parser {
        name: "sgx-extension",
        read: sgx_extension,
        made: || vec![paper_td::der::sequence(&pki::sgx_fields())],
        ..NOTHING
    },
    Parser {
        name: "pem",
        read: |bytes| {
            let after = pem::after_first(bytes);
            pem::certificates::<2>(bytes).is_ok() && pem::certificates::<1>(after).is_ok()
        },
        made: || {
            vec![
                GOOD.tcb_chain.clone().into(),
                GOOD.tcb_chain.replace('\n', "\r\n").into(),
            ]
        },
        recorded: &["issuer_chain.pem"],
        ..NOTHING
    },
    Parser {
        name: "tpm-log",
        made: || vec![TPM_LOG.into()],
        read: |bytes| {
            Log::parse_tpm(bytes).is_ok_and(|log| log.replay_pcrs().is_ok() && told(&log))
        },
        recorded: &["eventlog.bin", "event_log.bin"],
        ..NOTHING
    },
    Parser {
        name: "ccel",
        read: |bytes| {
            Log::parse_ccel(bytes).is_ok_and(|log| log.replay_rtmrs().is_ok() && told(&log))
        },
        recorded: &[
            "CCEL_data",
            "CCEL_data_gcp",
            "ccel_data.dat",
            "ccel_data.bin",
        ],
        ..NOTHING
    },
    Parser {
        name: "tpm-certificate",
        read: |bytes| endorsed(bytes, &AkPublic::GOOD.marshal()).is_some(),
        made: || vec![EK.clone()],
        ..NOTHING
    },
    Parser {
        name: "tpm-key",
        read: |bytes| endorsed(&EK, bytes).is_some(),
        made: || vec![AkPublic::GOOD.marshal()],
        ..NOTHING
    },
    Parser {
        name: "tpm-quote",
        read: |bytes| answers(bytes, paper_tpm::sign(bytes)),
        made: || vec![Attest::good(&DATA).marshal()],
        ..NOTHING
    },
    Parser {
        name: "tpm-signature",
        read: |bytes| answers(&Attest::good(&DATA).marshal(), bytes.to_vec()),
        made: || vec![paper_tpm::sign(&Attest::good(&DATA).marshal())],
        ..NOTHING
    },
    Parser {
        name: "request",
        read: |bytes| cbor::decode::<Request>(bytes).is_ok(),
        made: || {
            vec![
                cbor::encode(&Request::Challenge([7; 32])),
                cbor::encode(&Request::Credential(challenge().credential().clone())),
            ]
        },
        ..NOTHING
    },
    Parser {
        name: "response",
        read: |bytes| match cbor::decode(bytes) {
            Ok(Response::Evidence(_, path)) => path.head(&binding()).is_ok(),
            response => response.is_ok(),
        },
        made: || {
            vec![
                cbor::encode(&Response::Evidence(Box::new(evidence()), path())),
                cbor::encode(&Response::Endorsement(endorsement(EK.clone(), vec![1]))),
                cbor::encode(&Response::Refused(Refusal::Busy)),
            ]
        },
        grown: Some(|count| {
            let gpu = GpuEvidence {
                report: vec![1; 40],
                chain: vec![2; 40],
            };
            let mut evidence = evidence();
            evidence.gpus = vec![gpu; count];
            cbor::encode(&Response::Evidence(Box::new(evidence), path()))
        }),
        ..NOTHING
    },
    Parser {
        name: "key-request",
        read: |bytes| cbor::decode::<KeyRequest>(bytes).is_ok(),
        made: || {
            let (nonce, root) = ([7; 32], [8; 32]);
            vec![cbor::encode(&KeyRequest { nonce, root })]
        },
        ..NOTHING
    },
    Parser {
        name: "key-answer",
        read: |bytes| cbor::decode::<KeyAnswer>(bytes).is_ok(),
        made: || {
            let grant = KeyGrant {
                key: [1; 64],
                spki: vec![2; 91],
                signature: vec![3; 64],
            };
            vec![
                cbor::encode(&KeyAnswer::Key(grant)),
                cbor::encode(&KeyAnswer::Refused(KeyRefusal::Unknown)),
            ]
        },
        ..NOTHING
    },
    Parser {
        name: "ra-tls",
        read: |bytes| ratls::read_extension(bytes).is_ok(),
        made: || vec![ratls::extension(&GOOD.quote, &ratls::claims_for(b"key"))],
        ..NOTHING
    },
    Parser {
        name: "measured-config",
        read: |bytes| Measured::parse(bytes).is_ok(),
        made: || vec![MEASURED.into()],
        grown: Some(|count| {
            let mut text = String::from("version = 1\nrole = \"worker\"\n");
            for name in 0..count {
                text += &format!("[[model]]\nname = \"m{name}\"\nverity = \"{}\"\n", verity());
            }
            text.into()
        }),
        ..NOTHING
    },
    Parser {
        name: "unmeasured-config",
        read: |bytes| Unmeasured::parse(bytes).is_ok(),
        made: || vec![UNMEASURED.into()],
        ..NOTHING
    },
    Parser {
        name: "policy",
        read: |bytes| toml::from_slice::<QuotePolicy>(bytes).is_ok(),
        made: || vec![POLICY.into()],
        grown: Some(|count| {
            let names: Vec<_> = (0..count).map(|name| format!("SA-{name}")).collect();
            format!("[platform]\nadvisories = {names:?}").into()
        }),
        ..NOTHING
    },
    Parser {
        name: "verity",
        read: |bytes| str::from_utf8(bytes).is_ok_and(|text| text.parse::<Verity>().is_ok()),
        made: || vec![verity().into()],
        ..NOTHING
    },
    Parser {
        name: "release",
        read: |bytes| Release::parse(bytes).is_ok(),
        made: || vec![include_bytes!("../../measurements/releases/current.json").into()],
        ..NOTHING
    },
    Parser {
        name: "tdvf",
        read: |bytes| Tdvf::parse(bytes).is_ok_and(|file| td_hob(&file, MEMORY).is_ok()),
        made: || vec![small::tdvf()],
        ..NOTHING
    },
    Parser {
        name: "volumes",
        read: |bytes| Volumes::unpack(bytes).is_ok(),
        made: || vec![small::volume()],
        ..NOTHING
    },
    Parser {
        name: "pe",
        read: |bytes| authenticode(bytes).is_ok(),
        made: || vec![small::pe()],
        ..NOTHING
    },
    Parser {
        name: "kernel",
        read: |bytes| served(bytes, FILLED_IN).is_ok(),
        made: || vec![small::kernel()],
        ..NOTHING
    },
    Parser {
        name: "initrd",
        read: |bytes| Initrd::parse(bytes).is_ok(),
        made: || vec![small::initrd(verity().as_bytes())],
        ..NOTHING
    },
    Parser {
        name: "acpi-loader",
        read: |bytes| Blobs::new(bytes, &[1; 36], &[2; 64]).measured().is_ok(),
        recorded: &["table_loader.bin"],
        ..NOTHING
    },
    Parser {
        name: "gpu-report",
        read: |bytes| Report::parse(bytes).is_ok(),
        recorded: &[".report.bin"],
        ..NOTHING
    },
    Parser {
        name: "gpu-chain",
        read: gpu_chain,
        recorded: &["hopper_sample.chain.pem", "mock.chain.pem"],
        ..NOTHING
    },
    Parser {
        name: "rim",
        read: |bytes| Rim::verify(bytes, &Revocation::default(), RIM_AT).is_ok(),
        recorded: &[
            "1010_0200_882_96005E0001_PROD.swidtag",
            "_test_no_gpu.swidtag",
        ],
        ..NOTHING
    },
    Parser {
        name: "ocsp",
        read: |bytes| Revocation::parse([], [bytes]).is_ok(),
        made: || vec![small::ocsp(1)],
        grown: Some(small::ocsp),
        ..NOTHING
    },
    Parser {
        name: "receipt",
        read: |bytes| Signed::parse(bytes).is_ok(),
        made: || vec![receipts::receipt(1)],
        grown: Some(receipts::receipt),
        ..NOTHING
    },
    Parser {
        name: "keyset",
        read: |bytes| Keyset::parse(bytes).is_ok(),
        made: || vec![receipts::keyset()],
        ..NOTHING
    },
    Parser {
        name: "opening",
        read: |bytes| Opening::parse(bytes).is_ok(),
        made: || vec![receipts::opening(1)],
        grown: Some(receipts::opening),
        ..NOTHING
    },
    Parser {
        name: "voucher",
        read: ton::voucher,
        made: || vec![ton::owed()],
        ..NOTHING
    },
    Parser {
        name: "cut-authority",
        read: cuts::authority,
        made: || vec![cuts::body()],
        ..NOTHING
    },
    Parser {
        name: "cut-list",
        read: cuts::list,
        made: || vec![cuts::listed(2), cuts::listed(0)],
        grown: Some(cuts::listed),
        ..NOTHING
    },
    Parser {
        name: "cut-quote",
        read: cuts::quote,
        made: || {
            [Paper::good(), Paper::td15_ex()]
                .map(|paper| cuts::whole(&paper))
                .into()
        },
        ..NOTHING
    },
    Parser {
        name: "cut-tcb-info",
        read: cuts::tcb_info,
        made: || vec![Paper::good().tcb_info.to_string().into()],
        ..NOTHING
    },
    Parser {
        name: "cells",
        read: |bytes| bag::some_roots(bytes, 2).is_ok(),
        made: || vec![ton::owed()],
        ..NOTHING
    },
    Parser {
        name: "liteserver",
        read: |bytes| tl::read::<Answer>(bytes).is_ok(),
        made: || vec![ton::proof(1)],
        grown: Some(ton::proof),
        ..NOTHING
    },
    Parser {
        name: "network",
        read: |bytes| str::from_utf8(bytes).is_ok_and(|text| Network::parse(text).is_ok()),
        made: || vec![ton::network(1)],
        grown: Some(ton::network),
        ..NOTHING
    },
    Parser {
        name: "envelope",
        read: |bytes| Envelope::parse(bytes).is_ok(),
        made: || vec![seals::envelope().encode()],
        ..NOTHING
    },
    Parser {
        name: "sealed-request",
        read: |bytes| seals::open(bytes).is_ok(),
        made: || vec![seals::request(1).0],
        grown: Some(|chunks| seals::request(chunks).0),
        ..NOTHING
    },
    Parser {
        name: "sealed-response",
        read: |bytes| seals::hear(bytes).is_ok(),
        made: || vec![seals::response(1)],
        grown: Some(seals::response),
        ..NOTHING
    },
    Parser {
        name: "sealed-head",
        read: |bytes| RequestHead::parse(bytes).is_ok() || ResponseHead::parse(bytes).is_ok(),
        made: || vec![seals::head(1).encode(), seals::response_head(1)],
        grown: Some(|headers| seals::head(headers).encode()),
        ..NOTHING
    },
    Parser {
        name: "settlement",
        read: |bytes| Settlement::parse(bytes).is_ok(),
        made: || vec![seals::settlement()],
        ..NOTHING
    },
    Parser {
        name: "offer",
        read: |bytes| serde_json::from_slice::<Offer>(bytes).is_ok(),
        made: || vec![seals::offer(1)],
        grown: Some(seals::offer),
        ..NOTHING
    },
    Parser {
        name: "assignment",
        read: |bytes| {
            serde_json::from_slice::<Assignment>(bytes).is_ok()
                || serde_json::from_slice::<AssignmentRequest>(bytes).is_ok()
        },
        made: seals::assignment,
        ..NOTHING
    },
    Parser {
        name: "image",
        read: |bytes| Image::new(bytes.to_vec()).is_ok_and(|image| image.decode().is_ok()),
        made: files::images,
        grown: Some(|count| files::image(count, ImageFormat::Png)),
        ..NOTHING
    },
    Parser {
        name: "sound",
        read: |bytes| Audio::decode(bytes).is_ok(),
        made: files::sounds,
        grown: Some(files::sound),
        ..NOTHING
    },
];

const NOTHING: Parser = Parser {
    name: "",
    read: |_| false,
    made: Vec::new,
    recorded: &[],
    grown: None,
};

impl Parser {
    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        PARSERS.iter().find(|parser| parser.name == name)
    }

    /// Inputs that it takes, or that others made for it.
    pub fn seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut seeds = (self.made)();
        if let Some(vectors) = vectors() {
            add_recorded(&vectors, self.recorded, &mut seeds)?;
        }
        Ok(seeds)
    }
}

/// Where recorded evidence lies, if it is there.
#[must_use]
pub fn vectors() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let path = env::var_os("COCOON_VECTORS").map_or_else(beside, PathBuf::from);
    path.is_dir().then_some(path)
}

fn add_recorded(folder: &Path, endings: &[&str], seeds: &mut Vec<Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            add_recorded(&path, endings, seeds)?;
        } else if endings
            .iter()
            .any(|ending| path.to_string_lossy().ends_with(ending))
        {
            seeds.push(fs::read(path)?);
        }
    }
    Ok(())
}
