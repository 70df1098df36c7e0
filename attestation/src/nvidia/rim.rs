//! Reference manifests: what NVIDIA says that a driver or a firmware measures as.
//!
//! ```text
//! SoftwareIdentity
//! ├── Meta       product, colloquialVersion
//! ├── Payload
//! │   └── Resource type="Measurement" index active alternatives size Hash0 ...
//! └── Signature
//! ```
//!
//! A resource whose `active` is true says that the measurement with its index is one of
//! its hashes. A manifest is verified once, at a stated time, and then serves for any
//! report within its window; its signer's certificate runs for two years, after which
//! NVIDIA signs the same manifest again.
//!
//! Sources: ISO/IEC 19770-2:2015; TCG Reference Integrity Manifest Information Model.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::register::{Digest256, Digest384};
use crate::signature::{Scheme, Signature, verify};
use crate::time::{UnixTime, Window};

use super::architecture::Architecture;
use super::chain::{Chain, ChainError, Fault, MANIFEST, Role, TrustAnchor, Unasked};
use super::dsig::{DsigError, Envelope};
use super::revocation::Revocation;
use super::xml::{Element, XmlError};

/// A manifest that NVIDIA signed.
#[derive(Clone, Debug)]
pub struct Rim {
    digest: Digest256,
    product: String,
    architecture: Architecture,
    version: String,
    validity: Window,
    unasked: Vec<Unasked>,
    /// By index; only those that count.
    measurements: BTreeMap<u8, Vec<Digest384>>,
}

impl Rim {
    /// Checks a manifest at a stated time.
    pub fn verify(
        document: &[u8],
        revocation: &Revocation<'_>,
        at: UnixTime,
    ) -> Result<Self, RimError> {
        Self::check(&TrustAnchor::manifests(), document, revocation, at)
    }

    /// The same under a made-up root.
    #[cfg(feature = "test-root")]
    pub fn verify_under(
        anchor: &TrustAnchor,
        document: &[u8],
        revocation: &Revocation<'_>,
        at: UnixTime,
    ) -> Result<Self, RimError> {
        Self::check(anchor, document, revocation, at)
    }

    fn check(
        anchor: &TrustAnchor,
        document: &[u8],
        revocation: &Revocation<'_>,
        at: UnixTime,
    ) -> Result<Self, RimError> {
        let root = Element::parse(document)?;
        let envelope = Envelope::open(&root)?;
        let chain = Chain::verify(&envelope.certificates, MANIFEST, anchor, revocation, at)?;
        let [signer, level_3, ..] = &chain.certificates;
        verify(
            Scheme::P384Sha384,
            signer.key.point,
            &envelope.signed_info,
            Signature::Fixed(&envelope.signature),
        )
        .map_err(|_| RimError::Signature)?;
        let content = read(&root)?;
        // The names above switches' manifests are not known to us.
        let signs_for = Role::Level3.architecture(level_3)?;
        if content.architecture.is_gpu() && signs_for != Some(content.architecture) {
            return Err(Role::Level3.fault(Fault::Architecture).into());
        }
        Ok(Self {
            digest: Digest256::of(document),
            product: content.product,
            architecture: content.architecture,
            version: content.version,
            validity: chain.validity,
            unasked: chain.unasked,
            measurements: content.measurements,
        })
    }

    /// SHA-256 of the document.
    #[must_use]
    pub const fn digest(&self) -> Digest256 {
        self.digest
    }

    /// The chip that it is for.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.product
    }

    /// The family of that chip.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The driver or the firmware that it is for.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it is for a firmware, by the form of its version; otherwise for a driver.
    #[must_use]
    pub fn is_vbios(&self) -> bool {
        let hex = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.version.split('.').count() == 5 && self.version.split('.').all(hex)
    }

    /// When it may be used.
    #[must_use]
    pub const fn validity(&self) -> Window {
        self.validity
    }

    /// Of which of its certificates it is not known whether they were revoked.
    #[must_use]
    pub fn unasked(&self) -> &[Unasked] {
        &self.unasked
    }

    /// What each measurement that it knows may be, by index from zero.
    #[must_use]
    pub const fn measurements(&self) -> &BTreeMap<u8, Vec<Digest384>> {
        &self.measurements
    }
}

/// Why a document is no manifest to go by.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RimError {
    /// Its chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Its signature has another form, or is about another document.
    #[error(transparent)]
    Dsig(#[from] DsigError),
    /// It is not what a manifest is.
    #[error("{what} in the manifest")]
    Malformed {
        /// What there is.
        what: &'static str,
    },
    /// Not by its signer.
    #[error("the signature does not verify under its signer's key")]
    Signature,
    /// Not XML, or more XML than a manifest needs.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

impl RimError {
    /// Stable name, for scripts.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Chain(error) => error.code(),
            Self::Dsig(DsigError::Digest) => "rim-digest".into(),
            Self::Dsig(_) => "rim-signature-form".into(),
            Self::Malformed { .. } => "rim-malformed".into(),
            Self::Signature => "rim-signature".into(),
            Self::Xml(_) => "rim-xml".into(),
        }
    }
}

struct Content {
    product: String,
    architecture: Architecture,
    version: String,
    measurements: BTreeMap<u8, Vec<Digest384>>,
}

/// Reads what was hashed.
fn read(root: &Element<'_>) -> Result<Content, RimError> {
    let malformed = |what| RimError::Malformed { what };
    if !root.name.is(SWID, "SoftwareIdentity") {
        return Err(malformed("another root element"));
    }
    let elements = root.elements().ok_or_else(|| malformed("text"))?;
    let only = |name| {
        let mut named = elements
            .iter()
            .filter(|element| element.name.is(SWID, name));
        match (named.next(), named.next()) {
            (Some(element), None) => Ok(*element),
            _ => Err(malformed("not one Meta and one Payload")),
        }
    };
    let (meta, payload) = (only("Meta")?, only("Payload")?);
    let attribute = |name| {
        let value = meta.attribute(name).unwrap_or_default();
        match !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(String::from(value)),
            false => Err(malformed("no product or no version")),
        }
    };
    let product = attribute("product")?;
    let architecture = Architecture::of_chip(&product);
    let mut measurements = BTreeMap::new();
    let mut seen = [false; INDICES];
    for resource in payload.elements().ok_or_else(|| malformed("text"))? {
        let (index, active, hashes) = read_resource(resource)
            .ok_or_else(|| malformed("a resource that is no measurement"))?;
        match seen.get_mut(usize::from(index)) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(malformed("a measurement twice or out of range")),
        }
        if active {
            measurements.insert(index, hashes);
        }
    }
    if measurements.is_empty() {
        return Err(malformed("no measurement that counts"));
    }
    Ok(Content {
        architecture: architecture.ok_or_else(|| malformed("an unknown product"))?,
        product,
        version: attribute("colloquialVersion")?,
        measurements,
    })
}

fn read_resource(resource: &Element<'_>) -> Option<(u8, bool, Vec<Digest384>)> {
    let plain = |name| resource.attribute(name);
    let measurement = resource.name.is(SWID, "Resource")
        && resource.children.is_empty()
        && plain("type")? == "Measurement"
        && plain("size")? == "48";
    let active = match plain("active")? {
        "True" | "true" => true,
        "False" | "false" => false,
        _ => return None,
    };
    let (index, alternatives) = (decimal(plain("index")?)?, decimal(plain("alternatives")?)?);
    let mut hashes = BTreeMap::new();
    for attribute in &resource.attributes {
        if attribute.name.namespace == HASH {
            let number = decimal(attribute.name.local.strip_prefix("Hash")?)?;
            let digest = attribute.value.to_ascii_lowercase().parse().ok()?;
            hashes.insert(number, digest);
        } else if !KNOWN.iter().any(|name| attribute.name.is("", name)) {
            return None;
        }
    }
    let numbered = alternatives > 0 && hashes.keys().copied().eq(0..alternatives);
    let hashes = hashes.into_values().collect();
    (measurement && numbered).then_some((index, active, hashes))
}

/// Without a sign or zeros in front.
fn decimal(digits: &str) -> Option<u8> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let short = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain && short)
}

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// Attributes of a resource that are no hashes.
const KNOWN: [&str; 6] = ["type", "index", "active", "alternatives", "name", "size"];
/// As many as a GPU's report has blocks.
const INDICES: usize = 64;
