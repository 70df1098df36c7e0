//! The one form of XML signature that a reference manifest has.
//!
//! ```text
//! root
//! ├── ...                              hashed
//! └── Signature                        one, a child of the root
//!     ├── SignedInfo                   canonical form 1.1; signed
//!     │   ├── CanonicalizationMethod   canonical form 1.1
//!     │   ├── SignatureMethod          ECDSA with SHA-384
//!     │   └── Reference URI=""         enveloped signature, canonical form 1.1, SHA-384
//!     ├── SignatureValue               r || s
//!     └── KeyInfo/X509Data             four certificates, the signer's first
//! ```
//!
//! There is no choice in it, hence nothing to confuse: what was hashed is the tree that
//! is read afterwards, and the key is that of the first certificate, whose chain the
//! caller has to verify.
//!
//! Source: XML Signature Syntax and Processing, version 1.1.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::register::Digest384;

use super::c14n::{canonical_within, canonical_without};
use super::xml::{Element, Node};

/// A document that is what its signature refers to. Who signed is not checked yet.
pub(super) struct Envelope {
    /// The signer's first.
    pub(super) certificates: [Vec<u8>; 4],
    /// The bytes that were signed.
    pub(super) signed_info: Vec<u8>,
    /// `r || s`.
    pub(super) signature: Vec<u8>,
}

impl Envelope {
    /// Finds the signature of a document, and compares the document's digest with it.
    pub(super) fn open(root: &Element<'_>) -> Result<Self, DsigError> {
        let (signature, others) = split(root)?;
        if others.iter().any(|element| has_signature(element)) {
            return Err(DsigError::Elsewhere);
        }
        let [signed_info, value, key_info] =
            children(signature, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
        let [canonicalization, method, reference] = children(
            signed_info,
            ["CanonicalizationMethod", "SignatureMethod", "Reference"],
        )?;
        expect_algorithm(canonicalization, C14N_1_1)?;
        expect_algorithm(method, ECDSA_SHA384)?;
        expect_only(reference, "URI", "")?;
        let [transforms, digest_method, digest_value] =
            children(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
        let [enveloped, canonical] = children(transforms, ["Transform"; 2])?;
        expect_algorithm(enveloped, ENVELOPED)?;
        expect_algorithm(canonical, C14N_1_1)?;
        expect_algorithm(digest_method, SHA384)?;
        let digest = Digest384::of(&canonical_without(root, signature));
        if decode(digest_value)? != digest.as_bytes() {
            return Err(DsigError::Digest);
        }
        let [data] = children(key_info, ["X509Data"])?;
        let mut certificates = [const { Vec::new() }; 4];
        let found = children(data, ["X509Certificate"; 4])?;
        for (certificate, element) in certificates.iter_mut().zip(found) {
            *certificate = decode(element)?;
        }
        for plain in [
            signature,
            signed_info,
            value,
            key_info,
            transforms,
            digest_value,
            data,
        ] {
            expect_plain(plain)?;
        }
        found.iter().try_for_each(|element| expect_plain(element))?;
        Ok(Self {
            certificates,
            signed_info: canonical_within(&[root, signature, signed_info]),
            signature: decode(value)?,
        })
    }
}

/// Why a document has no signature of that form.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DsigError {
    /// An attribute has another value, or there are others.
    #[error("attributes of {element} are not exactly {expected}")]
    Attributes {
        /// Local name of the element.
        element: String,
        /// What it must have.
        expected: &'static str,
    },
    /// The elements in an element are others.
    #[error("{element} does not consist of {expected}")]
    Children {
        /// Local name of the element.
        element: String,
        /// What it must consist of.
        expected: String,
    },
    /// The document is not the one that was signed.
    #[error("the digest of the document is not the signed one")]
    Digest,
    /// There is one more, deeper in the document.
    #[error("an element of an XML signature stands outside of the signature")]
    Elsewhere,
    /// Not base64.
    #[error("{element} is not base64")]
    Encoding {
        /// Local name of the element.
        element: String,
    },
    /// None, or several.
    #[error("{found} signatures, expected one")]
    Number {
        /// How many children of the root are one.
        found: usize,
    },
}

/// The signature, and the root's other elements.
fn split<'t, 'a>(
    root: &'t Element<'a>,
) -> Result<(&'t Element<'a>, Vec<&'t Element<'a>>), DsigError> {
    let (signatures, others): (Vec<_>, Vec<_>) =
        inside(root).partition(|element| element.name.is(DSIG, "Signature"));
    match *signatures {
        [signature] => Ok((signature, others)),
        _ => Err(DsigError::Number {
            found: signatures.len(),
        }),
    }
}

fn has_signature(element: &Element<'_>) -> bool {
    element.name.namespace == DSIG || inside(element).any(has_signature)
}

/// Whatever else stands between them.
fn inside<'t, 'a>(parent: &'t Element<'a>) -> impl Iterator<Item = &'t Element<'a>> {
    parent.children.iter().filter_map(|child| match child {
        Node::Element(element) => Some(element),
        Node::Text(_) => None,
    })
}

/// The elements in `parent`, which must have these names in this order.
fn children<'t, 'a, const N: usize>(
    parent: &'t Element<'a>,
    names: [&str; N],
) -> Result<[&'t Element<'a>; N], DsigError> {
    parent
        .elements()
        .and_then(|elements| <[_; N]>::try_from(elements).ok())
        .filter(|elements| {
            let mut pairs = elements.iter().zip(names);
            pairs.all(|(element, name)| element.name.is(DSIG, name))
        })
        .ok_or_else(|| DsigError::Children {
            element: parent.name.local.into(),
            expected: names.join(", "),
        })
}

/// An empty element that names an algorithm.
fn expect_algorithm(element: &Element<'_>, uri: &'static str) -> Result<(), DsigError> {
    expect_only(element, "Algorithm", uri)?;
    children::<0>(element, []).map(|_| ())
}

fn expect_only(element: &Element<'_>, name: &str, value: &'static str) -> Result<(), DsigError> {
    match element.attributes.len() == 1 && element.attribute(name) == Some(value) {
        true => Ok(()),
        false => Err(attributes(element, value)),
    }
}

fn expect_plain(element: &Element<'_>) -> Result<(), DsigError> {
    match element.attributes.is_empty() {
        true => Ok(()),
        false => Err(attributes(element, "none")),
    }
}

fn attributes(element: &Element<'_>, expected: &'static str) -> DsigError {
    DsigError::Attributes {
        element: element.name.local.to_string(),
        expected,
    }
}

fn decode(element: &Element<'_>) -> Result<Vec<u8>, DsigError> {
    let decoded = element.text().map(|text| {
        let mut digits = text.as_bytes().to_vec();
        digits.retain(|byte| !byte.is_ascii_whitespace());
        STANDARD.decode(digits)
    });
    match decoded {
        Some(Ok(bytes)) => Ok(bytes),
        _ => Err(DsigError::Encoding {
            element: element.name.local.to_string(),
        }),
    }
}

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N_1_1: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
