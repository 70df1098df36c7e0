//! `cocoon measure` and `cocoon release check`, as an auditor calls them.

mod folder;

use std::fs;
use std::path::PathBuf;

use folder::{
    artefacts, cocoon, exit, kernel, manifest_dir, release, stderr, stdout, unpack, vectors,
};

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
