//! The part of QEMU's command line that is measured.
//!
//! Whoever starts a VM takes these arguments as they are and adds only what no
//! register sees: accelerator, processor model, firmware, kernel, back ends
//! (`net0`, `root`, `model0`.., `tpm0`), fw_cfg files, monitors. Exactly one
//! `-serial` belongs to that, since the first serial port is in the tables.
//!
//! Every shape has the same slots: a model slot that is not used holds an empty
//! disk, so that the number of models does not change the machine.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::shape::{Platform, Shape};

/// QEMU's versioned machine type. Tables also differ between releases of QEMU.
pub const MACHINE: &str = "pc-q35-11.1";

/// The release of QEMU that the tables were made with.
pub const VERSION: &str = "11.1";

/// Model disks that a VM may have.
pub const MODEL_SLOTS: usize = 4;

/// The measured arguments. `models` are the names of the model disks, whose back
/// ends the caller names `model0`, `model1` and so on.
pub fn arguments(
    shape: &Shape,
    platform: Platform,
    models: &[&str],
) -> Result<Vec<String>, TooManyModels> {
    if models.len() > MODEL_SLOTS {
        return Err(TooManyModels {
            found: models.len(),
        });
    }
    let confidential = match platform {
        Platform::Tdx => ",kernel-irqchip=split,confidential-guest-support=tdx0",
        Platform::Vtpm => "",
    };
    let vcpus = shape.vcpus;
    let mut arguments = Arguments::default();
    arguments.flag("-nodefaults");
    arguments.pair("-display", "none");
    arguments.pair("-vga", "none");
    arguments.pair("-machine", format!("{MACHINE}{BARE}{confidential}"));
    arguments.pair("-smp", format!("{vcpus},sockets=1,cores={vcpus},threads=1"));
    arguments.pair("-m", format!("{}M", shape.memory.mib));
    // As large as OVMF's own window, so that neither devices nor their BARs move its end.
    let window = aperture_gib(shape, platform);
    arguments.pair("-global", format!("q35-pcihost.pci-hole64-size={window}G"));
    arguments.pair("-global", NO_ACPI_HOTPLUG);
    arguments.device(format!(
        "virtio-net-pci,netdev=net0,addr=0x2,romfile={MODERN}"
    ));
    arguments.device(format!(
        "virtio-blk-pci,drive=root,addr=0x3,serial=cocoon-root{MODERN}"
    ));
    for slot in 0..MODEL_SLOTS {
        let serial = match models.get(slot) {
            Some(name) => format!(",serial=model-{name}"),
            None => {
                arguments.pair("-blockdev", format!("{EMPTY_DISK},node-name=model{slot}"));
                String::new()
            }
        };
        let address = slot.saturating_add(4);
        arguments.device(format!(
            "virtio-blk-pci,drive=model{slot},addr={address:#x}{serial}{MODERN}"
        ));
    }
    for gpu in 0..shape.gpus {
        let (chassis, address) = (gpu.saturating_add(1), gpu.saturating_add(0x10));
        arguments.device(format!(
            "pcie-root-port,id=gpu{gpu},bus=pcie.0,chassis={chassis},addr={address:#x},hotplug=off"
        ));
    }
    if platform == Platform::Vtpm {
        arguments.device("tpm-tis,tpmdev=tpm0");
    }
    Ok(arguments.0)
}

/// What to append to `-cpu MODEL`, so that OVMF puts its 64-bit PCI window where the
/// tables say. In a TD nothing is needed: the window ends at 46 address bits.
#[must_use]
pub const fn cpu_properties(shape: &Shape, platform: Platform) -> &'static str {
    match (platform, shape.gpus) {
        (Platform::Tdx, _) => "",
        // What any processor of the last ten years has.
        (Platform::Vtpm, 0) => ",guest-phys-bits=39",
        (Platform::Vtpm, _) => ",phys-bits=46,guest-phys-bits=46",
    }
}

/// The window is the top eighth of the address space (edk2
/// OvmfPkg/Library/PlatformInitLib/MemDetect.c, PlatformDynamicMmioWindow()).
const fn aperture_gib(shape: &Shape, platform: Platform) -> u64 {
    match (platform, shape.gpus) {
        (Platform::Vtpm, 0) => 1 << (39 - 3 - 30),
        _ => 1 << (46 - 3 - 30),
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
    }

    #[test]
    fn a_fifth_model_is_refused() {
        let shape = Shape::named("small").unwrap();
        let error = arguments(shape, Platform::Vtpm, &["a"; 5]).unwrap_err();
        assert_eq!(error.to_string(), "5 models, but a VM has 4 model slots");
    }
}
