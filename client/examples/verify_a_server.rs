//! A program that talks to a worker only after the worker has proved what it runs.
//!
//! `cargo run -p client --example verify_a_server -- https://HOST:PORT RELEASE.json`
//!
//! The release says what a worker built from public sources has to report; whoever made
//! it can be checked by building it again. What this does not establish: that the
//! server stands where its owner says, see the example `pin_a_platform`.

use std::sync::Arc;
use std::{env, fs};

use anyhow::Context as _;
use attestation::policy::{GpuPolicy, Policy, TdxPolicy};
use attestation::tdx::{self, PlatformPolicy};
use axum::body::Body;
use axum::http::{Request, Uri};
use client::address::Address;
use client::worker::{FRESH, Worker};
use http_body_util::BodyExt as _;
use measurements::release::Release;

/// Any shape and configuration of a release, on hardware that is up to date, without GPUs.
pub fn policy(release: &Release) -> Policy {
    let accepted = tdx::Policy {
        platform: PlatformPolicy::strict(),
        identity: release.td_identity(),
    };
    Policy::Tdx(Box::new(TdxPolicy::new(accepted, GpuPolicy::none())))
}

/// The models of a worker that satisfies `policy`; nothing is sent to any other.
pub async fn models(address: Address, policy: Policy) -> anyhow::Result<String> {
    // Old evidence is asked for again on the same connection, before the next request.
    let worker = Worker::new(address, Arc::new(policy), FRESH);
    let (trusted, timing) = worker.trusted().await?;
    for check in trusted.checks() {
        println!("{}: {}", check.name, check.found);
    }
    println!("verified in {:?}", timing.verification);

    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("http://worker.cocoon.invalid/v1/models");
    let answer = worker.send(request).await?.into_body().collect().await?;
    String::from_utf8(answer.to_bytes().into()).context("the answer is not text")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let [_, address, release] = &*env::args().collect::<Vec<_>>() else {
        anyhow::bail!("expected https://HOST:PORT RELEASE.json");
    };
    let manifest = fs::read(release).with_context(|| format!("cannot read {release}"))?;
    let policy = policy(&Release::parse(&manifest)?);
    println!("{}", models(address.parse()?, policy).await?);
    Ok(())
}
