//! `measurements/releases/current.json` stays true: of the artefacts that this
//! checkout built, if it did.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use attestation::register::Digest256;
use client::release::documents::{Documents, Manifest};
use client::release::provenance::Stated;
use measurements::release::Release;

#[test]
fn the_published_release_agrees_with_itself() {
    let release = Release::parse(include_bytes!("../../measurements/releases/current.json"));
    release.unwrap();
}

#[test]
fn the_documents_beside_the_published_release_are_about_it() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../measurements/releases/current.json");
    let manifest = Manifest::read(&path).unwrap();
    let documents = Documents::beside(&path);
    assert_eq!(fs::read(documents.corim).unwrap(), manifest.corim());
    let provenance = fs::read(documents.provenance).unwrap();
    let stated = Stated::read(&provenance, &manifest).unwrap();
    assert_eq!(stated.profile(), Some("base"));
    let sbom = fs::read(documents.sbom).unwrap();
    assert!(stated.speaks_of("release.cdx.json", Digest256::of(&sbom)));
}

#[test]
fn the_published_release_is_what_this_source_builds_to() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let release = root.join("measurements/releases/current.json");
    let artefacts = root.join("target/image/base");
    if !artefacts.join("manifest.json").is_file() {
        assert!(env::var_os("CI").is_none(), "no image at {artefacts:?}");
        eprintln!("skipped: no image");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_cocoon"))
        .args(["release", "check", "--release"])
        .arg(release)
        .arg("--artefacts")
        .arg(artefacts)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
}
