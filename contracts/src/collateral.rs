//! Collateral: what Intel says of platforms, on the chain. What the contract keeps and
//! hears, as in `tolk/collateral-types.tolk`.

use attestation::certificate::{Certificate, Signed};
use attestation::tdx::Document as Kind;
use tycho_types::cell::{Cell, HashBytes, Lazy, Load, Store};
use tycho_types::dict::Dict;
use tycho_types::error::Error;

use crate::cells::{Bytes, Moment};
use crate::evidence::{self, EvidenceError, hint, hint_der};
use crate::messages::Lacks;
use crate::p256::Signature;

/// What Collateral keeps.
///
/// ```text
/// _ authorities:^Authorities qe_identity:(Maybe ^QeIdentity)
///   tcb_infos:(HashmapE 48 ^TcbInfo) = CollateralState;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct State {
    /// The root's list, and what issues PCK certificates.
    pub authorities: Lazy<Authorities>,
    /// Which enclave may make attestation keys.
    pub qe_identity: Option<Lazy<QeIdentity>>,
    /// By FMSPC.
    pub tcb_infos: Dict<Bytes<6>, Lazy<TcbInfo>>,
}

impl State {
    /// Of Collateral that is deployed: knows nothing, and its address is one for all.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            authorities: Lazy::new(&Authorities {
                root_list: None,
                platform_ca: None,
                processor_ca: None,
            })?,
            qe_identity: None,
            tcb_infos: Dict::new(),
        })
    }
}

/// What certificates come from.
///
/// ```text
/// _ root_list:(Maybe RevocationList) platform_ca:(Maybe ^Authority)
///   processor_ca:(Maybe ^Authority) = Authorities;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Authorities {
    /// What the root took back.
    pub root_list: Option<RevocationList>,
    /// Intel SGX PCK Platform CA.
    pub platform_ca: Option<Lazy<Authority>>,
    /// Intel SGX PCK Processor CA.
    pub processor_ca: Option<Lazy<Authority>>,
}

/// What issues PCK certificates.
///
/// ```text
/// _ x:uint256 serial:uint160 window:Window list:(Maybe RevocationList) = Authority;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Authority {
    /// Coordinate of its key.
    pub x: HashBytes,
    /// Of its certificate.
    pub serial: Bytes<20>,
    /// Of its certificate.
    pub window: Window,
    /// What it took back.
    pub list: Option<RevocationList>,
}

/// Serial numbers that an issuer took back.
///
/// ```text
/// _ window:Window revoked:(HashmapE 160 Bool) = RevocationList;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct RevocationList {
    /// When it holds.
    pub window: Window,
    /// By serial number.
    pub revoked: Dict<Bytes<20>, bool>,
}

/// When something holds; both ends belong to it.
///
/// ```text
/// _ from:uint40 until:uint40 = Window;
/// ```
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
pub struct Window {
    /// First second.
    pub from: Moment,
    /// Last second.
    pub until: Moment,
}

/// Levels of one processor family.
///
/// ```text
/// _ window:Window signer:uint160 evaluation:uint32 pce_id:uint16
///   levels:PlatformLevel modules:(Maybe ^Module) = TcbInfo;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct TcbInfo {
    /// Of the document and of its signer's certificate.
    pub window: Window,
    /// Serial number of that certificate.
    pub signer: Bytes<20>,
    /// Number of the TCB recovery.
    pub evaluation: u32,
    /// Which provisioning certification enclave.
    pub pce_id: u16,
    /// Best first.
    pub levels: PlatformLevel,
    /// TDX modules.
    pub modules: Option<Lazy<Module>>,
}

/// What a platform must have to be at a level.
///
/// ```text
/// _ components:uint128 tdx_components:uint128 pce_svn:uint16 lacks:uint8
///   next:(Maybe ^PlatformLevel) = PlatformLevel;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct PlatformLevel {
    /// 16 SVNs of SGX.
    pub components: u128,
    /// 16 SVNs of TDX.
    pub tdx_components: u128,
    /// SVN of the provisioning certification enclave.
    pub pce_svn: u16,
    /// What is missing there.
    pub lacks: Lacks,
    /// The next lower one.
    pub next: Option<Lazy<Self>>,
}

/// Levels of a TDX module.
///
/// ```text
/// _ version:uint8 levels:VersionLevel next:(Maybe ^Module) = Module;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Module {
    /// Major version.
    pub version: u8,
    /// Best first.
    pub levels: VersionLevel,
    /// Another one.
    pub next: Option<Lazy<Self>>,
}

/// What a version must be to be at a level.
///
/// ```text
/// _ svn:uint16 lacks:uint8 next:(Maybe ^VersionLevel) = VersionLevel;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct VersionLevel {
    /// Least SVN.
    pub svn: u16,
    /// What is missing there.
    pub lacks: Lacks,
    /// The next lower one.
    pub next: Option<Lazy<Self>>,
}

/// Which enclave may make attestation keys.
///
/// ```text
/// _ window:Window signer:uint160 evaluation:uint32
///   misc_select:uint32 misc_select_mask:uint32 attributes:uint128
///   attributes_mask:uint128 mr_signer:uint256 product_id:uint16
///   levels:VersionLevel = QeIdentity;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct QeIdentity {
    /// Of the document and of its signer's certificate.
    pub window: Window,
    /// Serial number of that certificate.
    pub signer: Bytes<20>,
    /// Number of the TCB recovery.
    pub evaluation: u32,
    /// MISCSELECT.
    pub misc_select: u32,
    /// Which of its bits matter.
    pub misc_select_mask: u32,
    /// ATTRIBUTES.
    pub attributes: u128,
    /// Which of its bits matter.
    pub attributes_mask: u128,
    /// MRSIGNER.
    pub mr_signer: HashBytes,
    /// ISVPRODID.
    pub product_id: u16,
    /// Best first.
    pub levels: VersionLevel,
}

/// The root's list of certificates that it took back.
///
/// ```text
/// post_root_list#50435231 query_id:uint64 list:^Cell signature:Signature = PostRootList;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#50435231")]
pub struct PostRootList {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Body of the list.
    pub list: Cell,
    /// By the root.
    pub signature: Signature,
}

impl PostRootList {
    /// From the list and the root's certificate, both DER.
    pub fn new(query_id: u64, list: &[u8], root: &[u8]) -> Result<Self, EvidenceError> {
        let (list, signature) = signed_list(list, root)?;
        Ok(Self {
            query_id,
            list,
            signature,
        })
    }
}

/// The certificate of what issues PCK certificates.
///
/// ```text
/// post_authority#50434131 query_id:uint64 is_processor_ca:Bool certificate:^Cell
///   signature:Signature = PostAuthority;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#50434131")]
pub struct PostAuthority {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Which of the two.
    pub is_processor_ca: bool,
    /// Body of its certificate.
    pub certificate: Cell,
    /// By the root.
    pub signature: Signature,
}

impl PostAuthority {
    /// From the certificates of the CA and of the root, both DER.
    pub fn new(query_id: u64, authority: &[u8], root: &[u8]) -> Result<Self, EvidenceError> {
        let (authority, root) = (Certificate::parse(authority)?, Certificate::parse(root)?);
        Ok(Self {
            query_id,
            is_processor_ca: is_processor_ca(&authority)?,
            certificate: evidence::certificate(authority.signed.body)?,
            signature: hint_der("CA's certificate", &root, &authority.signed)?,
        })
    }
}

/// Its list of certificates that it took back.
///
/// ```text
/// post_authority_list#50435232 query_id:uint64 is_processor_ca:Bool list:^Cell
///   signature:Signature = PostAuthorityList;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#50435232")]
pub struct PostAuthorityList {
    /// Of the sender's choice.
    pub query_id: u64,
    /// Which of the two.
    pub is_processor_ca: bool,
    /// Body of the list.
    pub list: Cell,
    /// By the CA.
    pub signature: Signature,
}

impl PostAuthorityList {
    /// From the list and the CA's certificate, both DER.
    pub fn new(query_id: u64, list: &[u8], authority: &[u8]) -> Result<Self, EvidenceError> {
        let is_processor_ca = is_processor_ca(&Certificate::parse(authority)?)?;
        let (list, signature) = signed_list(list, authority)?;
        Ok(Self {
            query_id,
            is_processor_ca,
            list,
            signature,
        })
    }
}

/// TCB info.
///
/// ```text
/// post_tcb_info#50544331 query_id:uint64 document:Document = PostTcbInfo;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#50544331")]
pub struct PostTcbInfo {
    /// Of the sender's choice.
    pub query_id: u64,
    /// The text and who signed it.
    pub document: Document,
}

impl PostTcbInfo {
    /// From the JSON that Intel serves, and the certificates of its signer and of the
    /// root, both DER.
    pub fn new(query_id: u64, text: &str, chain: &[Vec<u8>; 2]) -> Result<Self, EvidenceError> {
        let document = Document::new(Kind::TcbInfo, text, chain)?;
        Ok(Self { query_id, document })
    }
}

/// QE identity.
///
/// ```text
/// post_qe_identity#50514531 query_id:uint64 document:Document = PostQeIdentity;
/// ```
#[derive(Clone, Debug, Load, Store)]
#[tlb(tag = "#50514531")]
pub struct PostQeIdentity {
    /// Of the sender's choice.
    pub query_id: u64,
    /// The text and who signed it.
    pub document: Document,
}

impl PostQeIdentity {
    /// From the JSON that Intel serves, and the certificates of its signer and of the
    /// root, both DER.
    pub fn new(query_id: u64, text: &str, chain: &[Vec<u8>; 2]) -> Result<Self, EvidenceError> {
        let document = Document::new(Kind::QeIdentity, text, chain)?;
        Ok(Self { query_id, document })
    }
}

/// A document with the certificate of its signer.
///
/// ```text
/// _ signer:^Cell signer_signature:^Signature text:^Cell text_signature:^Signature
///   = Document;
/// ```
#[derive(Clone, Debug, Load, Store)]
pub struct Document {
    /// Body of the signer's certificate.
    pub signer: Cell,
    /// By the root.
    pub signer_signature: Lazy<Signature>,
    /// What is signed.
    pub text: Cell,
    /// By the signer.
    pub text_signature: Lazy<Signature>,
}

impl Document {
    fn new(kind: Kind, text: &str, [signer, root]: &[Vec<u8>; 2]) -> Result<Self, EvidenceError> {
        let (signer, root) = (Certificate::parse(signer)?, Certificate::parse(root)?);
        let (signed, signature, text) = evidence::document(kind, text)?;
        Ok(Self {
            signer: evidence::certificate(signer.signed.body)?,
            signer_signature: Lazy::new(&hint_der(
                "TCB signing certificate",
                &root,
                &signer.signed,
            )?)?,
            text,
            text_signature: Lazy::new(&hint(
                "document",
                &evidence::key(&signer)?,
                signed.as_bytes(),
                &signature,
            )?)?,
        })
    }
}

fn signed_list(list: &[u8], issuer: &[u8]) -> Result<(Cell, Signature), EvidenceError> {
    let (signed, _) = Signed::read(list, "CRL")?;
    let issuer = Certificate::parse(issuer)?;
    let signature = hint_der("revocation list", &issuer, &signed)?;
    Ok((evidence::revocation_list(signed.body)?, signature))
}

fn is_processor_ca(authority: &Certificate<'_>) -> Result<bool, EvidenceError> {
    Ok(authority.common_name()? == "Intel SGX PCK Processor CA")
}
