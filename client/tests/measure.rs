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

/// As published for eight GPUs with 512 GiB, and as read in a live TD with 16 GiB.
#[test]
fn recorded_blobs_give_the_published_registers() {
    let Some(vectors) = vectors() else { return };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let firmware = folder.join("ubuntu.fd");
    let packed = vectors.join("boot/distro-ovmf/OVMF-ubuntu-2025.02-3ubuntu2.fd.xz");
    fs::write(&firmware, unpack(&packed)).unwrap();
    let firmware = firmware.to_str().unwrap();
    let output = cocoon(&["measure", "mrtd", firmware]);
    assert!(stdout(&output).starts_with("mrtd 7357a10d2e2724dffe68813e"));
    for (shape, memory, expected) in [
        ("hw1", "524288", "rtmr0 5c70e5e5"),
        (
            "small_0d_new",
            "16384",
            "rtmr0 a2749c840579faca6adf0c9c3ab69f277556cda67f8a6b3553c2c7fbf00e9706\
             ec77a6f6960d802433b339ff8b72eefb\n",
        ),
    ] {
        let file = |name: &str| {
            let path = vectors.join("boot/acpi-shapes").join(shape).join(name);
            path.to_str().unwrap().to_owned()
        };
        let [loader, rsdp, tables] = ["table_loader.bin", "rsdp.bin", "acpi_tables.bin"].map(file);
        let [boot_order, boot_option] = ["BootOrder.bin", "Boot0000.bin"].map(file);
        let blobs = [
            [
                "measure",
                "rtmr0",
                "--firmware",
                firmware,
                "--memory",
                memory,
            ]
            .as_slice(),
            &["--table-loader", &loader, "--rsdp", &rsdp],
            &["--acpi-tables", &tables],
        ]
        .concat();
        let boot = ["--boot-order", &boot_order, "--boot-option", &boot_option];
        for arguments in [blobs.clone(), [&blobs[..], &boot].concat()] {
            let output = cocoon(&arguments);
            assert_eq!(exit(&output), 0, "{output:?}");
            assert!(stdout(&output).starts_with(expected), "{output:?}");
        }
        let swapped = [&blobs[..6], &["--table-loader", &rsdp], &blobs[8..]].concat();
        let output = cocoon(&swapped);
        assert_eq!(exit(&output), 2, "{output:?}");
    }
}

#[test]
fn the_log_of_another_td_is_explained_against_a_release() {
    let (Some(folder), Some(vectors)) = (artefacts("ccel"), vectors()) else {
        return;
    };
    let release = release(&folder);
    let log = vectors.join("boot/confidential-containers+trustee/eventlog/CCEL_data_ovmf");
    let arguments = [
        ["measure", "explain", "--release", &release].as_slice(),
        &["--shape", "gpu8", "--ccel", log.to_str().unwrap()],
    ]
    .concat();
    let explained = cocoon(&arguments);
    assert_eq!(exit(&explained), 1, "{explained:?}");
    let text = stdout(&explained);
    assert!(text.contains("DIFF RTMR0 0 TD HOB (VM shape) expected "));
    assert!(text.contains("ok   RTMR0 "), "{text}");
    let json = cocoon(&[&arguments[..], &["--json"]].concat());
    let lines: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(lines.as_array().unwrap().len(), text.lines().count());
}

#[test]
fn a_kernel_is_predicted_on_other_releases() {
    let Some(folder) = artefacts("kernel") else {
        return;
    };
    let [kernel, initrd] = ["vmlinuz", "initrd"].map(|name| folder.join(name));
    let [kernel, initrd] = [&kernel, &initrd].map(|path| path.to_str().unwrap());
    let run = |more: &[&str]| {
        let boot = ["measure", "kernel", kernel, "--initrd", initrd];
        let memory = ["--memory", "2048", "--command-line", "console=ttyS0"];
        cocoon(&[&boot[..], &memory, more].concat())
    };
    let release = release(&folder);
    let predicted = cocoon(&[
        "measure",
        "predict",
        "--release",
        &release,
        "--shape",
        "small",
    ]);
    let current = stdout(&run(&[]));
    for line in current.lines().filter(|line| line.starts_with("rtmr")) {
        assert!(stdout(&predicted).contains(line), "{line}");
    }
    let spelled_otherwise = stdout(&run(&["--edk2", "202508"]));
    let differing: Vec<_> = current
        .lines()
        .zip(spelled_otherwise.lines())
        .filter(|(one, other)| one != other)
        .map(|(line, _)| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(differing, ["rtmr2", "pcr9"]);
    // The made-up kernel has no header that an older QEMU could fill in.
    let filled_in = run(&["--qemu", "9.2"]);
    assert_eq!(exit(&filled_in), 2);
    assert!(stderr(&filled_in).contains("boot sector"), "{filled_in:?}");
    let unknown = cocoon(
        &[
            ["measure", "predict", "--release", &release].as_slice(),
            &["--shape", "small", "--qemu", "10.2"],
        ]
        .concat(),
    );
    assert_eq!(exit(&unknown), 2);
    assert!(stderr(&unknown).contains("tables of QEMU 10.2 are not known"));
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused_by_name() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("noise");
    fs::write(&file, [0xa5; 70_000]).unwrap();
    let noise = file.to_str().unwrap();
    let blobs = [
        "--table-loader",
        noise,
        "--rsdp",
        noise,
        "--acpi-tables",
        noise,
    ];
    for (arguments, expected) in [
        (vec!["mrtd", noise], "is not for TDX"),
        (
            [
                &["rtmr0", "--memory", "2048", "--firmware", noise],
                &blobs[..],
            ]
            .concat(),
            "is not for TDX",
        ),
        (
            vec!["kernel", noise, "--initrd", noise, "--memory", "2048"],
            "has no Authenticode digest: not a PE image",
        ),
        (
            vec!["disk", "--disk", noise, "--uki", noise],
            "partition table is refused: no \"EFI PART\"",
        ),
        (vec!["diff", noise, noise], "is no release manifest"),
        (vec!["shapes", "--release", noise], "is no release manifest"),
    ] {
        let output = cocoon(&[&["measure"], &arguments[..]].concat());
        assert_eq!(exit(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{output:?}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn every_command_has_a_form_for_programs() {
    let Some(folder) = artefacts("json") else {
        return;
    };
    let release = release(&folder);
    let firmware = folder.join("OVMF.fd");
    for arguments in [
        &["mrtd", firmware.to_str().unwrap()][..],
        &["predict", "--release", &release, "--shape", "cpu-4x16"],
        &["shapes", "--release", &release],
        &["arguments", "--shape", "gpu8sw4-v128-m2048g"],
        &["diff", &release, &release],
    ] {
        let output = cocoon(&[&["measure"], arguments, &["--json"]].concat());
        assert_eq!(exit(&output), 0, "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    }
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
    let package = "boot/distro-ovmf/OVMF-debian-2025.02-8+deb13u1.fd.xz";
    Some(unpack(&vectors()?.join(package)))
}

fn vectors() -> Option<PathBuf> {
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
