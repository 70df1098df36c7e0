//! What each artefact is made of, as CycloneDX 1.5 (ECMA-424).
//!
//! Says what the build states; it proves nothing. Without serial number and time, so
//! that everyone writes the same bytes.

use measurements::materials::{Crate, Materials, Package};
use measurements::release::Release;
use serde::Serialize;

/// The document for the artefacts of `release`.
pub fn sbom(release: &Release, materials: &Materials) -> serde_json::Result<String> {
    let bom = Bom::of(release, materials);
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

impl Bom {
    fn of(release: &Release, materials: &Materials) -> Self {
        let mut components: Vec<Component> = release
            .artefacts
            .iter()
            .map(|file| Component {
                kind: "file",
                reference: file.name.clone(),
                name: file.name.clone(),
                version: None,
                purl: None,
                hashes: sha256(&file.sha256),
            })
            .collect();
        let mut dependencies = vec![Dependency {
            reference: IMAGE.into(),
            depends_on: components
                .iter()
                .map(|file| file.reference.clone())
                .collect(),
        }];
        let mut made_of = Vec::new();
        for part in &materials.parts {
            let parts: Vec<Component> = part
                .debian
                .iter()
                .map(Component::of_debian)
                .chain(part.crates.iter().map(Component::of_crate))
                .collect();
            dependencies.push(Dependency {
                reference: part.artefact.clone(),
                depends_on: parts.iter().map(|item| item.reference.clone()).collect(),
            });
            made_of.extend(parts);
        }
        made_of.sort_by(|a, b| a.reference.cmp(&b.reference));
        made_of.dedup_by(|a, b| a.reference == b.reference);
        components.extend(made_of);
        let image = Component {
            kind: "operating-system",
            reference: IMAGE.into(),
            name: IMAGE.into(),
            version: Some(release.version.clone()),
            purl: None,
            hashes: Vec::new(),
        };
        Self {
            bom_format: "CycloneDX",
            spec_version: "1.5",
            version: 1,
            metadata: Metadata { component: image },
            components,
            dependencies,
        }
    }
}

#[derive(Serialize)]
struct Metadata {
    component: Component,
}

#[derive(Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

impl Component {
    fn of_debian(package: &Package) -> Self {
        let purl = debian_url(package);
        Self {
            kind: "library",
            reference: purl.clone(),
            name: package.name.clone(),
            version: Some(package.version.clone()),
            purl: Some(purl),
            hashes: sha256(&package.sha256),
        }
    }

    fn of_crate(item: &Crate) -> Self {
        let purl = crate_url(item);
        Self {
            kind: "library",
            reference: purl.clone(),
            name: item.name.clone(),
            version: Some(item.version.clone()),
            // Ours are in no registry.
            purl: item.sha256.is_some().then_some(purl),
            hashes: item.sha256.as_ref().map(sha256).unwrap_or_default(),
        }
    }
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

fn sha256(digest: &impl ToString) -> Vec<Hash> {
    vec![Hash {
        alg: "SHA-256",
        content: digest.to_string(),
    }]
}

#[derive(Serialize)]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(rename = "dependsOn")]
    depends_on: Vec<String>,
}

/// Package URL of a Debian package.
pub(super) fn debian_url(package: &Package) -> String {
    let Package {
        name,
        version,
        architecture,
        ..
    } = package;
    let (name, version) = (escape(name), escape(version));
    format!("pkg:deb/debian/{name}@{version}?arch={architecture}")
}

/// Package URL of a crate.
pub(super) fn crate_url(item: &Crate) -> String {
    format!("pkg:cargo/{}@{}", item.name, escape(&item.version))
}

/// Percent-encodes what a package URL reserves and Debian uses.
fn escape(text: &str) -> String {
    text.replace('%', "%25")
        .replace('+', "%2B")
        .replace(':', "%3A")
}

const IMAGE: &str = "cocoon";

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use attestation::register::Digest256;
    use cyclonedx_bom::prelude::{Bom as Read, Validate};
    use measurements::materials::Part;

    pub(in crate::release) fn materials() -> Materials {
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            sha256: Digest256::of(name.as_bytes()),
        };
        let item = |name: &str, sha256| Crate {
            name: name.into(),
            version: "1.0.0+spec".into(),
            sha256,
        };
        Materials {
            profile: "base".into(),
            packages_lock: Digest256::of(b"packages"),
            cargo_lock: Digest256::of(b"cargo"),
            rust: "1.95.0".into(),
            parts: vec![
                Part {
                    artefact: "initrd".into(),
                    debian: vec![package("libc6-dev", "2.41")],
                    crates: vec![item("init", None), item("serde", Some(Digest256::ZERO))],
                },
                Part {
                    artefact: "root.img".into(),
                    debian: vec![package("zlib1g", "1:1.3.dfsg+really1.3.1-1~x")],
                    crates: vec![item("serde", Some(Digest256::ZERO))],
                },
            ],
        }
    }

    fn published() -> Release {
        let bytes = include_bytes!("../../../measurements/releases/current.json");
        Release::parse(bytes).unwrap()
    }

    #[test]
    fn an_independent_reader_takes_the_document() {
        let text = sbom(&published(), &materials()).unwrap();
        let read = Read::parse_from_json_v1_5(text.as_bytes()).unwrap();
        let validation = read.validate();
        assert!(validation.passed(), "{validation:?}");
        // Four files, two packages, two crates of which one is in both artefacts.
        assert_eq!(read.components.unwrap().0.len(), 8);
    }

    #[test]
    fn what_a_package_url_reserves_is_escaped() {
        let materials = materials();
        assert_eq!(
            debian_url(&materials.parts[1].debian[0]),
            "pkg:deb/debian/zlib1g@1%3A1.3.dfsg%2Breally1.3.1-1~x?arch=amd64"
        );
        let url = crate_url(&materials.parts[0].crates[1]);
        assert_eq!(url, "pkg:cargo/serde@1.0.0%2Bspec");
    }

    #[test]
    fn the_same_materials_give_the_same_bytes() {
        let [a, b] = [0; 2].map(|_| sbom(&published(), &materials()).unwrap());
        assert_eq!(a, b);
        let mut other = materials();
        other.parts[0].debian[0].version = "2.42".into();
        assert_ne!(sbom(&published(), &other).unwrap(), a);
    }
}
