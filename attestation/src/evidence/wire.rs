//! A bundle as a collection of messages (RFC 9999), in canonical CBOR.
//!
//! ```text
//! "gpus"            { index: application/vnd.cocoon.nvidia-gpu+cbor }
//! "state"           application/eat-ucs+cbor
//! "platform"        application/vnd.veraison.tsm-report+cbor; provider=tdx_guest
//!                   or application/vnd.cocoon.tpm-quote+cbor
//! "event-log"       application/vnd.cocoon.event-log
//! "collateral"      application/vnd.cocoon.tdx-collateral+cbor, with a TDX report
//! "gpu-collateral"  application/vnd.cocoon.nvidia-collateral+cbor, with "gpus"
//! ```
//!
//! A TDX quote travels in the registered form of a configfs-tsm report. The one
//! registered for GPU reports is JSON, so they have their own.

use alloc::boxed::Box;
use alloc::vec::Vec;

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

use super::{Evidence, GpuCollateral, GpuEvidence, PlatformEvidence};
use crate::cbor;
use crate::cmw::{COLLECTION_TYPE, Form};
use crate::vtpm;

/// Names this collection and its labels: an identifier that needs no registration
/// (ITU-T X.667).
const PROFILE: &str = "2.25.37728540531151115750611228536303127301";

const GPU: Form = Form::evidence("application/vnd.cocoon.nvidia-gpu+cbor");
/// Claims without a signature of their own (RFC 9782): REPORTDATA covers them.
const STATE: Form = Form::evidence("application/eat-ucs+cbor");
const TDX: Form = Form::evidence("application/vnd.veraison.tsm-report+cbor; provider=tdx_guest");
const TPM: Form = Form::evidence("application/vnd.cocoon.tpm-quote+cbor");
const EVENT_LOG: Form = Form::evidence("application/vnd.cocoon.event-log");
const COLLATERAL: Form = Form::endorsements("application/vnd.cocoon.tdx-collateral+cbor");
const GPU_COLLATERAL: Form = Form::endorsements("application/vnd.cocoon.nvidia-collateral+cbor");

/// Labels in the order of RFC 8949, section 4.2.1: the shorter first.
impl<C> Encode<C> for Evidence {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let (form, platform, collateral) = match &self.platform {
            PlatformEvidence::Tdx { quote, collateral } => {
                (TDX, cbor::encode(&TsmReport(quote)), Some(collateral))
            }
            PlatformEvidence::Vtpm(quote) => (TPM, cbor::encode(quote), None),
        };
        let gpus = !self.gpus.is_empty();
        to.map(match (collateral.is_some(), gpus) {
            (false, false) => 4,
            (true, false) => 5,
            (false, true) => 6,
            (true, true) => 7,
        })?;
        if gpus {
            to.str("gpus")?;
            encode_gpus(&self.gpus, to)?;
        }
        STATE.write(to.str("state")?, &cbor::encode(&self.state))?;
        to.str(COLLECTION_TYPE)?.str(PROFILE)?;
        form.write(to.str("platform")?, &platform)?;
        EVENT_LOG.write(to.str("event-log")?, &self.event_log)?;
        if let Some(collateral) = collateral {
            COLLATERAL.write(to.str("collateral")?, &cbor::encode(collateral))?;
        }
        if gpus {
            let collateral = cbor::encode(&self.gpu_collateral);
            GPU_COLLATERAL.write(to.str("gpu-collateral")?, &collateral)?;
        }
        Ok(())
    }
}

/// Order, repetition and longer forms are [`cbor::decode`]'s to refuse.
impl<'b, C> Decode<'b, C> for Evidence {
    fn decode(from: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = from.position();
        let refused = |what| decode::Error::message(what).at(at);
        let (mut gpus, mut gpu_collateral) = (Vec::new(), GpuCollateral::default());
        let (mut state, mut platform, mut event_log, mut collateral) = (None, None, None, None);
        let labels = from.map()?.ok_or_else(|| refused("no definite length"))?;
        for _ in 0..labels {
            match from.str()? {
                "gpus" => gpus = decode_gpus(from)?,
                "state" => state = Some(minicbor::decode(STATE.read(from)?)?),
                COLLECTION_TYPE if from.str()? == PROFILE => {}
                "platform" => platform = Some(Platform::decode(from)?),
                "event-log" => event_log = Some(EVENT_LOG.read(from)?.to_vec()),
                "collateral" => collateral = Some(minicbor::decode(COLLATERAL.read(from)?)?),
                "gpu-collateral" => gpu_collateral = minicbor::decode(GPU_COLLATERAL.read(from)?)?,
                _ => return Err(refused("another collection, or an unknown label")),
            }
        }
        let platform = match (platform, collateral) {
            (Some(Platform::Tdx(quote)), Some(collateral)) => {
                PlatformEvidence::Tdx { quote, collateral }
            }
            (Some(Platform::Tpm(quote)), None) => PlatformEvidence::Vtpm(quote),
            _ => return Err(refused("no platform, or no collateral for it")),
        };
        Ok(Self {
            platform,
            gpus,
            gpu_collateral,
            state: state.ok_or_else(|| refused("no state"))?,
            event_log: event_log.ok_or_else(|| refused("no event log"))?,
        })
    }
}

/// What the platform's record holds, before its collateral is known.
enum Platform {
    Tdx(Vec<u8>),
    Tpm(Box<vtpm::Evidence>),
}

impl Platform {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        if let Ok(report) = TDX.read(&mut from.probe()) {
            from.skip()?;
            let TsmReport(quote) = minicbor::decode(report)?;
            return Ok(Self::Tdx(quote.into()));
        }
        minicbor::decode(TPM.read(from)?).map(Self::Tpm)
    }
}

/// `{ "outblob": quote, "provider": "tdx_guest" }`, as in the kernel's ABI/testing/configfs-tsm.
struct TsmReport<'a>(&'a [u8]);

impl<C> Encode<C> for TsmReport<'_> {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.map(2)?.str("outblob")?.bytes(self.0)?;
        to.str("provider")?.str("tdx_guest")?.ok()
    }
}

impl<'b, C> Decode<'b, C> for TsmReport<'b> {
    fn decode(from: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = from.position();
        let report = match (from.map()?, from.str()?) {
            (Some(2), "outblob") => Self(from.bytes()?),
            _ => return Err(decode::Error::message("no configfs-tsm report").at(at)),
        };
        match (from.str()?, from.str()?) {
            ("provider", "tdx_guest") => Ok(report),
            _ => Err(decode::Error::message("a report of another provider").at(at)),
        }
    }
}

fn encode_gpus<W: Write>(
    gpus: &[GpuEvidence],
    to: &mut Encoder<W>,
) -> Result<(), encode::Error<W::Error>> {
    to.map(u64::try_from(gpus.len()).unwrap_or(u64::MAX))?;
    for (index, gpu) in (0_u32..).zip(gpus) {
        GPU.write(to.u32(index)?, &cbor::encode(gpu))?;
    }
    Ok(())
}

fn decode_gpus(from: &mut Decoder<'_>) -> Result<Vec<GpuEvidence>, decode::Error> {
    let mut gpus = Vec::new();
    for _ in 0..from.map()?.unwrap_or_default() {
        from.u32()?;
        gpus.push(minicbor::decode(GPU.read(from)?)?);
    }
    Ok(gpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::CborError;
    use crate::evidence::{Collateral, GpuMode, State};
    use alloc::string::String;
    use proptest::prelude::*;

    fn td() -> Evidence {
        Evidence {
            platform: PlatformEvidence::Tdx {
                quote: [4, 0].to_vec(),
                collateral: Collateral {
                    tcb_info: "{}".into(),
                    tcb_info_issuer_chain: String::new(),
                    qe_identity: String::new(),
                    qe_identity_issuer_chain: String::new(),
                    pck_crl: [1].to_vec(),
                    pck_crl_issuer_chain: String::new(),
                    root_ca_crl: [2].to_vec(),
                },
            },
            gpus: Vec::new(),
            gpu_collateral: GpuCollateral::default(),
            state: State {
                boot_seed: [7; 32],
                event_log: [8; 48],
                gpu_mode: None,
                keyset: [6; 32],
            },
            event_log: [9; 3].to_vec(),
        }
    }

    fn td_with_gpus() -> Evidence {
        let gpu = |byte| GpuEvidence {
            report: [byte].to_vec(),
            chain: Vec::new(),
        };
        Evidence {
            gpus: [gpu(1), gpu(2)].into(),
            gpu_collateral: GpuCollateral {
                rims: [[3].to_vec().into()].into(),
                ..GpuCollateral::default()
            },
            state: State {
                gpu_mode: Some(GpuMode::SERVING),
                ..td().state
            },
            ..td()
        }
    }

    fn vm() -> Evidence {
        let quote = vtpm::Evidence {
            secret: [1; 32],
            attest: [2].to_vec(),
            signature: [3].to_vec(),
            pcrs: [4; vtpm::PCR_COUNT * 32],
        };
        Evidence {
            platform: PlatformEvidence::Vtpm(Box::new(quote)),
            ..td()
        }
    }

    fn error(bytes: &[u8]) -> CborError {
        cbor::decode::<Evidence>(bytes).unwrap_err()
    }

    /// The bundle with one text in it replaced by another of the same length.
    fn with(evidence: &Evidence, from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let mut bytes = cbor::encode(evidence);
        let at = position(&bytes, from.as_bytes());
        bytes[at..][..to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    fn position(bytes: &[u8], part: &[u8]) -> usize {
        let found = bytes.windows(part.len()).position(|it| it == part);
        found.unwrap()
    }

    #[test]
    fn a_bundle_survives_the_wire() {
        for evidence in [td(), td_with_gpus(), vm()] {
            let bytes = cbor::encode(&evidence);
            assert_eq!(cbor::decode::<Evidence>(&bytes), Ok(evidence));
        }
    }

    #[test]
    fn a_bundle_is_a_collection_of_records() {
        let bytes = cbor::encode(&td());
        assert_eq!(bytes[..7], *b"\xa5\x65state");
        let record =
            b"\x69event-log\x83\x78\x20application/vnd.cocoon.event-log\x43\x09\x09\x09\x04";
        position(&bytes, record);
    }

    #[test]
    fn every_proper_prefix_and_every_extension_is_refused() {
        for evidence in [td(), td_with_gpus(), vm()] {
            let bytes = cbor::encode(&evidence);
            for cut in 0..bytes.len() {
                assert!(cbor::decode::<Evidence>(&bytes[..cut]).is_err(), "{cut}");
            }
            assert_eq!(error(&[&bytes[..], &[0]].concat()), CborError::NotCanonical);
        }
    }

    #[test]
    fn another_type_or_label_is_refused() {
        let malformed = |bytes: Vec<u8>| matches!(error(&bytes), CborError::Malformed { .. });
        for (from, to) in [
            ("application/eat-ucs+cbor", "application/eat-ucs+json"),
            ("provider=tdx_guest", "provider=sev_guest"),
            (PROFILE, "2.25.37728540531151115750611228536303127302"),
            ("event-log", "event-lag"),
            ("outblob", "auxblob"),
        ] {
            assert!(malformed(with(&td(), from, to)), "{to}");
        }
    }

    #[test]
    fn collateral_comes_with_a_td_and_with_nothing_else() {
        let td = cbor::encode(&td());
        let (rest, collateral) = td.split_at(position(&td, b"\x6acollateral"));
        let mut bare_td = rest.to_vec();
        bare_td[0] -= 1;
        assert!(matches!(error(&bare_td), CborError::Malformed { .. }));
        let mut vm = [&cbor::encode(&vm())[..], collateral].concat();
        vm[0] += 1;
        assert!(matches!(error(&vm), CborError::Malformed { .. }));
    }

    #[test]
    fn a_record_of_another_kind_is_refused() {
        let mut bytes = cbor::encode(&vm());
        assert_eq!(bytes.pop(), Some(4), "evidence");
        bytes.push(2);
        assert!(matches!(error(&bytes), CborError::Malformed { .. }));
    }

    #[test]
    fn gpus_come_in_their_order_and_once() {
        let bytes = cbor::encode(&td_with_gpus());
        let at = position(&bytes, b"\x01\x83\x78\x26application/vnd.cocoon.nvidia-gpu");
        for index in [0, 2] {
            let mut bytes = bytes.clone();
            bytes[at] = index;
            assert_eq!(error(&bytes), CborError::NotCanonical, "{index}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _decoded = cbor::decode::<Evidence>(&bytes);
        }

        #[test]
        fn a_changed_byte_never_panics_and_never_reads_as_the_same(
            at: prop::sample::Index,
            to: u8,
        ) {
            let mut bytes = cbor::encode(&td_with_gpus());
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert_ne!(cbor::decode::<Evidence>(&bytes).ok(), Some(td_with_gpus()));
        }
    }
}
