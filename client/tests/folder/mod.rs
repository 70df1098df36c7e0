//! A folder as the image build leaves it, and the program to try on it.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests, on made-up files"
)]
#![allow(dead_code, reason = "no story needs all of it")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attestation::verity::TreeBuilder;
use serde_json::json;

/// Makes the manifest of a folder of artefacts; its path.
pub(crate) fn release(folder: &Path) -> String {
    let [release, config] = ["release.json", "demo.toml"].map(|name| folder.join(name));
    let made = cocoon(&[
        "release",
        "make",
        "--artefacts",
        folder.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
        "--out",
        release.to_str().unwrap(),
    ]);
    assert_eq!(exit(&made), 0, "{made:?}");
    release.to_str().unwrap().into()
}

pub(crate) fn cocoon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon"))
        .args(arguments)
        .output()
        .unwrap()
}

pub(crate) fn exit(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn manifest_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder as the image build leaves it: real firmware, the rest made up.
pub(crate) fn artefacts(name: &str) -> Option<PathBuf> {
    let firmware = firmware()?;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let data = vec![7; 2 * 4096];
    let mut tree = TreeBuilder::new([9; 32]);
    data.as_chunks().0.iter().for_each(|block| tree.push(block));
    let built = tree.finish().unwrap();
    let verity = format!("{}\n", built.verity);
    let files: [(&str, Vec<u8>); 7] = [
        ("OVMF.fd", firmware),
        ("vmlinuz", kernel()),
        (
            "initrd",
            archive(&[("init", "program"), ("verity", &verity)]),
        ),
        ("root.img", [data, built.hash_area].concat()),
        ("cmdline", b"console=ttyS0".to_vec()),
        ("manifest.json", manifest()),
        ("demo.toml", b"version = 1\nrole = \"worker\"\n".to_vec()),
    ];
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
    Some(folder)
}

pub(crate) fn firmware() -> Option<Vec<u8>> {
    let package = "boot/distro-ovmf/OVMF-debian-2025.02-8+deb13u1.fd.xz";
    Some(unpack(&vectors()?.join(package)))
}

pub(crate) fn vectors() -> Option<PathBuf> {
    let vectors = env::var_os("COCOON_VECTORS").map_or_else(
        || manifest_dir().join("../../shared/vectors"),
        PathBuf::from,
    );
    if vectors.is_dir() {
        return Some(vectors);
    }
    assert!(env::var_os("CI").is_none(), "no vectors at {vectors:?}");
    eprintln!("skipped: no vectors");
    None
}

pub(crate) fn unpack(packed: &Path) -> Vec<u8> {
    let output = Command::new("xz").arg("-dc").arg(packed).output().unwrap();
    assert!(output.status.success(), "xz cannot unpack {packed:?}");
    output.stdout
}

/// The smallest PE32+ image: headers of 512 bytes, no section.
pub(crate) fn kernel() -> Vec<u8> {
    let mut file = vec![0; 512];
    for (at, value) in [
        (0, u32::from_le_bytes(*b"MZ\0\0")),
        (60, 64),
        (64, u32::from_le_bytes(*b"PE\0\0")),
        (84, 240),
        (88, 0x20b),
        (148, 512),
    ] {
        file[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    file
}

pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files.iter().chain([&("TRAILER!!!", "")]) {
        let fields = [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0];
        let fields: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        let size = name.len() + 1;
        bytes.extend(format!("070701{fields}{size:08X}00000000{name}\0").bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The build's own manifest.
fn manifest() -> Vec<u8> {
    let hash = "0".repeat(64);
    let libc6 =
        json!({"name": "libc6", "version": "2.41", "architecture": "amd64", "sha256": hash});
    let serde = json!({"name": "serde", "version": "1.0.0", "sha256": hash});
    let init = json!({"name": "init", "version": "0.1.0", "sha256": null});
    let manifest = json!({
        "packages": ["libc6 2.41"],
        "materials": {
            "profile": "base",
            "packages_lock": hash,
            "cargo_lock": hash,
            "rust": "1.95.0",
            "parts": [
                {"artefact": "initrd", "debian": [], "crates": [init]},
                {"artefact": "root.img", "debian": [libc6], "crates": [serde]},
            ],
        },
    });
    manifest.to_string().into_bytes()
}
