//! `cocoon measure` and `cocoon release`, as an auditor calls them.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests, on made-up files"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attestation::verity::TreeBuilder;

#[test]
fn a_release_is_made_checked_and_predicted() {
    let Some(folder) = artefacts("whole") else {
        return;
    };
    let release = release(&folder);
    let artefacts = folder.to_str().unwrap();

    let checked = cocoon(&[
        "release",
        "check",
        "--release",
        &release,
        "--artefacts",
        artefacts,
    ]);
    assert_eq!((exit(&checked), stdout(&checked)), (0, String::new()));

    let predicted = cocoon(&[
        "measure",
        "predict",
        "--release",
        &release,
        "--shape",
        "gpu1",
    ]);
    assert_eq!(exit(&predicted), 0, "{predicted:?}");
    let names: Vec<_> = stdout(&predicted)
        .lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]);

    let shapes = cocoon(&["measure", "shapes", "--release", &release]);
    let mrtd = stdout(&predicted).lines().next().unwrap().to_owned();
    assert!(stdout(&shapes).contains(&format!("gpu1-v16-m128g.tdx.{mrtd}\n")));
}

#[test]
fn another_kernel_is_named_with_the_registers_it_changes() {
    let Some(folder) = artefacts("changed") else {
        return;
    };
    let release = release(&folder);
    let artefacts = folder.to_str().unwrap();
    let mut kernel = kernel();
    kernel.push(1);
    fs::write(folder.join("vmlinuz"), kernel).unwrap();

    let checked = cocoon(&[
        "release",
        "check",
        "--release",
        &release,
        "--artefacts",
        artefacts,
    ]);
    assert_eq!(exit(&checked), 1);
    let text = stdout(&checked);
    let names: Vec<_> = text
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .filter(|name| !name.contains("cpu-") && !name.contains("gpu"))
        .collect();
    assert_eq!(
        names,
        [
            "artefacts.vmlinuz.sha256",
            "artefacts.vmlinuz.size",
            "shapes.small.tdx.rtmr1",
            "shapes.small.vtpm.pcr4",
        ]
    );

    let predicted = cocoon(&[
        "measure",
        "predict",
        "--release",
        &release,
        "--shape",
        "small",
    ]);
    assert_eq!(exit(&predicted), 1);
    assert!(stderr(&predicted).contains("rtmr1 is not what"));
}

#[test]
fn a_log_is_explained_event_by_event() {
    let Some(folder) = artefacts("explained") else {
        return;
    };
    let log = manifest_dir().join("../measurements/tests/vectors/small-vtpm.eventlog");
    let explained = cocoon(&[
        "measure",
        "explain",
        "--artefacts",
        folder.to_str().unwrap(),
        "--shape",
        "small",
        "--log",
        log.to_str().unwrap(),
    ]);
    assert_eq!(exit(&explained), 1);
    let text = stdout(&explained);
    let different: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("DIFF "))
        .map(|line| line.split(" expected").next().unwrap())
        .collect();
    // Another kernel, command line and initrd; the same firmware and shape.
    assert_eq!(
        different,
        [
            "PCR 4 0 kernel image (kernel)",
            "PCR 9 0 load options (command line)",
            "PCR 9 1 initrd (initrd)",
        ]
    );
}

#[test]
fn what_cannot_be_told_exits_with_two_and_says_why() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("not-firmware");
    fs::write(&file, [0; 100]).unwrap();
    let output = cocoon(&["measure", "mrtd", file.to_str().unwrap()]);
    assert_eq!(exit(&output), 2);
    assert!(stderr(&output).contains(
        "not-firmware is not for TDX: no GUIDed table 48 bytes before the end of the firmware"
    ));

    let output = cocoon(&[
        "measure",
        "predict",
        "--artefacts",
        "/nowhere",
        "--shape",
        "huge",
    ]);
    assert_eq!(exit(&output), 2);
    assert!(stderr(&output).contains("expected one of small, cpu-v4-m16g, "));
}

/// Makes the manifest of a folder of artefacts; its path.
fn release(folder: &Path) -> String {
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

fn cocoon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon"))
        .args(arguments)
        .output()
        .unwrap()
}

fn exit(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn manifest_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder as the image build leaves it: real firmware, the rest made up.
fn artefacts(name: &str) -> Option<PathBuf> {
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
        ("manifest.json", br#"{"packages": ["libc6 2.41"]}"#.to_vec()),
        ("demo.toml", b"version = 1\nrole = \"worker\"\n".to_vec()),
    ];
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
    Some(folder)
}

fn firmware() -> Option<Vec<u8>> {
    let vectors = env::var_os("COCOON_VECTORS").map_or_else(
        || manifest_dir().join("../../shared/vectors"),
        PathBuf::from,
    );
    if vectors.is_dir() {
        return Some(unpack(
            &vectors.join("boot/distro-ovmf/OVMF-debian-2025.02-8+deb13u1.fd.xz"),
        ));
    }
    assert!(env::var_os("CI").is_none(), "no vectors at {vectors:?}");
    eprintln!("skipped: no vectors");
    None
}

fn unpack(packed: &Path) -> Vec<u8> {
    let output = Command::new("xz").arg("-dc").arg(packed).output().unwrap();
    assert!(output.status.success(), "xz cannot unpack {packed:?}");
    output.stdout
}

/// The smallest PE32+ image: headers of 512 bytes, no section.
fn kernel() -> Vec<u8> {
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

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
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
