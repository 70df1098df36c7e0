//! GPUs, switches and their NVIDIA, written field by field so that each can be wrong.
//!
//! Whatever is changed before it is built is signed by whoever has to sign it, so that a
//! verifier gets as far as the one check that must refuse. A double of a device's driver
//! takes [`Device::gpu`], sets its nonce, and gives out what [`Device::report`] and
//! [`Device::chain_pem`] return; its verifier takes [`roots`] and [`manifests`].

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    dead_code,
    reason = "helpers of tests, each of which uses its own part"
)]

#[path = "../paper_td/der.rs"]
pub(crate) mod der;
#[macro_use]
pub(crate) mod judge;
pub(crate) mod pki;
pub(crate) mod rim;

use attestation::nvidia::TrustAnchor;
use attestation::time::UnixTime;

use pki::{Certificate, Key, composite, pem, tcb_info};
use rim::Manifest;

/// Within every window that a good paper has.
pub(crate) const AT: UnixTime = UnixTime(1_800_000_000);

/// What a good report answers.
pub(crate) const NONCE: [u8; 32] = [0x4e; 32];

/// Versions of the good software.
pub(crate) const DRIVER: &str = "590.12";
pub(crate) const GPU_VBIOS: &str = "96.00.A5.00.01";
pub(crate) const SWITCH_VBIOS: &str = "96.10.73.00.01";

/// The firmware that holds the device's key.
pub(crate) const FWID: [u8; 48] = [0xf1; 48];

/// One device and all that it says; the default is good.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) request: Vec<u8>,
    pub(crate) nonce: [u8; 32],
    /// Slot, then what the response begins with.
    pub(crate) response: Vec<u8>,
    /// Number of blocks, and their size.
    pub(crate) counts: Vec<u8>,
    pub(crate) measurements: Vec<[u8; 48]>,
    /// Done to the blocks before all is signed.
    pub(crate) edit_blocks: fn(&mut Vec<u8>),
    pub(crate) opaque: Vec<(u16, Vec<u8>)>,
    /// How many bytes the opaque data lacks at its end.
    pub(crate) cut: usize,
    pub(crate) key: Key,
    /// Done to the report afterwards.
    pub(crate) forge: fn(&mut Vec<u8>),
    /// Its own first.
    pub(crate) chain: [Certificate; 5],
    /// Done to the chain's text.
    pub(crate) forge_chain: fn(String) -> String,
}

impl Device {
    /// A Hopper GPU with a number, alone in its machine.
    pub(crate) fn gpu(number: u8) -> Self {
        Self::new(number, "GH100", 64, &[composite(&FWID)])
            .with(3, format!("{DRIVER}\0").as_bytes())
            .with(6, &[0x00, 0xa5, 0x00, 0x96, 0x01, 0, 0, 0])
            .with(11, &[0x55])
            .with(15, b"885\0\0\0")
            .with(17, b"G520\0")
            .with(18, b"0200\0")
            .with(20, &FWID)
            .with(21, &[0x55])
            .with(34, &[1, 0])
    }

    /// A Blackwell GPU.
    pub(crate) fn blackwell(number: u8) -> Self {
        let base = Self::gpu(number);
        let new = Self::new(number, "GB100", 64, &[tcb_info(&FWID)]);
        Self {
            opaque: base.opaque,
            ..new
        }
        .with(35, b"GB100\0")
    }

    /// A switch with a number.
    pub(crate) fn switch(number: u8) -> Self {
        let pdi = pdi(number);
        Self::new(number, "LS_10", 31, &[composite(&FWID)])
            .with(6, SWITCH_VBIOS.as_bytes())
            .with(22, &pdi)
            .with(25, &[1, 0])
            .with(26, &[0xff; 128])
    }

    /// Two GPUs and two switches, all linked to all, in protected PCIe mode.
    pub(crate) fn machine() -> Vec<Self> {
        let (gpus, switches) = ([0, 1], [2, 3]);
        let mut links: Vec<_> = switches.map(pdi).concat();
        links.chunks_mut(8).for_each(<[u8]>::reverse);
        let mut ports = [0xff; 128];
        ports[..16].copy_from_slice(&gpus.map(pdi).concat());
        let gpu = |number| {
            Self::gpu(number)
                .with(21, &[0xaa])
                .with(22, &links)
                .with(36, &[2, 0])
        };
        let switch = |number| Self::switch(number).with(26, &ports);
        gpus.into_iter()
            .map(gpu)
            .chain(switches.map(switch))
            .collect()
    }

    /// With another value of an opaque field.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.without(kind);
        self.opaque.push((kind, value.into()));
        self
    }

    pub(crate) fn without(&mut self, kind: u16) {
        self.opaque.retain(|(other, _)| *other != kind);
    }

    pub(crate) fn report(&self) -> Vec<u8> {
        let mut report = [&self.request[..], &self.nonce, &self.response, &self.counts].concat();
        let mut blocks = Vec::new();
        for (number, measurement) in (1..).zip(&self.measurements) {
            blocks.extend([number, 1, 51, 0, 1, 48, 0]);
            blocks.extend(measurement);
        }
        (self.edit_blocks)(&mut blocks);
        report.extend(blocks);
        report.extend([0x0d; 32]);
        let mut opaque = Vec::new();
        for (kind, value) in &self.opaque {
            opaque.extend(kind.to_le_bytes());
            opaque.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
            opaque.extend(value);
        }
        opaque.truncate(opaque.len() - self.cut);
        report.extend(u16::try_from(opaque.len()).unwrap().to_le_bytes());
        report.extend(opaque);
        report.extend(self.key.sign_raw(&report));
        (self.forge)(&mut report);
        report
    }

    pub(crate) fn chain_pem(&self) -> String {
        let ders: Vec<_> = self.chain.iter().map(Certificate::sign).collect();
        (self.forge_chain)(pem(&ders))
    }

    fn new(number: u8, chip: &str, blocks: u8, extensions: &[Vec<u8>]) -> Self {
        let size = u32::from(blocks) * 55;
        let chain = chain(number, chip, extensions);
        Self {
            request: vec![0x11, 0xe0, 0x01, 0xff],
            nonce: NONCE,
            response: vec![0, 0x11, 0x60, 0, 0],
            counts: [&[blocks], &size.to_le_bytes()[..3]].concat(),
            measurements: (0..blocks).map(measurement).collect(),
            edit_blocks: |_| {},
            opaque: Vec::new(),
            cut: 0,
            key: chain[0].key,
            forge: |_| {},
            chain,
            forge_chain: |text| text,
        }
    }
}

/// NVIDIA's roots: of devices, of manifests.
pub(crate) fn roots() -> [TrustAnchor; 2] {
    let devices = &Device::gpu(0).chain[4];
    let manifests = &Manifest::new("GH100", DRIVER).chain[3];
    [devices, manifests].map(|root| TrustAnchor::from_certificate(&root.sign()).unwrap())
}

/// Of the driver, of a GPU's firmware and of a switch's.
pub(crate) fn manifests() -> [Manifest; 3] {
    let firmware = |index: u8| (index, index != 7, vec![measurement(index)]);
    let driver = |index: u8| {
        let counts = index == 7 || (21..=40).contains(&index);
        (index, counts, vec![[0; 48], measurement(index)])
    };
    let with = |product, version, resources| Manifest {
        resources,
        ..Manifest::new(product, version)
    };
    [
        with("GH100", DRIVER, (0..64).map(driver).collect()),
        with("GH100", GPU_VBIOS, (0..13).map(firmware).collect()),
        with("LS10", SWITCH_VBIOS, (0..13).map(firmware).collect()),
    ]
}

/// What a good device measures.
pub(crate) fn measurement(index: u8) -> [u8; 48] {
    [index.wrapping_add(1); 48]
}

/// What others call a device.
pub(crate) fn pdi(number: u8) -> [u8; 8] {
    [number, 1, 2, 3, 4, 5, 6, 7]
}

fn chain(number: u8, chip: &str, extensions: &[Vec<u8>]) -> [Certificate; 5] {
    let brom_key = Key(Key::FIRST_BROM + 2 * number);
    let leaf_key = Key(brom_key.0 + 1);
    let (leaf, brom) = (
        format!("{chip} A01 GSP FMC LF"),
        format!("{chip} A01 GSP BROM/{number}"),
    );
    let provisioner = format!("NVIDIA {chip} Provisioner ICA 1");
    let identity = "NVIDIA GH100 Identity";
    let mut device = Certificate::end(&leaf, leaf_key, &brom, brom_key);
    device.serial = [&[0x50], &[number; 19][..]].concat();
    device.extensions.extend_from_slice(extensions);
    [
        device,
        Certificate {
            serial: [&[0x41], &pdi(number)[..]].concat(),
            ..Certificate::authority(&brom, brom_key, &provisioner, Key::PROVISIONER)
        },
        Certificate::authority(&provisioner, Key::PROVISIONER, identity, Key::IDENTITY),
        Certificate::authority(identity, Key::IDENTITY, ROOT, Key::DEVICE_ROOT),
        Certificate::authority(ROOT, Key::DEVICE_ROOT, ROOT, Key::DEVICE_ROOT),
    ]
}

const ROOT: &str = "NVIDIA Device Identity CA";
