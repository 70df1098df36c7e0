//! What readers behind a signature get, and good inputs that code makes.

use std::fs;
use std::sync::LazyLock;

use attestation::batch;
use attestation::binding::{Binding, Nonce, ReportData};
use attestation::eventlog::Log;
use attestation::evidence::{
    Collateral as Stapled, Evidence, GpuCollateral, GpuMode, PlatformEvidence, State,
};
use attestation::nvidia::{self, Report, Revocation};
use attestation::register::Digest384;
use attestation::tdx::{Collateral, CollateralParts, Quote, verify};
use attestation::time::UnixTime;
use attestation::verity::{BLOCK, TreeBuilder};
use attestation::vtpm;
use measurements::hob::Memory;
use measurements::kernel::Handover;

use super::paper_td::judge::anchor;
use super::paper_td::pki::{self, Key};
use super::paper_td::{self, Built, Paper, sealed};
use super::paper_tpm::AkPublic;
use super::paper_tpm::der as tpm_pki;
use super::vectors;

/// Signs a document of Intel's again, or its inside, and judges a quote by it.
pub(super) fn document(bytes: &[u8], name: &str, parts: fn(&str) -> CollateralParts<'_>) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    let inside = text
        .strip_prefix(&format!("{{\"{name}\":"))
        .and_then(|rest| rest.rsplit_once(",\"signature\""))
        .map_or(text, |(inside, _)| inside);
    let document = sealed(name, inside, Key::TCB_SIGNING);
    let collateral = Collateral::verify_under(&anchor(&GOOD), parts(&document), paper_td::AT);
    let quote = Quote::parse(&GOOD.quote).expect("is good");
    collateral.is_ok_and(|collateral| verify(quote, &collateral, paper_td::AT).is_ok())
}

/// Reads Intel's extension in the certificate of a quote's platform.
pub(super) fn sgx_extension(bytes: &[u8]) -> bool {
    let mut pck = PAPER.pck.clone();
    pck.extensions[2] = pki::extension(pki::SGX, false, bytes);
    let quote = PAPER.quote(&[pki::pem(&[pck.sign()]), GOOD.pck_crl_chain.clone()].concat());
    Quote::parse(&quote).is_ok_and(|quote| quote.unverified_platform().is_some())
}

/// Puts every event into words.
pub(super) fn told(log: &Log<'_>) -> bool {
    let events = log.unverified_events();
    events.iter().all(|event| !event.to_string().is_empty())
}

/// Reads the certificates under a recorded report.
pub(super) fn gpu_chain(bytes: &[u8]) -> bool {
    let (Ok(report), Some(nonce)) = (Report::parse(&GPU_REPORT), GPU_REPORT.get(4..36)) else {
        return false;
    };
    let nonce = nonce.try_into().expect("is 32 bytes");
    nvidia::verify(report, bytes, &Revocation::default(), nonce, RIM_AT).is_ok()
}

pub(super) fn endorsement(ek_certificate: Vec<u8>, ak_public: Vec<u8>) -> vtpm::Endorsement {
    vtpm::Endorsement {
        ek_certificate,
        chain: Vec::new(),
        ak_public,
    }
}

pub(super) fn endorsed(ek_certificate: &[u8], ak_public: &[u8]) -> Option<vtpm::Endorsed> {
    let endorsement = endorsement(ek_certificate.into(), ak_public.into());
    endorsement.verify(&[&TPM_ROOT], TPM_AT).ok()
}

pub(super) fn challenge() -> vtpm::Challenge {
    let endorsed = endorsed(&EK, &AkPublic::GOOD.marshal()).expect("is good");
    endorsed.challenge(&RANDOM)
}

/// Whether a TPM that signed this has answered the challenge.
pub(super) fn answers(attest: &[u8], signature: Vec<u8>) -> bool {
    let evidence = vtpm::Evidence {
        attest: attest.into(),
        signature,
        pcrs: [0x5a; 512],
        secret: RANDOM.secret,
    };
    challenge().verify(&evidence, &DATA).is_ok()
}

/// Of the second of three clients.
pub(super) fn path() -> batch::Path {
    let (_, mut paths) = batch::tree(&[binding(); 3]);
    paths.remove(1)
}

pub(super) fn binding() -> Binding {
    Binding::new(&Digest384::ZERO, &[0; 64], &Nonce([0; 32]))
}

pub(super) fn evidence() -> Evidence {
    let collateral = Stapled {
        tcb_info: GOOD.tcb_info.clone(),
        tcb_info_issuer_chain: GOOD.tcb_chain.clone(),
        qe_identity: GOOD.qe_identity.clone(),
        qe_identity_issuer_chain: GOOD.qe_chain.clone(),
        pck_crl: GOOD.pck_crl.clone(),
        pck_crl_issuer_chain: GOOD.pck_crl_chain.clone(),
        root_ca_crl: GOOD.root_crl.clone(),
    };
    Evidence {
        platform: PlatformEvidence::Tdx {
            quote: GOOD.quote.clone(),
            collateral,
        },
        gpus: Vec::new(),
        gpu_collateral: GpuCollateral::default(),
        state: State {
            boot_seed: [7; 32],
            gpu_mode: Some(GpuMode::SERVING),
            event_log: [8; 48],
            keyset: [6; 32],
        },
        event_log: vec![9; 3],
    }
}

/// The text form of a small disk's parameters.
pub(super) fn verity() -> String {
    let mut tree = TreeBuilder::new([1; 32]);
    tree.push(&[0; BLOCK]);
    tree.finish().expect("is good").verity.to_string()
}

pub(super) static PAPER: LazyLock<Paper> = LazyLock::new(Paper::good);
pub(super) static GOOD: LazyLock<Built> = LazyLock::new(|| PAPER.build());

pub(super) static EK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    tpm_pki::Certificate::endorsement(tpm_pki::Key::endorsement()).sign(&tpm_pki::Key::p256(1))
});

pub(super) static TPM_ROOT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = tpm_pki::Key::p256(1);
    tpm_pki::Certificate::authority("root", &key, Some(0)).sign(&key)
});

/// Empty where there are no vectors.
pub(super) static GPU_REPORT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = vectors().map(|root| root.join("nvidia/NVIDIA__nvtrust/hopper_sample.report.bin"));
    path.map_or_else(Vec::new, |path| fs::read(path).expect("is recorded"))
});

pub(super) const RIM_AT: UnixTime = UnixTime(1_700_000_000);
pub(super) const TPM_AT: UnixTime = UnixTime(1_790_000_000);
pub(super) const DATA: ReportData = ReportData([0xd5; 64]);
pub(super) const RANDOM: vtpm::Randomness = vtpm::Randomness {
    secret: [1; 32],
    seed: [2; 32],
    padding: [3; 32],
};

pub(super) const MEMORY: Memory = Memory { mib: 2048 };
pub(super) const FILLED_IN: Handover = Handover::FilledIn {
    memory: MEMORY,
    initrd_size: 4096,
};

pub(super) const TPM_LOG: &[u8] =
    include_bytes!("../../../attestation/tests/vectors/ovmf-direct-boot.eventlog.bin");

pub(super) const MEASURED: &str = r#"
version = 1
role = "worker"
[[model]]
name = "tiny"
verity = "sha256:1111111111111111111111111111111111111111111111111111111111111111:2222222222222222222222222222222222222222222222222222222222222222:7"
"#;

pub(super) const UNMEASURED: &str = r#"
version = 1
listen = "0.0.0.0:8443"
collateral = "http://10.0.2.2:8081"
[network]
mode = "static"
address = "10.0.2.15/24"
gateway = "10.0.2.2"
"#;

pub(super) const POLICY: &str = r#"
report_data = "44444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444444"
[platform]
statuses = ["UpToDate", "SWHardeningNeeded"]
advisories = ["INTEL-SA-00837"]
min_evaluation_number = 17
attributes = "0x0000000010000000"
xfam = "0x00000000000602e7"
mrseam = "any"
fmspc = ["90c06f000000"]
ppid = ["50505050505050505050505050505050"]
"#;
