//! The part of QEMU's command line that is measured.
//!
//! Whoever starts a VM takes these arguments as they are and adds only what no
//! register sees: accelerator, processor model, firmware, kernel, back ends
//! (`net0`, `root`, `model0`.., `tpm0`), fw_cfg files, monitors, and one
//! `-device vfio-pci,host=..,bus=PORT` for each of [`ports`]. Exactly one
//! `-serial` belongs to that, since the first serial port is in the tables.
//!
//! Every shape has the same slots: a model slot that is not used holds an empty
//! disk, so that the number of models does not change the machine.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::machine::{
    DESKTOP_BITS, Edition, FIRST_MODEL, MODELS, Machine, NETWORK, ROOT_DISK, address_bits,
};
use crate::shape::{Platform, Shape};

pub mod version;

/// QEMU's versioned machine type. Tables also differ between releases of QEMU.
pub const MACHINE: &str = "pc-q35-11.1";

/// The release of QEMU that shapes are run with: [`Version::CURRENT`](version::Version::CURRENT).
pub const VERSION: &str = "11.1";

/// Model disks that a VM may have.
pub const MODEL_SLOTS: u8 = MODELS;

/// The measured arguments. `models` are the names of the model disks, whose back
/// ends the caller names `model0`, `model1` and so on.
pub fn arguments(
    shape: &Shape,
    platform: Platform,
    models: &[&str],
) -> Result<Vec<String>, TooManyModels> {
    if models.len() > usize::from(MODEL_SLOTS) {
        return Err(TooManyModels {
            found: models.len(),
        });
    }
    let confidential = match platform {
        Platform::Tdx => ",kernel-irqchip=split,confidential-guest-support=tdx0",
        Platform::Vtpm => "",
    };
    let machine = Machine::of(shape, platform, Edition::V11_1);
    let vcpus = shape.vcpus;
    let mut arguments = Arguments::default();
    arguments.flag("-nodefaults");
    arguments.pair("-display", "none");
    arguments.pair("-vga", "none");
    arguments.pair("-machine", format!("{MACHINE}{BARE}{confidential}"));
    arguments.pair("-smp", format!("{vcpus},sockets=1,cores={vcpus},threads=1"));
    arguments.pair("-m", format!("{}M", shape.memory.mib));
    // As large as OVMF's own window, so that neither devices nor their BARs move its end.
    let window = machine.window.end.saturating_sub(machine.window.start) >> 30;
    arguments.pair("-global", format!("q35-pcihost.pci-hole64-size={window}G"));
    arguments.pair("-global", NO_ACPI_HOTPLUG);
    arguments.device(format!(
        "virtio-net-pci,netdev=net0,addr={NETWORK:#x},romfile={MODERN}"
    ));
    arguments.device(format!(
        "virtio-blk-pci,drive=root,addr={ROOT_DISK:#x},serial=cocoon-root{MODERN}"
    ));
    for (slot, address) in (0..MODEL_SLOTS).zip(FIRST_MODEL..) {
        let serial = match models.get(usize::from(slot)) {
            Some(name) => format!(",serial=model-{name}"),
            None => {
                arguments.pair("-blockdev", format!("{EMPTY_DISK},node-name=model{slot}"));
                String::new()
            }
        };
        arguments.device(format!(
            "virtio-blk-pci,drive=model{slot},addr={address:#x}{serial}{MODERN}"
        ));
    }
    for ((port, address), chassis) in ports(shape).zip(machine.root_ports).zip(1..) {
        arguments.device(format!(
            "pcie-root-port,id={port},bus=pcie.0,chassis={chassis},addr={address:#x},hotplug=off"
        ));
    }
    if platform == Platform::Vtpm {
        arguments.device("tpm-tis,tpmdev=tpm0");
    }
    Ok(arguments.0)
}

/// Root ports by the names that a device behind one is given as `bus=`: `gpu0`,
/// `gpu1`.., then `switch0`... The tables say that exactly one device is there, not which.
pub fn ports(shape: &Shape) -> impl Iterator<Item = String> + use<> {
    let gpus = (0..shape.gpus).map(|gpu| format!("gpu{gpu}"));
    gpus.chain((0..shape.switches).map(|switch| format!("switch{switch}")))
}

/// What to append to `-cpu MODEL`, so that OVMF puts its 64-bit PCI window where the
/// tables say. In a TD nothing is needed: the window ends at 46 address bits.
#[must_use]
pub const fn cpu_properties(shape: &Shape, platform: Platform) -> &'static str {
    match (platform, address_bits(shape, platform)) {
        (Platform::Tdx, _) => "",
        (Platform::Vtpm, DESKTOP_BITS) => ",guest-phys-bits=39",
        (Platform::Vtpm, _) => ",phys-bits=46,guest-phys-bits=46",
    }
}

/// Nothing that the guest does not need; no management mode, as TDX has none.
const BARE: &str = ",smm=off,hpet=off,pic=off,sata=off,smbus=off,i8042=off,usb=off,vmport=off";
const NO_ACPI_HOTPLUG: &str = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";
/// Virtio 1.0 only, through bounce buffers, as a TD requires.
const MODERN: &str = ",disable-legacy=on,iommu_platform=on";
const EMPTY_DISK: &str = "driver=null-co,size=4096,read-zeroes=on,read-only=on";

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.0.push(value.into());
    }

    fn device(&mut self, value: impl Into<String>) {
        self.pair("-device", value);
    }
}

/// More models than slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{found} models, but a VM has {MODEL_SLOTS} model slots")]
pub struct TooManyModels {
    /// How many were asked for.
    pub found: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a change here changes, every register of every release shows.
    #[test]
    fn the_demo_vm_is_exactly_this() {
        let shape = Shape::named("small").unwrap();
        let found = arguments(shape, Platform::Vtpm, &["cocoon-tiny"]).unwrap();
        let expected = "-nodefaults -display none -vga none \
            -machine pc-q35-11.1,smm=off,hpet=off,pic=off,sata=off,smbus=off,i8042=off,usb=off,vmport=off \
            -smp 2,sockets=1,cores=2,threads=1 -m 2048M \
            -global q35-pcihost.pci-hole64-size=64G \
            -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off \
            -device virtio-net-pci,netdev=net0,addr=0x2,romfile=,disable-legacy=on,iommu_platform=on \
            -device virtio-blk-pci,drive=root,addr=0x3,serial=cocoon-root,disable-legacy=on,iommu_platform=on \
            -device virtio-blk-pci,drive=model0,addr=0x4,serial=model-cocoon-tiny,disable-legacy=on,iommu_platform=on \
            -blockdev driver=null-co,size=4096,read-zeroes=on,read-only=on,node-name=model1 \
            -device virtio-blk-pci,drive=model1,addr=0x5,disable-legacy=on,iommu_platform=on \
            -blockdev driver=null-co,size=4096,read-zeroes=on,read-only=on,node-name=model2 \
            -device virtio-blk-pci,drive=model2,addr=0x6,disable-legacy=on,iommu_platform=on \
            -blockdev driver=null-co,size=4096,read-zeroes=on,read-only=on,node-name=model3 \
            -device virtio-blk-pci,drive=model3,addr=0x7,disable-legacy=on,iommu_platform=on \
            -device tpm-tis,tpmdev=tpm0";
        assert_eq!(found.join(" "), expected);
        assert_eq!(cpu_properties(shape, Platform::Vtpm), ",guest-phys-bits=39");
    }

    #[test]
    fn gpus_have_a_root_port_each() {
        let shape = Shape::named("gpu8").unwrap();
        let found = arguments(shape, Platform::Tdx, &[]).unwrap().join(" ");
        assert_eq!(found.matches("pcie-root-port").count(), 8);
        assert!(found.contains("id=gpu7,bus=pcie.0,chassis=8,addr=0x17,hotplug=off"));
        assert!(found.contains("confidential-guest-support=tdx0"));
        assert!(found.contains("pci-hole64-size=8192G"));
        assert!(!found.contains("tpm"));
        assert_eq!(ports(shape).last().unwrap(), "gpu7");
    }

    #[test]
    fn switches_have_the_ports_behind_the_gpus() {
        let shape = Shape::named("gpu8sw4-v128-m2048g").unwrap();
        let found = arguments(shape, Platform::Tdx, &[]).unwrap().join(" ");
        assert!(found.contains("id=switch3,bus=pcie.0,chassis=12,addr=0x1b,hotplug=off"));
        assert_eq!(ports(shape).count(), 12);
    }

    #[test]
    fn memory_that_39_address_bits_cannot_hold_gets_46() {
        for (name, expected) in [
            ("cpu-v16-m256g", ",guest-phys-bits=39"),
            ("cpu-v32-m512g", ",phys-bits=46,guest-phys-bits=46"),
        ] {
            let shape = Shape::named(name).unwrap();
            assert_eq!(cpu_properties(shape, Platform::Vtpm), expected);
        }
    }

    #[test]
    fn a_fifth_model_is_refused() {
        let shape = Shape::named("small").unwrap();
        let error = arguments(shape, Platform::Vtpm, &["a"; 5]).unwrap_err();
        assert_eq!(error.to_string(), "5 models, but a VM has 4 model slots");
    }
}
