//! A quote whose signatures hold.

use std::collections::{BTreeMap, BTreeSet};

use attestation::eventlog::{Event, Log};
use attestation::register::Digest384;
use attestation::tdx::{self, Platform, TcbStatus};
use attestation::time::UnixTime;
use serde::Serialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, bytes, to_js};
use crate::error::{AttestationError, refuse, reject};
use crate::policy::{Policy, Trusted};

/// A quote whose signatures hold and whose platform has a status.
///
/// Nobody has said yet that the TD is one to trust.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Verified(pub(crate) tdx::Verified);

#[wasm_bindgen]
impl Verified {
    /// What Intel's hardware stands behind.
    #[wasm_bindgen(getter, unchecked_return_type = "Claims")]
    pub fn claims(&self) -> Result<Json, AttestationError> {
        to_js(&Claims {
            tcb_status: self.0.status(),
            tcb_date: self.0.tcb_date(),
            advisories: self.0.advisories(),
            evaluation_number: self.0.evaluation_number(),
            registers: self.0.body().digests(),
            report_data: self.0.body().report_data.to_string(),
            platform: self.0.platform(),
        })
    }

    /// The events of a CCEL, if they give exactly the registers of this quote.
    #[wasm_bindgen(unchecked_return_type = "LogEvent[]")]
    pub fn replay(&self, ccel: &[u8]) -> Result<Json, AttestationError> {
        let registers = &self.0.body().registers;
        let signed = [
            registers.rtmr0,
            registers.rtmr1,
            registers.rtmr2,
            registers.rtmr3,
        ];
        let log = Log::parse_ccel(ccel).map_err(|error| refuse("log-format", &error))?;
        let replayed = log
            .verify_rtmrs(&signed)
            .map_err(|error| refuse("log-quote", &error))?;
        let events: Vec<_> = replayed.events().iter().map(LogEvent::of).collect();
        to_js(&events)
    }

    /// Compares everything with `policy`, and REPORTDATA with what the guest must
    /// have put there in this session. Throws what differs.
    pub fn appraise(
        &self,
        policy: &Policy,
        report_data: &[u8],
    ) -> Result<Trusted, AttestationError> {
        let report_data = attestation::binding::ReportData(bytes(report_data, "REPORTDATA")?);
        match self.0.clone().appraise(&policy.td, &report_data) {
            Ok(trusted) => Ok(Trusted(trusted.checks().to_vec())),
            Err(rejection) => Err(reject(&rejection, &rejection.checks)),
        }
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    tcb_status: TcbStatus,
    tcb_date: UnixTime,
    advisories: &'a BTreeSet<String>,
    evaluation_number: u32,
    registers: BTreeMap<&'static str, Digest384>,
    report_data: String,
    platform: &'a Platform,
}

#[derive(Serialize)]
struct LogEvent {
    register: String,
    digest: Option<Digest384>,
    text: String,
    proved: bool,
}

impl LogEvent {
    fn of(event: &Event<'_>) -> Self {
        Self {
            register: event.register.to_string(),
            digest: event.sha384.filter(|_| event.extends()),
            text: event.to_string(),
            proved: event.proved(),
        }
    }
}
