//! Devices that are not what they should be, each in one way, and the one reason for
//! which each is refused.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[macro_use]
mod paper_gpu;

use std::collections::{BTreeMap, BTreeSet};

use attestation::nvidia::{Architecture, Demand, Mode};
use attestation::register::Digest256;
use attestation::tdx::{Accept, Hex};

use paper_gpu::judge::{Paper, check};
use paper_gpu::pki::{
    Certificate, Crl, ECDSA_WITH_SHA256, KEY_USAGE, Key, Ocsp, ca, composite, extension,
    responder_extensions, tcb_info,
};
use paper_gpu::{Device, FWID, manifests};

#[test]
fn each_fault_of_a_report_gives_its_reason() {
    check(
        Paper::good,
        faults! {
            "report-message": "another version of SPDM" => |p| p.device().request[0] = 0x12;
            "report-message": "another request" => |p| p.device().request[1] = 0xe1;
            "report-message": "no signature asked for" => |p| p.device().request[2] = 0;
            "report-message": "some measurements only" => |p| p.device().request[3] = 1;
            "report-message": "another slot" => |p| p.device().response[0] = 1;
            "report-message": "another version in the response" => |p| p.device().response[1] = 0x12;
            "report-message": "another response" => |p| p.device().response[2] = 0x61;
            "report-message": "first parameter" => |p| p.device().response[3] = 1;
            "report-message": "second parameter" => |p| p.device().response[4] = 1;
            "report-blocks": "fewer blocks than it holds" => |p| p.device().counts[0] = 63;
            "report-blocks": "another record length" => |p| p.device().counts[1] += 1;
            "report-blocks": "a device with 32 blocks" => |p| {
                p.device().measurements.truncate(32);
                p.device().counts = vec![32, 0xe0, 6, 0];
            };
            "report-blocks": "an index twice" => |p| p.device().edit_blocks = |b| b[55] = 1;
            "report-blocks": "another measurement specification" => |p| p.device().edit_blocks = |b| b[1] = 2;
            "report-blocks": "another size of a block" => |p| p.device().edit_blocks = |b| b[2] = 50;
            "report-blocks": "another type of value" => |p| p.device().edit_blocks = |b| b[4] = 0x81;
            "report-blocks": "another size of a value" => |p| p.device().edit_blocks = |b| b[5] = 47;
            "report-opaque": "a field twice" => |p| p.device().opaque.push((3, b"590.12\0".into()));
            "report-opaque": "half a field" => |p| p.device().cut = 1;
            "report-opaque": "a decoder that is neither on nor off" => |p| set(p, 11, &[0]);
            "report-opaque": "newer opaque data" => |p| set(p, 34, &[2, 0]);
            "report-opaque": "a driver that cannot be read" => |p| set(p, 3, b"590\n12\0");
            "report-opaque": "a driver without a name" => |p| set(p, 3, b"\0");
            "report-opaque": "a short firmware version" => |p| set(p, 6, &[0; 7]);
            "report-opaque": "a short FWID" => |p| set(p, 20, &[0; 47]);
            "report-opaque": "half an identifier" => |p| set(p, 22, &[0; 12]);
            "report-trailing": "a byte too many" => |p| p.device().forge = |r| r.push(0);
            "report-truncated": "a byte missing" => |p| p.device().forge = |r| r.truncate(r.len() - 1);
            "nonce": "an answer to somebody else" => |p| p.device().nonce[31] ^= 1;
            "report-signature": "signed by somebody else" => |p| p.device().key = Key::STRANGER;
            "report-signature": "signed by its own BROM" => |p| p.device().key = p.device().chain[1].key;
            "report-signature": "another responder nonce" => |p| p.device().forge = |r| r[3565] ^= 1;
            "report-architecture": "of another chip than certified" => |p| set(p, 35, b"GB100");
            "report-architecture": "of a chip that nobody knows" => |p| set(p, 35, b"GX100");
            "report-architecture": "a switch's report of a GPU" => |p| {
                let switch = Device::switch(0);
                let gpu = p.device();
                (gpu.counts, gpu.measurements) = (switch.counts, switch.measurements);
                gpu.opaque = switch.opaque;
            };
            "fwid": "other firmware than certified" => |p| set(p, 20, &[0; 48]);
            "fwid": "a certificate without firmware" => |p| drop(p.device().chain[0].extensions.pop());
        },
    );
}

/// Gives an opaque field another value.
fn set(paper: &mut Paper, kind: u16, value: &[u8]) {
    let device = paper.devices.remove(0);
    paper.devices.insert(0, device.with(kind, value));
}

#[test]
fn fields_that_nobody_needs_are_passed_over_but_not_twice() {
    let mut paper = Paper::good();
    set(&mut paper, 200, b"anything");
    assert_eq!(paper.judge(), Ok(()));
    paper.device().opaque.push((200, Vec::new()));
    assert_eq!(paper.judge(), Err("report-opaque".into()));
}

#[test]
fn an_older_driver_names_no_firmware_and_no_mode() {
    let mut paper = Paper::good();
    for kind in [20, 21, 34] {
        paper.device().without(kind);
    }
    assert_eq!(paper.judge(), Ok(()));
}

#[test]
fn a_blackwell_is_verified_by_its_own_extension() {
    let blackwell = || {
        let mut paper = Paper::good();
        paper.devices = vec![Device::blackwell(0)];
        for manifest in &mut paper.manifests {
            let new = paper_gpu::rim::Manifest::new("GB100", &manifest.version);
            (manifest.product, manifest.chain) = (new.product, new.chain);
        }
        paper
    };
    check(
        blackwell,
        faults! {
            "fwid": "other firmware than certified" => |p| p.device().chain[0].extensions[1] = tcb_info(&[0; 48]);
            "device-malformed": "both extensions" => |p| p.device().chain[0].extensions.push(composite(&FWID));
            "driver-rim": "a driver's manifest for another chip" => |p| {
                p.manifests[0].product = "GB110".into();
            };
            "driver-rim": "a driver's manifest for a Hopper" => |p| p.manifests[0] = manifests()[0].clone();
            "vbios-rim": "a firmware's manifest for a Hopper" => |p| p.manifests[1] = manifests()[1].clone();
            "rim-level-3-architecture": "a Hopper's signer for a Blackwell" => |p| {
                p.manifests[0].chain = manifests()[0].chain.clone();
            };
        },
    );
}

#[test]
fn each_fault_of_a_chain_gives_its_reason() {
    check(
        Paper::good,
        faults! {
            "chain-malformed": "no chain" => |p| p.device().forge_chain = |_| String::new();
            "chain-malformed": "text after it" => |p| p.device().forge_chain = |text| text + "x";
            "chain-malformed": "six certificates" => |p| p.device().forge_chain = |text| text.clone() + &text;
            "device-root-key": "another root" => |p| p.device().chain[4].key = Key::STRANGER;
            "device-root-key": "a root of another name" => |p| {
                p.device().chain[4].subject = "NVIDIA Device Identity CA 2".into();
            };
            "identity-issuer": "issued by another name" => |p| p.device().chain[3].issuer = "NVIDIA".into();
            "provisioner-issuer": "issued by another name" => |p| p.device().chain[2].issuer = "NVIDIA".into();
            "brom-issuer": "issued by another name" => |p| p.device().chain[1].issuer = "NVIDIA".into();
            "device-issuer": "issued by another name" => |p| p.device().chain[0].issuer = "NVIDIA".into();
            "identity-signature": "not by the root" => |p| p.device().chain[3].signer = Key::STRANGER;
            "provisioner-signature": "not by the identity CA" => |p| p.device().chain[2].signer = Key::STRANGER;
            "brom-signature": "not by the provisioner" => |p| p.device().chain[1].signer = Key::STRANGER;
            "device-signature": "not by the BROM" => |p| p.device().chain[0].signer = Key::STRANGER;
            "device-name": "a certificate with another part" => |p| p.device().chain[0].subject = "GH100 A01 GSP BROM".into();
            "brom-name": "a certificate with another part" => |p| p.device().chain[1].subject = "GH100 A01 GSP FMC LF".into();
            "provisioner-name": "a certificate of another company" => |p| p.device().chain[2].subject = "AMD".into();
            "identity-name": "a certificate with another part" => |p| p.device().chain[3].subject = "NVIDIA GH100".into();
            "device-architecture": "a chip that nobody knows" => |p| p.device().chain[0].subject = "GX100 A01 GSP FMC LF".into();
            "brom-architecture": "of another chip" => |p| {
                let name = String::from("GB100 A01 GSP BROM");
                (p.device().chain[0].issuer, p.device().chain[1].subject) = (name.clone(), name);
            };
            "provisioner-architecture": "for other chips" => |p| {
                let name = String::from("NVIDIA GB100 Provisioner ICA 1");
                (p.device().chain[1].issuer, p.device().chain[2].subject) = (name.clone(), name);
            };
            "device-usage": "may issue certificates" => |p| p.device().chain[0].extensions.extend(ca(None).drain(..1));
            "device-usage": "may not sign" => |p| p.device().chain[0].extensions[0] = usage(0x04);
            "brom-usage": "may not issue certificates" => |p| drop(p.device().chain[1].extensions.remove(0));
            "provisioner-usage": "may not sign certificates" => |p| p.device().chain[2].extensions[1] = usage(0x80);
            "identity-usage": "a path that is too long for it" => |p| p.device().chain[3].extensions = ca(Some(1));
            "device-algorithm": "signed with the shorter hash" => |p| p.device().chain[0].algorithm = ECDSA_WITH_SHA256;
            "brom-not-yet-valid": "not valid yet" => |p| p.device().chain[1].from = "20280101000000Z";
            "identity-expired": "not valid any more" => |p| p.device().chain[3].until = "20261231235959Z";
            "device-expired": "not valid any more" => |p| p.device().chain[0].until = "20261231235959Z";
            "device-root-expired": "not valid any more" => |p| p.device().chain[4].until = "20261231235959Z";
            "device-malformed": "a critical extension that is not understood" => |p| {
                p.device().chain[0].extensions.push(extension(&[0x55, 0x1d, 0x11], true, &[5, 0]));
            };
            "device-malformed": "no FWID in its extension" => |p| {
                p.device().chain[0].extensions[1] = extension(&[0x67, 0x81, 5, 5, 4, 1], false, &[0x30, 0]);
            };
        },
    );
    let mut paper = Paper::good();
    paper.device().chain[3].extensions = ca(Some(2));
    assert_eq!(paper.judge(), Ok(()), "a path that is just long enough");
}

fn usage(bits: u8) -> Vec<u8> {
    extension(KEY_USAGE, true, &[3, 2, 0, bits])
}

#[test]
fn each_fault_of_revocation_gives_its_reason() {
    check(
        Paper::answered,
        faults! {
            "revocation": "nothing of the BROM" => |p| drop(p.ocsp.remove(0));
            "revocation": "nothing of the identity CA" => |p| drop(p.crls.remove(0));
            "revocation": "nothing of the manifests' signer" => |p| drop(p.ocsp.remove(1));
            "brom-revoked": "the BROM was revoked" => |p| p.ocsp[0].status = revoked(&[]);
            "brom-revoked": "the BROM is on hold" => |p| p.ocsp[0].status = revoked(&[0xa0, 3, 0x0a, 1, 6]);
            "brom-unknown": "nobody knows the BROM" => |p| p.ocsp[0].status = vec![0x82, 0];
            "brom-ocsp-expired": "an answer of another day" => |p| p.ocsp[0].until = Some("20270115010000Z");
            "brom-ocsp-not-yet-valid": "an answer of tomorrow" => |p| p.ocsp[0].from = "20270115235959Z";
            "brom-ocsp-signature": "not by the responder" => |p| p.ocsp[0].signer = Key::STRANGER;
            "brom-ocsp-subject": "two answers about it" => |p| p.ocsp[0].answers = 2;
            "brom-ocsp-delegation": "a responder of somebody else" => |p| responder(p).signer = Key::STRANGER;
            "brom-ocsp-delegation": "a responder under another name" => |p| responder(p).issuer = "NVIDIA".into();
            "brom-ocsp-delegation": "no responder at all" => |p| responder(p).extensions.truncate(1);
            "brom-ocsp-delegation": "a responder that could be revoked" => |p| responder(p).extensions.truncate(2);
            "brom-ocsp-delegation": "a responder that may not sign" => |p| responder(p).extensions[0] = usage(0x04);
            "brom-ocsp-delegation": "an authority" => |p| responder(p).extensions.extend(ca(None).drain(..1));
            "brom-ocsp-responder": "a responder of another year" => |p| responder(p).until = "20261231235959Z";
            "brom-ocsp-malformed": "a responder that is no certificate" => |p| responder(p).serial = vec![0];
            "ocsp-malformed": "an answer without an end" => |p| p.ocsp[0].until = None;
            "ocsp-malformed": "an answer that is none" => |p| p.ocsp[0].status = vec![0x83, 0];
            "identity-revoked": "the identity CA was revoked" => |p| p.crls[0].revoked.push(vec![Key::IDENTITY.0]);
            "provisioner-revoked": "the provisioner was revoked" => |p| p.crls[1].revoked.push(vec![Key::PROVISIONER.0]);
            "identity-crl-signature": "not by the root" => |p| p.crls[0].signer = Key::STRANGER;
            "identity-crl-expired": "a list of another month" => |p| p.crls[0].until = "20270110000000Z";
            "identity-crl-not-yet-valid": "a list of next month" => |p| p.crls[0].from = "20270120000000Z";
            "identity-crl-issuer": "a root that may not sign lists" => |p| p.device().chain[4].extensions[1] = usage(0x04);
            "rim-signer-revoked": "the manifests' signer was revoked" => |p| p.ocsp[1].status = revoked(&[]);
            "rim-ca-revoked": "the manifests' CA was revoked" => |p| p.ocsp[3].status = revoked(&[]);
        },
    );
}

fn revoked(reason: &[u8]) -> Vec<u8> {
    let time = b"\x18\x0f20270101000000Z";
    [
        &[0xa1, u8::try_from(time.len() + reason.len()).unwrap()],
        &time[..],
        reason,
    ]
    .concat()
}

fn responder(paper: &mut Paper) -> &mut Certificate {
    paper.ocsp[0].responder.as_mut().unwrap()
}

#[test]
fn an_issuer_may_answer_itself() {
    let mut paper = Paper::answered();
    paper.ocsp[0].responder = None;
    paper.ocsp[0].signer = Key::PROVISIONER;
    assert_eq!(paper.judge(), Ok(()));
    paper.ocsp[0].signer = Key::STRANGER;
    assert_eq!(paper.judge(), Err("brom-ocsp-signature".into()));
}

#[test]
fn what_is_about_others_is_passed_over() {
    let mut paper = Paper::answered();
    let other = Device::gpu(7).chain[1].clone();
    paper.ocsp.push(Ocsp {
        status: revoked(&[]),
        ..Ocsp::of(&other)
    });
    let mut stranger = Crl::of(&other);
    stranger.revoked.push(vec![Key::IDENTITY.0]);
    paper.crls.push(stranger);
    assert_eq!(paper.judge(), Ok(()));
}

#[test]
fn what_is_known_to_be_revoked_is_refused_even_where_nothing_has_to_be_known() {
    let mut paper = Paper::answered();
    paper.policy.device.revocation = Demand::IfGiven;
    paper.crls[0].revoked.push(vec![Key::IDENTITY.0]);
    assert_eq!(paper.judge(), Err("identity-revoked".into()));
}

#[test]
fn each_difference_from_a_policy_gives_its_reason() {
    check(
        Paper::good,
        faults! {
            "gpus": "another number of GPUs" => |p| p.policy.gpus = 2;
            "switches": "another number of switches" => |p| p.policy.switches = 1;
            "architecture": "another architecture" => |p| {
                p.policy.device.least_vbios.remove(&Architecture::Hopper);
            };
            "device-serial": "a device that is not pinned" => |p| {
                p.policy.device.serials = Accept::OneOf(BTreeSet::from([Hex([0; 20])]));
            };
            "driver-version": "an old driver" => |p| p.policy.device.least_driver = "590.13".parse().unwrap();
            "driver-version": "a driver that is no version" => |p| set(p, 3, b"newest");
            "vbios-version": "an old firmware" => |p| {
                let least = "96.00.A5.00.02".parse().unwrap();
                p.policy.device.least_vbios = BTreeMap::from([(Architecture::Hopper, least)]);
            };
            "vbios-version": "no firmware version" => |p| p.device().without(6);
            "driver-rim": "no driver manifest" => |p| drop(p.manifests.remove(0));
            "driver-rim": "a manifest of another driver" => |p| p.manifests[0].version = "590.13".into();
            "driver-rim": "two manifests of the driver" => |p| p.manifests.push(p.manifests[0].clone());
            "vbios-rim": "no firmware manifest" => |p| drop(p.manifests.remove(1));
            "vbios-rim": "a manifest of another firmware" => |p| p.manifests[1].version = "96.00.A5.00.02".into();
            "rim-set": "manifests that are not pinned" => |p| {
                p.policy.device.rims = Accept::OneOf(BTreeSet::from([Digest256::ZERO]));
            };
            "revocation": "nothing known of revocation" => |p| p.policy.device.revocation = Demand::Required;
            "measurement-00": "the first measurement" => |p| p.device().measurements[0][47] ^= 1;
            "measurement-09": "the one that others leave out" => |p| p.device().measurements[9][0] ^= 1;
            "measurement-21": "one of the driver's" => |p| p.device().measurements[21][0] ^= 1;
            "measurement-21": "one that both manifests claim" => |p| p.manifests[1].resources.push((21, true, vec![paper_gpu::measurement(21)]));
            "measurement-35": "the decoder's, while that is on" => |p| {
                p.device().measurements[35] = [1; 48];
                set(p, 11, &[0xaa]);
            };
            "gpu-mode": "protected PCIe where it is not wanted" => |p| {
                set(p, 21, &[0xaa]);
                set(p, 36, &[2, 0]);
            };
            "gpu-mode": "a flag that its status contradicts" => |p| set(p, 36, &[2, 0]);
        },
    );
}

#[test]
fn the_decoder_is_not_compared_while_it_is_off() {
    let mut paper = Paper::good();
    paper.device().measurements[35] = [1; 48];
    assert_eq!(paper.judge(), Ok(()));
}

#[test]
fn all_differences_are_reported() {
    let mut paper = Paper::good();
    paper.device().measurements[3] = [0; 48];
    paper.device().measurements[30] = [1; 48];
    paper.policy.device.least_driver = "999".parse().unwrap();
    let verified = paper.verify(&paper.devices[0]).unwrap();
    let checks = verified.check(&paper.policy.device, &[]);
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed).collect();
    let names: Vec<_> = failed.iter().map(|check| check.name).collect();
    assert_eq!(names, ["driver-version", "driver-rim", "vbios-rim"]);
    assert_eq!(failed[1].expected, "NV_GPU_DRIVER_GH100_590.12");
    assert_eq!(failed[2].expected, "NV_GPU_VBIOS_G520_0200_885_9600A50001");
}

#[test]
fn each_fault_of_a_machine_gives_its_reason() {
    check(
        Paper::machine,
        faults! {
            "gpus": "a GPU missing" => |p| drop(p.devices.remove(0));
            "switches": "a switch missing" => |p| drop(p.devices.pop());
            "distinct-devices": "a GPU shown twice" => |p| p.devices[1] = p.devices[0].clone();
            "distinct-devices": "two certificates of one device" => |p| {
                p.devices[1].chain[1].serial = p.devices[0].chain[1].serial.clone();
            };
            "gpu-mode": "a GPU on its own" => |p| p.devices[0] = Device::gpu(0);
            "gpu-mode": "a status that its flag contradicts" => |p| set(p, 36, &[0, 0]);
            "gpu-links": "a link to somebody else" => |p| {
                let mut links = links(p);
                links[0] ^= 1;
                set(p, 22, &links);
            };
            "gpu-links": "no link to one of the switches" => |p| {
                let links = links(p);
                set(p, 22, &links[..8]);
            };
            "switch-links": "a switch that connects somebody else" => |p| {
                let mut ports = [0xff; 128];
                ports[..16].copy_from_slice(&[paper_gpu::pdi(0), paper_gpu::pdi(9)].concat());
                p.devices[2] = p.devices[2].clone().with(26, &ports);
            };
            "switch-links": "a switch that connects one more" => |p| {
                let ports = [paper_gpu::pdi(0), paper_gpu::pdi(1), paper_gpu::pdi(9)].concat();
                p.devices[2] = p.devices[2].clone().with(26, &[&ports[..], &[0xff; 104]].concat());
            };
            "switch-lock": "a switch that can be set up anew" => |p| {
                p.devices[2] = p.devices[2].clone().with(25, &[0, 0]);
            };
            "switch-lock": "a switch that does not say" => |p| p.devices[2].without(25);
            "switch-pdi": "a switch under another name" => |p| {
                p.devices[2] = p.devices[2].clone().with(22, &[9; 8]);
            };
            "vbios-rim": "no manifest of the switches" => |p| drop(p.manifests.pop());
            "measurement-02": "a switch with other firmware" => |p| p.devices[3].measurements[2] = [0; 48];
            "gpu-mode": "passed through where that is wanted" => |p| p.policy.mode = Mode::Passthrough;
        },
    );
}

fn links(paper: &mut Paper) -> Vec<u8> {
    let mut fields = paper.device().opaque.iter();
    fields.find(|(kind, _)| *kind == 22).unwrap().1.clone()
}

#[test]
fn a_responder_needs_both_of_its_extensions() {
    let [purpose, no_check] = responder_extensions();
    for extensions in [vec![purpose], vec![no_check]] {
        let mut paper = Paper::answered();
        responder(&mut paper).extensions.truncate(1);
        responder(&mut paper).extensions.extend(extensions);
        assert_eq!(paper.judge(), Err("brom-ocsp-delegation".into()));
    }
}
