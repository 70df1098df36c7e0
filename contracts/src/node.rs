//! Node: one worker on the chain. What it keeps and hears, as in `tolk/node-types.tolk`.

use attestation::certificate::Certificate;
use attestation::pem;
use attestation::tdx::Quote;
use tycho_types::cell::{Cell, HashBytes, Lazy, Load, Store};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

use crate::cells::{Bytes, Moment, chain, number};
use crate::claim::Claim;
use crate::evidence::{self, EvidenceError, hint, hint_der};
use crate::p256::Signature;

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

/// Anyone brings a quote.
///
/// ```text
/// attest#41545431 query_id:uint64 issuer:uint256 is_processor_ca:Bool before:uint8
///   quote:^Cell attestation_key:^Cell qe_report:^Cell more:^AttestMore = Attest;
/// _ certificate:^Cell claim:^Claim quote_signature:^Signature
///   certificates:^[ qe_report:^Signature certificate:^Signature ] = AttestMore;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#41545431")]
pub struct Attest {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Coordinate of the key that issued the certificate.
    pub issuer: HashBytes,
    /// Under which of two names.
    pub is_processor_ca: bool,
    /// Cells of the certificate between its key and its TCB components, less one.
    pub before: u8,
    /// Its signed part.
    pub quote: Cell,
    /// `x || y`; refers to the QE's authentication data.
    pub attestation_key: Cell,
    /// What the quoting enclave says of itself and of that key.
    pub qe_report: Cell,
    /// What a cell has no place for.
    pub more: Lazy<AttestMore>,
}

/// Of an [`Attest`].
#[derive(Clone, Debug, Load, Store)]
pub struct AttestMore {
    /// Body of the PCK certificate.
    pub certificate: Cell,
    /// What the TD claims.
    pub claim: Lazy<Claim>,
    /// By the attestation key.
    pub quote_signature: Lazy<Signature>,
    /// By the PCK and by its CA.
    pub certificates: Lazy<(Lazy<Signature>, Lazy<Signature>)>,
}

impl Attest {
    /// Cuts a quote into cells. It is the contract that verifies it.
    pub fn new(query_id: u64, quote: &Quote<'_>, claim: &Claim) -> Result<Self, EvidenceError> {
        let parts = quote.unverified_parts();
        let [leaf, ca, _] = pem::certificates(parts.pck_chain)?;
        let (leaf, ca) = (Certificate::parse(&leaf)?, Certificate::parse(&ca)?);
        let (certificate, before) = evidence::pck(leaf.signed.body)?;
        let issuer = evidence::key(&ca)?;
        let more = AttestMore {
            certificate,
            claim: Lazy::new(claim)?,
            quote_signature: hint(
                "quote",
                parts.attestation_key,
                parts.signed,
                parts.signature,
            )?,
            certificates: Lazy::new(&(
                hint(
                    "QE report",
                    &evidence::key(&leaf)?,
                    parts.qe_report,
                    parts.qe_report_signature,
                )?,
                hint_der("PCK certificate", &ca, &leaf.signed)?,
            ))?,
        };
        let (x, _) = issuer.split_at(32);
        Ok(Self {
            query_id,
            issuer: number(x).unwrap_or_default(),
            is_processor_ca: ca.common_name()? == "Intel SGX PCK Processor CA",
            before,
            quote: evidence::quote(parts.signed)?,
            attestation_key: chain(&[parts.attestation_key, parts.qe_auth_data])?,
            qe_report: evidence::qe_report(parts.qe_report)?,
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
