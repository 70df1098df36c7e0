//! The release as a CoRIM: the same reference values, for verifiers of other makes.
//!
//! Says nothing that the manifest does not, and follows from it byte for byte. One
//! environment for the files, one for each shape on each platform, and one for each
//! configuration; one measurement for each file or register.
//!
//! Source: draft-ietf-rats-corim, section 4.1 (unsigned CoRIM) and section 5 (CoMID);
//! the keys of the maps are theirs. Digest algorithms are numbered by the IANA registry
//! "Named Information Hash Algorithm".

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

use attestation::cbor;
use attestation::register::{Digest256, Digest384};
use minicbor::bytes::ByteVec;
use minicbor::data::Tagged;
use minicbor::{CborLen, Encode};

use crate::release::{BootPcrs, Release};

/// The unsigned CoRIM of the release whose manifest has this digest.
#[must_use]
pub fn corim(release: &Release, manifest: Digest256) -> Vec<u8> {
    let id = format!("urn:cocoon:release:sha256:{manifest}");
    let comid = Comid {
        identity: TagIdentity { id: id.clone() },
        triples: Triples {
            reference: triples(release),
        },
    };
    let tags = vec![Tagged::from(ByteVec::from(cbor::encode(&comid)))];
    cbor::encode(&Corim { id, tags })
}

fn triples(release: &Release) -> Vec<Triple> {
    let files = release.artefacts.iter();
    let files = files.map(|file| Measurement::sha256(&file.name, file.sha256));
    let mut triples = vec![Triple::of("image", files.collect())];
    for shape in &release.shapes {
        let registers = [
            ("mrtd", shape.tdx.mrtd),
            ("rtmr0", shape.tdx.rtmr0),
            ("rtmr1", shape.tdx.rtmr1),
            ("rtmr2", shape.tdx.rtmr2),
            ("rtmr3", shape.tdx.rtmr3),
        ]
        .map(|(name, value)| Measurement::sha384(name, value));
        triples.push(Triple::of(&format!("tdx/{}", shape.name), registers.into()));
        let pcrs = pcrs(&shape.vtpm);
        triples.push(Triple::of(&format!("vtpm/{}", shape.name), pcrs));
    }
    for config in &release.configs {
        let values = vec![
            Measurement::sha384("mrconfigid", config.sha384),
            Measurement::sha256("pcr8", config.pcr8),
        ];
        triples.push(Triple::of(&format!("config/{}", config.name), values));
    }
    triples
}

/// All but PCR 8, which is the configuration's.
fn pcrs(values: &BootPcrs) -> Vec<Measurement> {
    let all = values.with_config(Digest256::ZERO);
    let named = all.iter().enumerate().filter(|(index, _)| *index != 8);
    named
        .map(|(index, value)| Measurement::sha256(&format!("pcr{index}"), *value))
        .collect()
}

/// `tagged-unsigned-corim-map`.
#[derive(CborLen, Encode)]
#[cbor(map, tag(501))]
struct Corim {
    #[n(0)]
    id: String,
    /// Each `tagged-concise-mid-tag`: a CoMID in a byte string.
    #[n(1)]
    tags: Vec<Tagged<506, ByteVec>>,
}

/// `concise-mid-tag`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct Comid {
    #[n(1)]
    identity: TagIdentity,
    #[n(4)]
    triples: Triples,
}

/// `tag-identity-map`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct TagIdentity {
    #[n(0)]
    id: String,
}

/// `triples-map`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct Triples {
    #[n(0)]
    reference: Vec<Triple>,
}

/// `reference-triple-record`.
#[derive(CborLen, Encode)]
#[cbor(array)]
struct Triple {
    #[n(0)]
    environment: Environment,
    #[n(1)]
    measurements: Vec<Measurement>,
}

impl Triple {
    fn of(model: &str, measurements: Vec<Measurement>) -> Self {
        let class = Class {
            vendor: "cocoon",
            model: model.into(),
        };
        Self {
            environment: Environment { class },
            measurements,
        }
    }
}

/// `environment-map`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct Environment {
    #[n(0)]
    class: Class,
}

/// `class-map`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct Class {
    #[n(1)]
    vendor: &'static str,
    #[n(2)]
    model: String,
}

/// `measurement-map`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct Measurement {
    #[n(0)]
    key: String,
    #[n(1)]
    values: Values,
}

impl Measurement {
    fn sha256(key: &str, value: Digest256) -> Self {
        Self::of(key, 1, value.as_bytes())
    }

    fn sha384(key: &str, value: Digest384) -> Self {
        Self::of(key, 7, value.as_bytes())
    }

    fn of(key: &str, algorithm: u8, value: &[u8]) -> Self {
        let digest = Digest {
            algorithm,
            value: value.to_vec().into(),
        };
        Self {
            key: key.to_string(),
            values: Values {
                digests: vec![digest],
            },
        }
    }
}

/// `measurement-values-map`.
#[derive(CborLen, Encode)]
#[cbor(map)]
struct Values {
    #[n(2)]
    digests: Vec<Digest>,
}

/// `digest`.
#[derive(CborLen, Encode)]
#[cbor(array)]
struct Digest {
    #[n(0)]
    algorithm: u8,
    #[n(1)]
    value: ByteVec,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::corim::types::common::MeasuredElement;
    use ::corim::validate::decode_and_validate;

    const PUBLISHED: &[u8] = include_bytes!("../releases/current.json");

    #[test]
    fn an_independent_reader_finds_every_value_of_the_manifest() {
        let release = Release::parse(PUBLISHED).unwrap();
        let digest = Digest256::of(PUBLISHED);
        let bytes = corim(&release, digest);
        let (_, comids) = decode_and_validate(&bytes).unwrap();
        let [comid] = &comids[..] else {
            panic!("{} tags", comids.len())
        };
        let triples = comid.triples.reference_triples.as_ref().unwrap();
        let mut found = Vec::new();
        for triple in triples {
            let class = triple.environment().class.as_ref().unwrap();
            assert_eq!(class.vendor.as_deref(), Some("cocoon"));
            for measurement in triple.measurements() {
                let Some(MeasuredElement::Text(key)) = &measurement.mkey else {
                    panic!("{measurement:?}")
                };
                let [digest] = &measurement.mval.digests.as_ref().unwrap()[..] else {
                    panic!("{measurement:?}")
                };
                let hex = hex::encode(digest.value());
                found.push(format!("{}.{key} {hex}", class.model.as_ref().unwrap()));
            }
        }
        let mut expected = Vec::new();
        for file in &release.artefacts {
            expected.push(format!("image.{} {}", file.name, file.sha256));
        }
        for shape in &release.shapes {
            let (tdx, vtpm) = (&shape.tdx, &shape.vtpm);
            for (name, value) in crate::diff::values(tdx).unwrap() {
                expected.push(format!("tdx/{}.{name} {value}", shape.name));
            }
            for (name, value) in crate::diff::values(vtpm).unwrap() {
                expected.push(format!("vtpm/{}.{name} {value}", shape.name));
            }
        }
        for config in &release.configs {
            expected.push(format!(
                "config/{}.mrconfigid {}",
                config.name, config.sha384
            ));
            expected.push(format!("config/{}.pcr8 {}", config.name, config.pcr8));
        }
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn another_manifest_is_another_corim() {
        let release = Release::parse(PUBLISHED).unwrap();
        let [a, b] = [b"a", b"b"].map(|bytes| corim(&release, Digest256::of(bytes)));
        assert_ne!(a, b);
    }
}
