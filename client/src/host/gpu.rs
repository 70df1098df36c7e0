//! NVIDIA GPUs and NVSwitches, as the kernel lists them.

use std::fmt;
use std::str::FromStr;

use super::server::Server;

/// One of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpu {
    /// Where it is.
    pub address: Address,
    /// Of the PCI device.
    pub device: u16,
    /// Bound to it.
    pub driver: Option<String>,
    /// The devices that can only be passed on together, this one among them.
    pub group: Vec<Address>,
}

impl Gpu {
    /// All of a server, in the order of their addresses.
    #[must_use]
    pub fn all(server: &Server) -> Vec<Self> {
        let names = server.names(DEVICES);
        let addresses = names.iter().filter_map(|name| name.parse().ok());
        addresses
            .filter_map(|address| Self::at(server, address).ok())
            .collect()
    }

    /// The one at `address`.
    pub fn at(server: &Server, address: Address) -> Result<Self, NotAGpu> {
        let number = |name: &str| hex(&server.text(&address.file(name))?);
        let is_gpu = number("vendor") == Some(NVIDIA)
            && number("class").is_some_and(|class| CLASSES.contains(&(class >> 8)));
        let device = number("device").and_then(|device| u16::try_from(device).ok());
        let Some(device) = device.filter(|_| is_gpu) else {
            return Err(NotAGpu { address });
        };
        let group = server.names(&address.file("iommu_group/devices"));
        let group = group.iter().filter_map(|member| member.parse().ok());
        Ok(Self {
            driver: server.link(&address.file("driver")),
            device,
            group: group.collect(),
            address,
        })
    }

    /// By its device number.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        match self.device {
            0x22a3 => Generation::Switch,
            0x2300..=0x23ff => Generation::Hopper,
            0x2900..=0x29ff => Generation::Blackwell,
            _ => Generation::Other,
        }
    }
}

/// What a GPU can do for us. Device numbers as in NVIDIA's gpu-admin-tools.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Generation {
    /// GB100 and GB102, in B100 and B200: confidential computing.
    Blackwell,
    /// GH100, in H100, H200 and their like: confidential computing.
    Hopper,
    /// Without it.
    Other,
    /// NVSwitch of Hopper: protected PCIe, together with its eight GPUs.
    Switch,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blackwell => "Blackwell",
            Self::Hopper => "Hopper",
            Self::Other => "another generation",
            Self::Switch => "NVSwitch",
        })
    }
}

/// A PCI function, `0000:17:00.0`. One harmless path component.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Address(String);

impl Address {
    /// A file of the kernel about it.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        format!("{DEVICES}/{self}/{name}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// With or without the domain, as `lspci` prints it.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let full = match text.len() {
            7 => format!("0000:{text}"),
            _ => text.to_owned(),
        };
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let fits = full
            .bytes()
            .zip(PATTERN.bytes())
            .all(|(found, wanted)| match wanted {
                b'x' => is_digit(found),
                sign => found == sign,
            });
        match fits && full.len() == PATTERN.len() {
            true => Ok(Self(full)),
            false => Err(AddressError(text.into())),
        }
    }
}

/// Text that is no PCI address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a PCI address, expected one like 0000:17:00.0 in lower case")]
pub struct AddressError(String);

/// Nothing there, or something else.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no NVIDIA GPU or NVSwitch at {address}")]
pub struct NotAGpu {
    /// As asked for.
    pub address: Address,
}

/// A number as the kernel writes it, `0x10de`.
pub(super) fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

pub(super) const NVIDIA: u32 = 0x10de;
/// VGA and 3D controllers, and bridges of no other kind (PCI code and ID assignment
/// specification, base classes 3 and 6).
const CLASSES: [u32; 3] = [0x0300, 0x0302, 0x0680];
const DEVICES: &str = "/sys/bus/pci/devices";
const PATTERN: &str = "xxxx:xx:xx.x";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::server::tests::{Double, H100};

    #[test]
    fn gpus_are_found_among_other_devices() {
        let double = Double::ready();
        double
            .gpu("0000:18:00.0", 0x2901, 18)
            .device("0000:1a:00.0", 0x10de, 0x22a3, 0x06_8000, 26)
            // Its sound card, a bridge, and somebody else's GPU.
            .device("0000:18:00.1", 0x10de, 0x22bd, 0x04_0300, 18)
            .device("0000:16:00.0", 0x8086, 0x352a, 0x06_0400, 16)
            .device("0000:19:00.0", 0x1002, 0x740f, 0x03_8000, 19);
        let found = Gpu::all(&double.server());
        let summary: Vec<_> = found
            .iter()
            .map(|gpu| {
                (
                    gpu.address.0.as_str(),
                    gpu.generation(),
                    gpu.driver.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            summary,
            [
                (H100, Generation::Hopper, Some("vfio-pci")),
                ("0000:18:00.0", Generation::Blackwell, None),
                ("0000:1a:00.0", Generation::Switch, None),
            ]
        );
        let other = "0000:19:00.0".parse().unwrap();
        let error = Gpu::at(&double.server(), other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no NVIDIA GPU or NVSwitch at 0000:19:00.0"
        );
    }

    #[test]
    fn an_address_is_one_path_component_and_nothing_else() {
        let short: Address = "17:00.0".parse().unwrap();
        assert_eq!(short, H100.parse().unwrap());
        for text in [
            "",
            "17:00",
            "0000:17:00.0/",
            "../../../..",
            "0000:1G:00.0",
            "0000:AB:00.0",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("{text:?} is not")),
                "{text}"
            );
        }
    }
}
