//! The release manifest: which bytes were published, and what they must report.
//!
//! A manifest states values; it is not signed here. Everything in it follows
//! from the artefacts, the configurations and the shapes of this source, so an
//! auditor makes it again and compares. One that contradicts itself is refused
//! when it is read.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use attestation::config::{ConfigError, Measured};
use attestation::policy::Devices;
use attestation::register::{Digest256, Digest384, TdRegisters};
use attestation::tdx::IdentityPolicy;
use attestation::verity::Verity;
use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::mrconfigid::mrconfigid;
use crate::pcr::pcr8;
use crate::predict::{Artefacts, Files, PredictError};
use crate::qemu;
use crate::root::{self, RootError};
use crate::shape::{SHAPES, Shape};

/// One published build.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    format: u32,
    /// Of the source.
    pub version: String,
    /// Each file that boots.
    pub artefacts: Vec<Artefact>,
    /// Passed with -append: measured, and then overridden by the kernel's own.
    pub command_line: String,
    /// What the initrd says about the root disk.
    pub root: Verity,
    /// Whose ACPI tables the shapes have.
    pub qemu: Qemu,
    /// Debian packages in the root, `name version`.
    pub packages: Vec<String>,
    /// What each VM reports.
    pub shapes: Vec<ShapeValues>,
    /// Measured configurations.
    pub configs: Vec<Config>,
}

/// Everything that a manifest is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Of the source.
    pub version: &'a str,
    /// Firmware, kernel, initrd and command line.
    pub files: Files<'a>,
    /// The root disk.
    pub root_image: &'a [u8],
    /// Debian packages in the root, `name version`.
    pub packages: &'a [String],
    /// Name and content of each measured configuration.
    pub configs: &'a [(String, String)],
}

impl Release {
    /// Predicts every shape.
    pub fn make(inputs: Inputs<'_>) -> Result<Self, ReleaseError> {
        root::verify(inputs.files.initrd, inputs.root_image)?;
        Self::describe(inputs)
    }

    /// The same of files that may not belong together: the initrd may refuse the disk.
    ///
    /// To compare with, not to publish.
    pub fn describe(inputs: Inputs<'_>) -> Result<Self, ReleaseError> {
        let files = inputs.files;
        let artefacts = Artefacts::new(files)?;
        let release = Self {
            format: FORMAT,
            version: inputs.version.into(),
            artefacts: [
                Artefact::of(Artefact::FIRMWARE, files.firmware),
                Artefact::of(Artefact::KERNEL, files.kernel),
                Artefact::of(Artefact::INITRD, files.initrd),
                Artefact::of(Artefact::ROOT, inputs.root_image),
            ]
            .into(),
            command_line: files.command_line.into(),
            root: root::stated(files.initrd)?,
            qemu: Qemu::current(),
            packages: inputs.packages.to_vec(),
            shapes: SHAPES
                .iter()
                .map(|shape| ShapeValues::predict(&artefacts, shape))
                .collect::<Result<_, _>>()?,
            configs: inputs
                .configs
                .iter()
                .map(|(name, text)| Config::of(name, text))
                .collect::<Result<_, _>>()?,
        };
        release.check()?;
        Ok(release)
    }

    /// Vouches for one more configuration.
    pub fn with_config(mut self, name: &str, text: &str) -> Result<Self, ReleaseError> {
        self.configs.push(Config::of(name, text)?);
        self.check()?;
        Ok(self)
    }

    /// Reads a manifest and checks that it agrees with itself.
    pub fn parse(json: &[u8]) -> Result<Self, ReleaseError> {
        let release: Self = serde_json::from_slice(json).map_err(|error| ReleaseError::Json {
            reason: error.to_string(),
        })?;
        release.check()?;
        Ok(release)
    }

    /// The text that is published.
    pub fn to_json(&self) -> Result<String, ReleaseError> {
        serde_json::to_string_pretty(self)
            .map(|text| format!("{text}\n"))
            .map_err(|error| ReleaseError::Json {
                reason: error.to_string(),
            })
    }

    /// What a TD of this release may report, in any shape.
    #[must_use]
    pub fn td_registers(&self) -> BTreeSet<TdRegisters> {
        self.shapes.iter().map(|shape| shape.tdx).collect()
    }

    /// MRCONFIGID of a TD of this release, in any configuration.
    #[must_use]
    pub fn mrconfigids(&self) -> BTreeSet<Digest384> {
        self.configs.iter().map(|config| config.sha384).collect()
    }

    /// Which TDs are of this release, in any shape and configuration. The host has no
    /// owner to name.
    #[must_use]
    pub fn td_identity(&self) -> IdentityPolicy {
        let unset = BTreeSet::from([Digest384::ZERO]);
        IdentityPolicy {
            builds: self.td_registers(),
            mrconfigid: self.mrconfigids(),
            mrowner: unset.clone(),
            mrownerconfig: unset,
        }
    }

    /// How many GPUs and switches the TDs of this release have.
    #[must_use]
    pub fn td_devices(&self) -> BTreeMap<TdRegisters, Devices> {
        let devices = |shape: &ShapeValues| Devices {
            gpus: shape.gpus.into(),
            switches: shape.switches.into(),
        };
        let shapes = self.shapes.iter();
        shapes.map(|shape| (shape.tdx, devices(shape))).collect()
    }

    /// PCR 0 to 15 of a virtual TPM of this release: every shape in every configuration,
    /// each with a name for people.
    pub fn pcrs(&self) -> impl Iterator<Item = (String, [Digest256; 16])> {
        self.shapes.iter().flat_map(|shape| {
            self.configs.iter().map(|config| {
                let name = format!("{} {} {}", self.version, shape.name, config.name);
                (name, shape.vtpm.with_config(config.pcr8))
            })
        })
    }

    /// The values of one shape.
    pub fn shape(&self, name: &str) -> Result<&ShapeValues, ReleaseError> {
        self.shapes
            .iter()
            .find(|shape| shape.name == name)
            .ok_or_else(|| ReleaseError::NoShape { name: name.into() })
    }

    fn check(&self) -> Result<(), ReleaseError> {
        if self.format != FORMAT {
            return Err(ReleaseError::Format { found: self.format });
        }
        unique("artefact", self.artefacts.iter().map(|item| &item.name))?;
        unique("shape", self.shapes.iter().map(|item| &item.name))?;
        unique("config", self.configs.iter().map(|item| &item.name))?;
        for artefact in &self.artefacts {
            artefact.check()?;
        }
        for shape in &self.shapes {
            shape.check()?;
        }
        for config in &self.configs {
            if *config != Config::of(&config.name, &config.text)? {
                return Err(ReleaseError::ConfigDigest {
                    name: config.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Of this manifest's layout.
const FORMAT: u32 = 1;

fn unique<'a>(
    kind: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), ReleaseError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let name = name.clone();
            return Err(ReleaseError::Repeated { kind, name });
        }
    }
    Ok(())
}

/// One file that boots.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// File name, without folder.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Of the whole file.
    pub sha256: Digest256,
}

impl Artefact {
    /// For QEMU's -bios.
    pub const FIRMWARE: &str = "OVMF.fd";
    /// For -kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// For -initrd.
    pub const INITRD: &str = "initrd";
    /// The disk with serial `cocoon-root`.
    pub const ROOT: &str = "root.img";

    fn of(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.into(),
            size: u64::try_from(content.len()).unwrap_or(u64::MAX),
            sha256: Digest256::of(content),
        }
    }

    /// A name that is harmless as one path component.
    fn check(&self) -> Result<(), ReleaseError> {
        let known = [Self::FIRMWARE, Self::KERNEL, Self::INITRD, Self::ROOT];
        match known.contains(&self.name.as_str()) {
            true => Ok(()),
            false => Err(ReleaseError::UnknownArtefact {
                name: self.name.clone(),
            }),
        }
    }
}

/// Which QEMU hands over the tables that the shapes have.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// For -machine.
    pub machine: String,
    /// Release, without patch level.
    pub version: String,
}

impl Qemu {
    fn current() -> Self {
        Self {
            machine: qemu::MACHINE.into(),
            version: qemu::VERSION.into(),
        }
    }
}

/// What VMs of one shape report.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeValues {
    /// Of the shape.
    pub name: String,
    /// Virtual processors.
    pub vcpus: u16,
    /// Of the guest.
    pub memory_mib: u32,
    /// Passed through.
    pub gpus: u8,
    /// NVSwitches, passed through.
    pub switches: u8,
    /// A TD's registers.
    pub tdx: TdRegisters,
    /// A virtual TPM's.
    pub vtpm: BootPcrs,
}

impl ShapeValues {
    fn predict(artefacts: &Artefacts<'_>, shape: &Shape) -> Result<Self, PredictError> {
        Ok(Self {
            name: shape.name.into(),
            vcpus: shape.vcpus,
            memory_mib: shape.memory.mib,
            gpus: shape.gpus,
            switches: shape.switches,
            tdx: artefacts.tdx(shape)?.registers,
            vtpm: BootPcrs::of(&artefacts.vtpm(shape)?.bank),
        })
    }

    /// What every release leaves at reset.
    fn check(&self) -> Result<(), ReleaseError> {
        let Self { tdx, vtpm, .. } = self;
        let unused = [
            vtpm.pcr10, vtpm.pcr11, vtpm.pcr12, vtpm.pcr13, vtpm.pcr14, vtpm.pcr15,
        ];
        match tdx.rtmr3 == Digest384::ZERO && unused == [Digest256::ZERO; 6] {
            true => Ok(()),
            false => Err(ReleaseError::NotReset {
                shape: self.name.clone(),
            }),
        }
    }
}

/// SHA-256 bank after the boot; PCR 8 is the configuration's.
#[expect(missing_docs, reason = "the registers' names")]
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BootPcrs {
    pub pcr0: Digest256,
    pub pcr1: Digest256,
    pub pcr2: Digest256,
    pub pcr3: Digest256,
    pub pcr4: Digest256,
    pub pcr5: Digest256,
    pub pcr6: Digest256,
    pub pcr7: Digest256,
    pub pcr9: Digest256,
    pub pcr10: Digest256,
    pub pcr11: Digest256,
    pub pcr12: Digest256,
    pub pcr13: Digest256,
    pub pcr14: Digest256,
    pub pcr15: Digest256,
}

impl BootPcrs {
    fn of(bank: &Bank) -> Self {
        Self {
            pcr0: bank.pcr(0),
            pcr1: bank.pcr(1),
            pcr2: bank.pcr(2),
            pcr3: bank.pcr(3),
            pcr4: bank.pcr(4),
            pcr5: bank.pcr(5),
            pcr6: bank.pcr(6),
            pcr7: bank.pcr(7),
            pcr9: bank.pcr(9),
            pcr10: bank.pcr(10),
            pcr11: bank.pcr(11),
            pcr12: bank.pcr(12),
            pcr13: bank.pcr(13),
            pcr14: bank.pcr(14),
            pcr15: bank.pcr(15),
        }
    }

    /// PCR 0 to 15.
    #[must_use]
    pub const fn with_config(&self, pcr8: Digest256) -> [Digest256; 16] {
        [
            self.pcr0, self.pcr1, self.pcr2, self.pcr3, self.pcr4, self.pcr5, self.pcr6, self.pcr7,
            pcr8, self.pcr9, self.pcr10, self.pcr11, self.pcr12, self.pcr13, self.pcr14,
            self.pcr15,
        ]
    }
}

/// A measured configuration that the release vouches for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// For people.
    pub name: String,
    /// MRCONFIGID.
    pub sha384: Digest384,
    /// PCR 8 of a virtual TPM.
    pub pcr8: Digest256,
    /// The exact file, so that an auditor reads what is vouched for.
    pub text: String,
}

impl Config {
    fn of(name: &str, text: &str) -> Result<Self, ReleaseError> {
        Measured::parse(text.as_bytes()).map_err(|source| ReleaseError::Config {
            name: name.into(),
            source,
        })?;
        let sha384 = mrconfigid(text.as_bytes());
        let mut bank = Bank::default();
        pcr8::extend(&mut bank, sha384);
        Ok(Self {
            name: name.into(),
            sha384,
            pcr8: bank.pcr(8),
            text: text.into(),
        })
    }
}

/// Why there is no manifest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// A configuration that no machine would take.
    #[error("config {name:?} is refused")]
    Config {
        /// Which.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// Text and digests of a configuration disagree.
    #[error("config {name:?} does not have the stated sha384 or pcr8")]
    ConfigDigest {
        /// Which.
        name: String,
    },
    /// Another layout.
    #[error("manifest has format {found}, expected {FORMAT}")]
    Format {
        /// As read.
        found: u32,
    },
    /// Not a manifest.
    #[error("manifest is not of the expected form: {reason}")]
    Json {
        /// Where and what.
        reason: String,
    },
    /// The release does not run in it.
    #[error("release has no shape {name:?}")]
    NoShape {
        /// As asked for.
        name: String,
    },
    /// RTMR3, or a PCR above 9, is stated to be used.
    #[error("shape {shape:?} states a value for RTMR3 or PCR 10 to 15, expected zeros")]
    NotReset {
        /// Which.
        shape: String,
    },
    /// Registers of the artefacts are not predictable.
    #[error("registers cannot be predicted")]
    Predict(#[from] PredictError),
    /// Two of the same name.
    #[error("manifest lists {kind} {name:?} twice")]
    Repeated {
        /// What.
        kind: &'static str,
        /// Which.
        name: String,
    },
    /// The disk is not the one that the initrd opens.
    #[error("root disk is refused")]
    Root(#[from] RootError),
    /// A file that does not boot.
    #[error("manifest lists artefact {name:?}, expected OVMF.fd, vmlinuz, initrd or root.img")]
    UnknownArtefact {
        /// As read.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pe, root, vectors};
    use alloc::vec;
    use serde_json::{Value, json};

    const CONFIG: &str = "version = 1\nrole = \"worker\"\n";

    /// A manifest of a small kernel and disk, on real firmware.
    fn release() -> Option<Release> {
        let firmware = vectors::firmware("debian-2025.02-8+deb13u1")?;
        let (initrd, root_image) = root::tests::disk();
        let inputs = Inputs {
            version: "0.1.0",
            files: Files {
                firmware: &firmware,
                kernel: &pe::tests::image(),
                initrd: &initrd,
                command_line: "console=ttyS0",
            },
            root_image: &root_image,
            packages: &["libc6 2.41".to_string()],
            configs: &[("demo".to_string(), CONFIG.to_string())],
        };
        Some(Release::make(inputs).unwrap())
    }

    fn json(change: impl FnOnce(&mut Value)) -> Option<Vec<u8>> {
        let mut value = serde_json::to_value(release()?).unwrap();
        change(&mut value);
        Some(serde_json::to_vec(&value).unwrap())
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let Some(release) = release() else { return };
        let text = release.to_json().unwrap();
        assert_eq!(Release::parse(text.as_bytes()), Ok(release));
    }

    #[test]
    fn every_shape_and_config_is_accepted_and_nothing_else() {
        let Some(release) = release() else { return };
        assert_eq!(release.td_registers().len(), SHAPES.len());
        let config = Digest384::of(CONFIG.as_bytes());
        assert_eq!(release.mrconfigids(), [config].into());
        let pcrs: Vec<_> = release.pcrs().collect();
        assert_eq!(pcrs.len(), SHAPES.len());
        let (name, pcrs) = &pcrs[0];
        assert_eq!(name, "0.1.0 small demo");
        let event = Digest256::of(config.as_bytes());
        assert_eq!(pcrs[8], Digest256::ZERO.extend(event));
        assert_eq!(pcrs[9], release.shapes[0].vtpm.pcr9);
        assert_eq!(release.shape("gpu1-v16-m128g").unwrap().gpus, 1);
        let error = release.shape("huge").unwrap_err();
        assert_eq!(error.to_string(), "release has no shape \"huge\"");
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        type Change = fn(&mut Value);
        let rows: &[(Change, &str)] = &[
            (
                |m| m["format"] = json!(2),
                "manifest has format 2, expected 1",
            ),
            (
                |m| m["configs"][0]["text"] = json!("version = 1\nrole = \"worker\"\n\n"),
                "config \"demo\" does not have the stated sha384 or pcr8",
            ),
            (
                |m| m["configs"][0]["pcr8"] = json!(Digest256::ZERO),
                "config \"demo\" does not have the stated sha384 or pcr8",
            ),
            (
                |m| m["configs"][0]["text"] = json!("version = 2"),
                "config \"demo\" is refused",
            ),
            (
                |m| m["shapes"][1]["name"] = json!("small"),
                "manifest lists shape \"small\" twice",
            ),
            (
                |m| m["artefacts"][1]["name"] = json!("../vmlinuz"),
                "manifest lists artefact \"../vmlinuz\", expected OVMF.fd, vmlinuz, initrd or root.img",
            ),
            (
                |m| m["shapes"][0]["vtpm"]["pcr12"] = m["shapes"][0]["vtpm"]["pcr0"].clone(),
                "shape \"small\" states a value for RTMR3 or PCR 10 to 15, expected zeros",
            ),
            (
                |m| m["shapes"][0]["tdx"]["rtmr3"] = m["shapes"][0]["tdx"]["mrtd"].clone(),
                "shape \"small\" states a value for RTMR3 or PCR 10 to 15, expected zeros",
            ),
        ];
        for (change, expected) in rows {
            let Some(json) = json(change) else { return };
            assert_eq!(Release::parse(&json).unwrap_err().to_string(), *expected);
        }
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        type Change = fn(&mut Value);
        let rows: &[(Change, &str)] = &[
            (|m| m["extra"] = json!(1), "unknown field `extra`"),
            (
                |m| m["shapes"][0]["vtpm"]["pcr8"] = json!(""),
                "unknown field `pcr8`",
            ),
            (
                |m| drop(m["shapes"][0].as_object_mut().unwrap().remove("tdx")),
                "missing field `tdx`",
            ),
        ];
        for (change, expected) in rows {
            let Some(json) = json(change) else { return };
            let error = Release::parse(&json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_changed_artefact_changes_the_registers_that_measure_it() {
        let Some(before) = release() else { return };
        let firmware = vectors::firmware("debian-2025.02-8+deb13u1").unwrap();
        let (initrd, root_image) = root::tests::disk();
        let mut kernel = pe::tests::image();
        kernel.extend(vec![1]);
        let after = Release::make(Inputs {
            version: "0.1.0",
            files: Files {
                firmware: &firmware,
                kernel: &kernel,
                initrd: &initrd,
                command_line: "console=ttyS0",
            },
            root_image: &root_image,
            packages: &before.packages,
            configs: &[("demo".to_string(), CONFIG.to_string())],
        });
        let names: Vec<String> = crate::diff::diff(&before, &after.unwrap())
            .unwrap()
            .into_iter()
            .map(|difference| difference.name)
            .filter(|name| name.contains("small") || name.starts_with("artefacts"))
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
    }

    #[test]
    fn a_root_disk_of_another_build_is_refused() {
        let Some(firmware) = vectors::firmware("debian-2025.02-8+deb13u1") else {
            return;
        };
        let (initrd, mut root_image) = root::tests::disk();
        root_image[5000] ^= 1;
        let error = Release::make(Inputs {
            version: "0.1.0",
            files: Files {
                firmware: &firmware,
                kernel: &pe::tests::image(),
                initrd: &initrd,
                command_line: "",
            },
            root_image: &root_image,
            packages: &[],
            configs: &[],
        });
        assert!(matches!(
            error,
            Err(ReleaseError::Root(RootError::Data { .. }))
        ));
    }
}
