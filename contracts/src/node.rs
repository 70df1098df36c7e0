//! Node: one worker on the chain. What it keeps and hears, as in `tolk/node-types.tolk`.

use attestation::certificate::Certificate;
use attestation::pem;
use attestation::tdx::Quote;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

use crate::cells::{Bytes, Moment, Rest, number};
use crate::claim::Claim;
use crate::evidence::{self, EvidenceError, cell_of, hint, hint_der};
use crate::messages::{Platform, Software};
use crate::p256::Signature;
use crate::registry::build_key;

/// What a Node keeps.
///
/// ```text
/// _ owner:MsgAddressInt collateral:MsgAddressInt registry:MsgAddressInt seqno:uint32
///   leaves_at:uint32 presented:uint32 attestation:(Maybe ^Attestation) host:(Maybe ^Host)
///   = NodeState;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct State {
    /// Who is paid.
    pub owner: StdAddr,
    /// Who knows what hardware is worth.
    pub collateral: StdAddr,
    /// Who knows which software counts.
    pub registry: StdAddr,
    /// Number of the block in the newest claim.
    pub seqno: u32,
    /// When the stake may be taken; 0 while the owner has not asked for it.
    pub leaves_at: u32,
    /// The last epoch in which it was presented to a Market.
    pub presented: u32,
    /// What was proved last.
    pub attestation: Option<Lazy<Attestation>>,
    /// What the owner offers.
    pub host: Option<Lazy<Host>>,
}

impl State {
    /// Of a Node that is deployed: with the code, this is its address.
    #[must_use]
    pub const fn new(owner: StdAddr, collateral: StdAddr, registry: StdAddr) -> Self {
        Self {
            owner,
            collateral,
            registry,
            seqno: 0,
            leaves_at: 0,
            presented: 0,
            attestation: None,
            host: None,
        }
    }
}

/// What was proved.
///
/// ```text
/// _ until:uint40 build:uint256 model:uint256 claim:^Claim = Attestation;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Attestation {
    /// For how long it counts.
    pub until: Moment,
    /// SHA-256 of MRTD and RTMR0 to RTMR3.
    pub build: HashBytes,
    /// Root hash of the model.
    pub model: HashBytes,
    /// What the TD claims.
    pub claim: Lazy<Claim>,
}

/// What the owner offers, unproved.
///
/// ```text
/// _ gpu:bits128 memory_gib:uint32 hours_per_week:uint8 ask:Coins market:MsgAddressInt
///   = Host;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Host {
    /// ASCII, left-aligned.
    pub gpu: Bytes<16>,
    /// Of the GPU.
    pub memory_gib: u32,
    /// How long it is expected to be there.
    pub hours_per_week: u8,
    /// For a million tokens.
    pub ask: Tokens,
    /// Where it counts as capacity.
    pub market: StdAddr,
}

/// Anyone brings a quote, as what varies in the bytes that were signed.
///
/// ```text
/// attest#41545431 query_id:uint64 attestation_key:bits512 platform:^Platform
///   software:^Software claim:^Claim more:^AttestMore = Attest;
/// _ quote:(120 * Byte) td:^Cell quote_signature:^Signature enclave:^Cell
///   certificate:^Cell = AttestMore;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41545431")]
pub struct Attest {
    /// Of the sender's choice.
    pub query_id: u64,
    /// `x || y`.
    pub attestation_key: Bytes<64>,
    /// What Collateral is to know of the platform.
    pub platform: Lazy<Platform>,
    /// What Collateral is to know of the TD.
    pub software: Lazy<Software>,
    /// What the TD claims.
    pub claim: Lazy<Claim>,
    /// What a cell has no place for.
    pub more: Lazy<AttestMore>,
}

/// Of an [`Attest`]: what only the Node reads, in cells as `node-types.tolk` says.
#[derive(Clone, Debug, Load, Store)]
pub struct AttestMore {
    /// What varies in the quote first.
    pub quote: Bytes<120>,
    /// What follows.
    pub td: Cell,
    /// Of the quote by the attestation key.
    pub quote_signature: Lazy<Signature>,
    /// The QE report, with its signature by the PCK.
    pub enclave: Cell,
    /// The PCK certificate, with its signature by the CA.
    pub certificate: Cell,
}

impl Attest {
    /// Cuts a quote into cells. It is the contract that verifies it, and that the claim is
    /// the one in REPORTDATA.
    pub fn new(query_id: u64, quote: &Quote<'_>, claim: &Claim) -> Result<Self, EvidenceError> {
        let parts = quote.unverified_parts();
        let [leaf, ca, _] = pem::certificates(parts.pck_chain)?;
        let (leaf, ca) = (Certificate::parse(&leaf)?, Certificate::parse(&ca)?);
        let cut = evidence::quote(parts.signed)?;
        let (known, enclave) = evidence::qe_report(parts.qe_report)?;
        let enclave_signature = hint(
            "QE report",
            &evidence::key(&leaf)?,
            parts.qe_report,
            parts.qe_report_signature,
        )?;
        let quote_signature = hint(
            "quote",
            parts.attestation_key,
            parts.signed,
            parts.signature,
        )?;
        let pck = evidence::pck(leaf.signed.body)?;
        let certificate_signature = hint_der("PCK certificate", &ca, &leaf.signed)?;
        let key = evidence::key(&ca)?;
        let (issuer, _) = key.split_at(32);
        let platform = Platform {
            issuer: number(issuer).unwrap_or_default(),
            is_processor_ca: ca.common_name()? == "Intel SGX PCK Processor CA",
            enclave: known,
            components: pck.components,
            pce_svn: pck.pce_svn,
            serial: Rest(pck.serial.to_vec()),
        };
        let software = Software {
            build: build_key(&quote.unverified_body().registers),
            pce_id: pck.pce_id,
            fmspc: pck.fmspc,
            configuration: Bytes(*cut.configuration),
            launch_tcb: u128::from_be_bytes(*cut.launch_tcb),
            kind: cut.kind,
            current_tcb: cut.current_tcb.map(|tcb| u128::from_be_bytes(*tcb)),
        };
        let enclave_signature = CellBuilder::build_from(&enclave_signature)?;
        let more = AttestMore {
            quote: Bytes(cut.first),
            td: cut.rest,
            quote_signature: Lazy::new(&quote_signature)?,
            enclave: cell_of(&[&enclave, parts.qe_auth_data], &[enclave_signature])?,
            certificate: pck.cell(&certificate_signature)?,
        };
        Ok(Self {
            query_id,
            attestation_key: Bytes(*parts.attestation_key),
            platform: Lazy::new(&platform)?,
            software: Lazy::new(&software)?,
            claim: Lazy::new(claim)?,
            more: Lazy::new(&more)?,
        })
    }
}

/// The owner says what the machine offers; what comes with it stays as stake.
///
/// ```text
/// offer#4f464652 query_id:uint64 host:^Host = Offer;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#4f464652")]
pub struct Offer {
    /// Of the sender's choice.
    pub query_id: u64,
    /// What it offers.
    pub host: Lazy<Host>,
}

/// Anyone has it counted as capacity for this epoch.
///
/// ```text
/// present#50525354 query_id:uint64 = Present;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#50525354")]
pub struct Present {
    /// Of the sender's choice.
    pub query_id: u64,
}

/// The owner asks for the stake back; the attestation ends now.
///
/// ```text
/// leave#4c454156 query_id:uint64 = Leave;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#4c454156")]
pub struct Leave {
    /// Of the sender's choice.
    pub query_id: u64,
}

/// The owner takes it, after the delay.
///
/// ```text
/// withdraw#57495448 query_id:uint64 = Withdraw;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#57495448")]
pub struct Withdraw {
    /// Of the sender's choice.
    pub query_id: u64,
}
