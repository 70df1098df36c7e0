//! Reference manifests, written in canonical form so that nothing but this file and
//! SHA-384 says what is signed.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha384};

use super::pki::{Certificate, Key};

/// What a manifest says, and who signs it; the default is good.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) product: String,
    pub(crate) version: String,
    /// Index, whether it counts, what it may be.
    pub(crate) resources: Vec<(u8, bool, Vec<[u8; 48]>)>,
    /// The signer's first.
    pub(crate) chain: [Certificate; 4],
    pub(crate) key: Key,
    /// Done to the document before it is signed.
    pub(crate) edit: fn(String) -> String,
    /// Done to what is signed of the signature, before it is.
    pub(crate) edit_signed_info: fn(String) -> String,
    /// Done to all of it afterwards.
    pub(crate) forge: fn(String) -> String,
}

impl Manifest {
    pub(crate) fn new(product: &str, version: &str) -> Self {
        Self {
            product: product.into(),
            version: version.into(),
            resources: Vec::new(),
            chain: chain(product),
            key: Key::SIGNER,
            edit: |text| text,
            edit_signed_info: |text| text,
            forge: |text| text,
        }
    }

    /// Whose signer's years do not end: for whoever goes by today's clock.
    pub(crate) fn lasting(mut self) -> Self {
        let [signer, level_3, ..] = &mut self.chain;
        (signer.from, signer.until) = (level_3.from, level_3.until);
        self
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        self.sign_edited(self.edit)
    }

    /// With something done to the document before it is signed.
    pub(crate) fn sign_edited(&self, edit: impl Fn(String) -> String) -> Vec<u8> {
        let document = edit(self.document());
        let digest = STANDARD.encode(Sha384::digest(&document));
        let signed_info = (self.edit_signed_info)(signed_info(&digest));
        // What it inherits is written out where it is signed, in the order of prefixes.
        let inherited = format!(
            " xmlns=\"{SWID}\" xmlns:ds=\"{DSIG}\" xmlns:ns0=\"{SWID}\" xmlns:ns2=\"{HASH}\""
        );
        let canonical =
            signed_info.replacen("<ds:SignedInfo", &format!("<ds:SignedInfo{inherited}"), 1);
        let value = STANDARD.encode(self.key.sign_raw(canonical.as_bytes()));
        let mut certificates = String::new();
        for certificate in &self.chain {
            let base64 = STANDARD.encode(certificate.sign());
            write!(
                certificates,
                "<ds:X509Certificate>{base64}\n</ds:X509Certificate>"
            )
            .unwrap();
        }
        let signature = format!(
            "<ds:Signature xmlns:ds=\"{DSIG}\">{signed_info}\
             <ds:SignatureValue>{value}</ds:SignatureValue>\
             <ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
        );
        let (body, end) = document.split_at(document.rfind("</").unwrap());
        (self.forge)(format!("{body}{signature}{end}")).into_bytes()
    }

    fn document(&self) -> String {
        let (product, version) = (&self.product, &self.version);
        let mut text = format!(
            "<SoftwareIdentity xmlns=\"{SWID}\" xmlns:ns0=\"{SWID}\" xmlns:ns2=\"{HASH}\" \
             name=\"{product}\">\n<ns0:Meta colloquialVersion=\"{version}\" edition=\"GPU\" \
             product=\"{product}\"></ns0:Meta>\n<ns0:Payload>\n"
        );
        for (index, active, hashes) in &self.resources {
            let active = if *active { "True" } else { "False" };
            let count = hashes.len();
            write!(
                text,
                "<ns0:Resource active=\"{active}\" alternatives=\"{count}\" index=\"{index}\" \
                 name=\"Measurement_{index}\" size=\"48\" type=\"Measurement\""
            )
            .unwrap();
            for (number, hash) in hashes.iter().enumerate() {
                write!(text, " ns2:Hash{number}=\"{}\"", hex::encode(hash)).unwrap();
            }
            text += "></ns0:Resource>\n";
        }
        text + "</ns0:Payload>\n</SoftwareIdentity>"
    }
}

fn signed_info(digest: &str) -> String {
    let element = |name: &str, uri: &str| format!("<ds:{name} Algorithm=\"{uri}\"></ds:{name}>");
    format!(
        "<ds:SignedInfo>{}{}<ds:Reference URI=\"\"><ds:Transforms>{}{}</ds:Transforms>{}\
         <ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>",
        element("CanonicalizationMethod", C14N),
        element("SignatureMethod", ECDSA),
        element("Transform", ENVELOPED),
        element("Transform", C14N),
        element("DigestMethod", SHA384),
    )
}

fn chain(product: &str) -> [Certificate; 4] {
    let level_3 = format!("NVIDIA Reference Value L3 {product} 001");
    let ca = "NVIDIA Reference Value CA";
    [
        Certificate {
            from: "20260601000000Z",
            until: "20280531000000Z",
            ..Certificate::end("HCC RIM L4 Signer", Key::SIGNER, &level_3, Key::LEVEL_3)
        },
        Certificate {
            extensions: super::pki::ca(Some(0)),
            ..Certificate::authority(&level_3, Key::LEVEL_3, ca, Key::REFERENCE_CA)
        },
        Certificate {
            extensions: super::pki::ca(Some(1)),
            ..Certificate::authority(ca, Key::REFERENCE_CA, ROOT, Key::MANIFEST_ROOT)
        },
        Certificate::authority(ROOT, Key::MANIFEST_ROOT, ROOT, Key::MANIFEST_ROOT),
    ]
}

pub(crate) const ROOT: &str = "NVIDIA CoRIM signing Root CA";
pub(crate) const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
pub(crate) const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
pub(crate) const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
