//! The QEMU command of every shape, as it was reviewed.
//!
//! The file has the command of the smallest shape in full, one option a line, and
//! for each other what differs from the first with as many GPUs. A change here is a change of what hosts
//! run: look at the difference, then put the new file in place.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use client::host::accelerator::Accelerator;
use client::host::server::Endpoint;
use client::host::vm::{Image, ModelDisk, Vm};
use measurements::qemu;
use measurements::shape::{Platform, SHAPES, Shape};

#[test]
fn the_command_of_every_shape_is_the_reviewed_one() {
    let mut text = String::new();
    for platform in Platform::ALL {
        let (smallest, others) = SHAPES.split_first().unwrap();
        text += &format!(
            "# {platform}\n{}\n\n",
            options(smallest, platform).join("\n")
        );
        for shape in others {
            let ports = |shape: &Shape| (shape.gpus, shape.switches);
            let mut alike = SHAPES.iter().filter(|other| ports(other) == ports(shape));
            let first = alike.next().filter(|first| *first != shape);
            let base = first.unwrap_or(smallest);
            let (from, to) = (options(base, platform), options(shape, platform));
            let only = |these: &[String], those: &[String]| {
                let only = these.iter().filter(|option| !those.contains(option));
                only.cloned().collect::<Vec<_>>().join(" ")
            };
            let (gone, added) = (only(&from, &to), only(&to, &from));
            text += &format!("{} is {} not {gone} but {added}\n", shape.name, base.name);
        }
        text += "\n";
    }
    let reviewed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/qemu-commands");
    if fs::read_to_string(&reviewed).unwrap_or_default() != text {
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-commands");
        fs::write(&found, text).unwrap();
        panic!(
            "the commands differ: diff {} {}",
            reviewed.display(),
            found.display()
        );
    }
}

/// Each option with its value.
fn options(shape: &'static Shape, platform: Platform) -> Vec<String> {
    let buses = qemu::ports(shape).zip(0x10..);
    let devices = buses.map(|(_, bus)| format!("0000:{bus:02x}:00.0"));
    let vm = Vm {
        shape,
        platform,
        accelerator: Accelerator::Kvm,
        image: Image {
            firmware: "/image/OVMF.fd".into(),
            kernel: "/image/vmlinuz".into(),
            initrd: "/image/initrd".into(),
            root: "/image/root.img".into(),
            command_line: "console=ttyS0".into(),
        },
        models: [ModelDisk {
            name: "model".into(),
            path: "/model".into(),
        }]
        .into(),
        devices: devices.map(|device| device.parse().unwrap()).collect(),
        measured: "MEASURED".into(),
        unmeasured: "UNMEASURED".into(),
        state: "/run/cocoon/worker".into(),
        listen: "0.0.0.0:8443".parse().unwrap(),
        port: 8443,
        qgs: Endpoint::Vsock(4050),
    };
    let mut options: Vec<String> = Vec::new();
    for argument in vm.arguments().unwrap() {
        match options.last_mut() {
            Some(option) if !argument.starts_with('-') => {
                option.push(' ');
                option.push_str(&argument);
            }
            _ => options.push(argument),
        }
    }
    options
}
