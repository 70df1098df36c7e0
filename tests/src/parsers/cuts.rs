//! What is cut for the contracts: signed first, as a contract hashes what was signed.

use std::sync::LazyLock;

use attestation::certificate::{Certificate, Signed};
use attestation::der::{Der, SEQUENCE};
use attestation::pem;
use attestation::tdx::Quote;
use contracts::cells::Bytes;
use contracts::claim::{Claim, Keys};
use contracts::collateral::{PostAuthority, PostRootList, PostTcbInfo};
use contracts::node::Attest;
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

use super::good::GOOD;
use super::paper_td::pki::{self, Key};
use super::paper_td::{Paper, der, sealed};

/// The body of a certificate of what issues PCK certificates.
pub(super) fn authority(body: &[u8]) -> bool {
    let signed = pki::sealed(body.to_vec(), Key::ROOT);
    PostAuthority::new(0, &signed, &GOOD.root).is_ok()
}

/// The body of the root's list.
pub(super) fn list(body: &[u8]) -> bool {
    let signed = pki::sealed(body.to_vec(), Key::ROOT);
    PostRootList::new(0, &signed, &GOOD.root).is_ok()
}

/// The inside of TCB info.
pub(super) fn tcb_info(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    let document = sealed("tcbInfo", text, Key::TCB_SIGNING);
    let signer = pki::sealed(body_of(&pki::Certificate::tcb_signing()), Key::ROOT);
    let chain = [signer, GOOD.root.clone()];
    PostTcbInfo::new(0, &document, &chain).is_ok()
}

/// A whole quote: the contract's form of it has hints for three signatures.
pub(super) fn quote(bytes: &[u8]) -> bool {
    let Ok(quote) = Quote::parse(bytes) else {
        return false;
    };
    let parts = quote.unverified_parts();
    let Ok([leaf, ca, root]) = pem::certificates(parts.pck_chain) else {
        return false;
    };
    let Ok((leaf, _)) = Signed::read(&leaf, "certificate") else {
        return false;
    };
    let leaf = pki::sealed(leaf.body.to_vec(), Key::CA);
    let signed = Paper {
        header: parts.signed.into(),
        body: Vec::new(),
        qe_report: parts.qe_report.to_vec(),
        qe_auth: parts.qe_auth_data.to_vec(),
        ..Paper::good()
    };
    let signed = signed.quote(&pki::pem(&[leaf, ca, root]));
    Quote::parse(&signed).is_ok_and(|quote| Attest::new(0, &quote, &CLAIM).is_ok())
}

/// What nobody has to have claimed to be cut.
static CLAIM: LazyLock<Claim> = LazyLock::new(|| {
    let keys = Keys {
        receipt: HashBytes::ZERO,
        seal: HashBytes::ZERO,
        tls: Bytes([0; 48]),
    };
    Claim {
        global_id: -239,
        node: StdAddr::new(0, HashBytes::ZERO),
        gpus: Bytes([0; 48]),
        block: 1,
        block_root: HashBytes::ZERO,
        keys: Lazy::new(&keys).expect("is small"),
    }
});

/// A quote that [`quote`] takes.
pub(super) fn whole(paper: &Paper) -> Vec<u8> {
    let leaf = pki::sealed(body_of(&paper.pck), Key::CA);
    paper.quote(&pki::pem(&[leaf, paper.ca.sign(), GOOD.root.clone()]))
}

/// A body that [`authority`] takes.
pub(super) fn body() -> Vec<u8> {
    body_of(&pki::Certificate::platform_ca())
}

fn body_of(paper: &pki::Certificate) -> Vec<u8> {
    let signed = paper.sign();
    let certificate = Certificate::parse(&signed).expect("is good");
    in_utc(certificate.signed.body)
}

/// A body that [`list`] takes, with so many entries.
pub(super) fn listed(count: usize) -> Vec<u8> {
    let mut list = Paper::good().root_crl;
    let serials = 1..=count;
    list.revoked = serials
        .map(|serial| ([&[1], &serial.to_be_bytes()[..]].concat(), vec![]))
        .collect();
    let signed = list.sign();
    let (signed, _) = Signed::read(&signed, "CRL").expect("is good");
    in_utc(signed.body)
}

/// With its times as Intel writes them: years have two digits.
fn in_utc(sequence: &[u8]) -> Vec<u8> {
    let mut fields = Der::new(sequence)
        .nested(SEQUENCE, "body")
        .expect("is good");
    let mut all = Vec::new();
    while let Some(tag) = fields.peek() {
        let field = fields.whole(tag, "field").expect("is good");
        all.push(match field {
            [0x18, _, b'2', b'0', rest @ ..] => der::tlv(0x17, rest),
            [0x30, _, 0x18, ..] => in_utc(field),
            other => other.to_vec(),
        });
    }
    der::sequence(&all)
}
