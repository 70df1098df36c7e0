//! The keys that receipts count under, and a quote that names them.
//!
//! Our own clients need no such quote: the evidence of their session names the keyset.
//! GPUs are not in it: their reports belong to a session.

use std::sync::Arc;

use attestation::aci::VERSION;
use attestation::binding::ReportData;
use attestation::evidence::PlatformEvidence;
use attestation::protocol::Refusal;
use attestation::register::Digest256;
use attestation::tdx::Quote;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use session::server::Worker;

use crate::api::refused;

/// `GET /v1/aci/keyset`
pub(super) async fn keyset(State(worker): State<Arc<Worker>>) -> Response {
    match worker.keyset() {
        Some(keyset) => {
            let kind = [(header::CONTENT_TYPE, super::JSON)];
            (kind, keyset.text().to_owned()).into_response()
        }
        None => refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            "There are no keys yet.",
        ),
    }
}

/// `GET /v1/aci/attestation`
pub(super) async fn attestation(
    State(worker): State<Arc<Worker>>,
    RawQuery(query): RawQuery,
) -> Response {
    let nonce = match nonce(query.as_deref().unwrap_or_default()) {
        Ok(nonce) => nonce,
        Err(message) => {
            return refused(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        }
    };
    match worker.report(nonce).await {
        Ok((keyset, data, PlatformEvidence::Tdx { quote, collateral })) => {
            let log = BASE64_STANDARD.encode(worker.event_log());
            let keys = serde_json::from_str::<Value>(keyset.text()).unwrap_or_default();
            Json(json!({
                "api_version": VERSION,
                "workload_keyset_digest": keyset.digest(),
                "attestation": {
                    "tee_type": "tdx",
                    "workload_keyset": keys,
                    "report_data": half(&data),
                    "source_provenance": {
                        "repo_url": null,
                        "repo_commit": null,
                        "image_digest": build(&quote).map(|build| format!("sha256:{build}")),
                        "image_provenance": null,
                    },
                    "evidence": {
                        "quote": hex::encode(&quote),
                        "event_log_b64": log,
                        "collateral": {
                            "tcb_info": collateral.tcb_info,
                            "tcb_info_issuer_chain": collateral.tcb_info_issuer_chain,
                            "qe_identity": collateral.qe_identity,
                            "qe_identity_issuer_chain": collateral.qe_identity_issuer_chain,
                            "pck_crl": hex::encode(collateral.pck_crl),
                            "pck_crl_issuer_chain": collateral.pck_crl_issuer_chain,
                            "root_ca_crl": hex::encode(collateral.root_ca_crl),
                        },
                    },
                },
                "service_capabilities": {
                    "supported_e2ee_versions": [],
                    "serving": "direct",
                },
            }))
            .into_response()
        }
        Ok(_) | Err(Refusal::OutOfOrder) => refused(
            StatusCode::NOT_IMPLEMENTED,
            "server_error",
            "This machine has a TPM and is no TEE: its keys are in the evidence of a session only.",
        ),
        Err(refusal) => refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            match refusal {
                Refusal::Busy => "Too many others are asking.",
                _ => "The platform gave no quote.",
            },
        ),
    }
}

/// Exactly 64 lower-case hex digits, or absent (section 3.2).
fn nonce(query: &str) -> Result<Option<Digest256>, &'static str> {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("nonce="));
    match (values.next().map(str::parse), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(nonce)), None) => Ok(Some(nonce)),
        _ => Err("Invalid value for 'nonce': expected 64 lower-case hex digits."),
    }
}

/// The half that is not zero.
fn half(data: &ReportData) -> String {
    let (half, _) = data.0.split_at(32);
    hex::encode(half)
}

/// What the Registry on TON knows a build by: SHA-256 of MRTD and RTMR0 to RTMR3.
pub(crate) fn build(quote: &[u8]) -> Option<Digest256> {
    let quote = Quote::parse(quote).ok()?;
    Some(quote.unverified_body().registers.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_64_lower_case_hex_digits_once() {
        let digits = "0a".repeat(32);
        let good = digits.parse().unwrap();
        assert_eq!(nonce(&format!("nonce={digits}")), Ok(Some(good)));
        assert_eq!(nonce(&format!("a=b&nonce={digits}")), Ok(Some(good)));
        assert_eq!(nonce("a=b"), Ok(None));
        for bad in [
            "nonce=".into(),
            format!("nonce={}", digits.to_uppercase()),
            format!("nonce={digits}&nonce={digits}"),
            format!("nonce={digits}00"),
        ] {
            assert!(nonce(&bad).is_err(), "{bad}");
        }
    }
}
