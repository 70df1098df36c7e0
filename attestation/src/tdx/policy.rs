//! Which TDs to trust, and on which platforms.
//!
//! A policy has no unset field. What need not be known beforehand, such as which
//! platform it will be, is [`Accept::Any`] in so many words; what makes a TD the
//! one that is wanted is a set, and an empty set takes nothing.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::appraisal::{Check, Rejection, all_passed};
use crate::binding::ReportData;
use crate::register::{Digest256, Digest384, TdRegisters};

use super::body::{TdAttributes, TdBody, Xfam};
use super::hex::Hex;
use super::status::TcbStatus;
use super::verify::Verified;

/// What to trust.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// The hardware and how it is set up.
    pub platform: PlatformPolicy,
    /// The software.
    pub identity: IdentityPolicy,
}

/// Which hardware, and how it must be set up. A key that its text leaves out has
/// the value of [`PlatformPolicy::strict`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlatformPolicy {
    /// Accepted TCB statuses.
    pub statuses: BTreeSet<TcbStatus>,
    /// Advisories that the platform may be subject to.
    pub advisories: BTreeSet<String>,
    /// Collateral must be from this TCB recovery or a later one.
    pub min_evaluation_number: u32,
    /// Each component of TEE_TCB_SVN must reach this one, whatever Intel's table says.
    pub min_tee_tcb_svn: Hex<16>,
    /// PCESVN of the PCK certificate must reach this.
    pub min_pce_svn: u16,
    /// ISVSVN of the quoting enclave must reach this.
    pub min_qe_svn: u16,
    /// TDATTRIBUTES that may be set. SEPT_VE_DISABLE must be.
    pub attributes: TdAttributes,
    /// XFAM bits that may be set.
    pub xfam: Xfam,
    /// Service TDs that may be bound, beside none.
    pub service_tds: BTreeSet<Digest384>,
    /// Signers of the TDX module; zero is Intel.
    pub mrsignerseam: BTreeSet<Digest384>,
    /// TDX modules.
    pub mrseam: Accept<Digest384>,
    /// Whether packages may join after registration.
    pub dynamic_platform: bool,
    /// Whether Intel may keep the platform's keys.
    pub cached_keys: bool,
    /// Whether hyper-threading may be on.
    pub smt: bool,
    /// Families of processors.
    pub fmspc: Accept<Hex<6>>,
    /// Processor packages.
    pub ppid: Accept<Hex<16>>,
    /// Registered platforms.
    pub instance: Accept<Hex<16>>,
    /// SHA-256 of PCK certificates.
    pub pck: Accept<Digest256>,
}

impl PlatformPolicy {
    /// Up to date, no advisory, nothing that weakens a TD; any platform of Intel's.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            statuses: BTreeSet::from([TcbStatus::UpToDate]),
            advisories: BTreeSet::new(),
            min_evaluation_number: 0,
            min_tee_tcb_svn: Hex([0; 16]),
            min_pce_svn: 0,
            min_qe_svn: 0,
            attributes: TdAttributes::HARMLESS,
            xfam: Xfam::HARMLESS,
            service_tds: BTreeSet::new(),
            mrsignerseam: BTreeSet::from([Digest384::ZERO]),
            mrseam: Accept::Any,
            dynamic_platform: true,
            cached_keys: true,
            smt: true,
            fmspc: Accept::Any,
            ppid: Accept::Any,
            instance: Accept::Any,
            pck: Accept::Any,
        }
    }
}

impl Default for PlatformPolicy {
    fn default() -> Self {
        Self::strict()
    }
}

/// Which software. Every key must be there.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityPolicy {
    /// Accepted builds: firmware, its settings, kernel, command line and initrd.
    pub builds: BTreeSet<TdRegisters>,
    /// Accepted digests of the measured configuration.
    pub mrconfigid: BTreeSet<Digest384>,
    /// Accepted owners; zero where the host sets none.
    pub mrowner: BTreeSet<Digest384>,
    /// Accepted configurations by the owner; zero where the host sets none.
    pub mrownerconfig: BTreeSet<Digest384>,
}

/// Which values to take. There is no third, unset, form.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Accept<T: Ord> {
    /// One of these.
    OneOf(BTreeSet<T>),
    /// All of them: `"any"` as text.
    #[serde(with = "any")]
    Any,
}

impl<T: Ord> Accept<T> {
    fn takes(&self, found: Option<&T>) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(accepted) => found.is_some_and(|found| accepted.contains(found)),
        }
    }
}

impl<T: Ord + fmt::Display> fmt::Display for Accept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::OneOf(accepted) => f.write_str(&one_of(accepted)),
        }
    }
}

impl Verified {
    /// Compares everything with `policy` and with what the guest must have put into
    /// the quote in this session, and reports every comparison.
    pub fn appraise(self, policy: &Policy, report_data: &ReportData) -> Result<Trusted, Rejection> {
        let mut checks = self.check_platform(&policy.platform);
        checks.extend(self.check_identity(&policy.identity));
        checks.push(self.check_report_data(report_data));
        Ok(Trusted {
            checks: all_passed(checks)?,
            verified: self,
        })
    }

    /// Compares what does not depend on the software. That is not yet trust.
    #[must_use]
    pub fn check_platform(&self, policy: &PlatformPolicy) -> Vec<Check> {
        let body = self.body();
        let mut checks = self.check_tcb(policy);
        checks.extend(check_attributes(body, policy));
        checks.extend(check_services(body, policy));
        checks.extend(self.check_pins(policy));
        checks
    }

    /// Compares the software's measurements. Without a fresh REPORTDATA they may be
    /// those of another day.
    #[must_use]
    pub fn check_identity(&self, policy: &IdentityPolicy) -> Vec<Check> {
        let body = self.body();
        let sets = [
            ("mrconfigid", &body.mrconfigid, &policy.mrconfigid),
            ("mrowner", &body.mrowner, &policy.mrowner),
            ("mrownerconfig", &body.mrownerconfig, &policy.mrownerconfig),
        ];
        let sets = sets.map(|(name, found, accepted)| {
            Check::new(name, one_of(accepted), found, accepted.contains(found))
        });
        check_registers(&body.registers, &policy.builds)
            .into_iter()
            .chain(sets)
            .collect()
    }

    /// Compares what the guest put into the quote.
    #[must_use]
    pub fn check_report_data(&self, expected: &ReportData) -> Check {
        let found = &self.body().report_data;
        Check::new("report-data", expected, found, found == expected)
    }

    fn check_tcb(&self, policy: &PlatformPolicy) -> Vec<Check> {
        let tee_tcb_svn = Hex(self.body().tee_tcb_svn);
        let mut pairs = tee_tcb_svn.0.iter().zip(policy.min_tee_tcb_svn.0);
        let reached = pairs.all(|(svn, least)| *svn >= least);
        let (status, advisories) = (self.status(), self.advisories());
        [
            Check::new(
                "tcb-status",
                one_of(&policy.statuses),
                status,
                policy.statuses.contains(&status),
            ),
            Check::new(
                "advisories",
                list(&policy.advisories),
                list(advisories),
                advisories.is_subset(&policy.advisories),
            ),
            at_least(
                "evaluation-number",
                policy.min_evaluation_number,
                self.evaluation_number(),
            ),
            Check::new(
                "tee-tcb-svn",
                format_args!("at least {} in each byte", policy.min_tee_tcb_svn),
                tee_tcb_svn,
                reached,
            ),
            at_least("pce-svn", policy.min_pce_svn, self.pce_svn()),
            at_least("qe-svn", policy.min_qe_svn, self.qe_svn()),
        ]
        .into()
    }

    fn check_pins(&self, policy: &PlatformPolicy) -> Vec<Check> {
        let platform = self.platform();
        let setup = |name, allowed, found: Option<bool>| {
            let found_text = found.map_or("unknown".into(), |found| found.to_string());
            let expected = if allowed { "any" } else { "false" };
            Check::new(name, expected, found_text, allowed || found == Some(false))
        };
        let configuration = platform.configuration;
        [
            setup(
                "dynamic-platform",
                policy.dynamic_platform,
                configuration.map(|setup| setup.dynamic_platform),
            ),
            setup(
                "cached-keys",
                policy.cached_keys,
                configuration.map(|setup| setup.cached_keys),
            ),
            setup("smt", policy.smt, configuration.map(|setup| setup.smt)),
            pin("fmspc", &policy.fmspc, Some(&platform.fmspc)),
            pin("ppid", &policy.ppid, Some(&platform.ppid)),
            pin("instance", &policy.instance, platform.instance.as_ref()),
            pin("pck", &policy.pck, Some(&platform.pck)),
        ]
        .into()
    }
}

/// A TD that a policy takes. Holding one is the proof.
#[derive(Clone, Debug)]
pub struct Trusted {
    verified: Verified,
    checks: Vec<Check>,
}

impl Trusted {
    /// What was verified.
    #[must_use]
    pub const fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Every comparison; all of them passed.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

fn check_attributes(body: &TdBody, policy: &PlatformPolicy) -> [Check; 5] {
    let attributes = body.attributes;
    let only = |mask: TdAttributes| TdAttributes(attributes.0 & mask.0);
    let none = TdAttributes(0);
    let (debug, reserved) = (
        only(TdAttributes::UNDER_DEBUG),
        only(TdAttributes::RESERVED),
    );
    let other = TdAttributes(attributes.0 & !debug.0 & !reserved.0);
    let disabled = TdAttributes::SEPT_VE_DISABLE.within(attributes);
    [
        Check::new("td-debug", none, debug, debug == none),
        Check::new("td-reserved", none, reserved, reserved == none),
        Check::new(
            "td-attributes",
            format_args!("within {}", policy.attributes),
            other,
            other.within(policy.attributes),
        ),
        Check::new("sept-ve-disable", true, disabled, disabled),
        Check::new(
            "xfam",
            format_args!("within {}", policy.xfam),
            body.xfam,
            body.xfam.within(policy.xfam),
        ),
    ]
}

fn check_services(body: &TdBody, policy: &PlatformPolicy) -> [Check; 4] {
    let ex = body.td15.and_then(|td15| td15.ex);
    let bound: BTreeSet<_> = [
        body.td15.map(|td15| td15.mrservicetd),
        ex.map(|ex| ex.initial_service_td),
        ex.map(|ex| ex.current_service_td),
    ]
    .into_iter()
    .flatten()
    .filter(|digest| *digest != Digest384::ZERO)
    .collect();
    let vmid = ex.map_or(0, |ex| ex.vmid);
    [
        Check::new(
            "service-td",
            list(&policy.service_tds),
            list(&bound),
            bound.is_subset(&policy.service_tds),
        ),
        // The quote of a partition says nothing of the partition above it.
        Check::new("vmid", 0, vmid, vmid == 0),
        Check::new(
            "mrsignerseam",
            one_of(&policy.mrsignerseam),
            body.mrsignerseam,
            policy.mrsignerseam.contains(&body.mrsignerseam),
        ),
        pin("mrseam", &policy.mrseam, Some(&body.mrseam)),
    ]
}

/// Compares with the build that has the most registers in common, so that the
/// differences are those of the build that was meant.
fn check_registers(found: &TdRegisters, builds: &BTreeSet<TdRegisters>) -> [Check; 5] {
    let named = |registers: &TdRegisters| {
        [
            ("mrtd", registers.mrtd),
            ("rtmr0", registers.rtmr0),
            ("rtmr1", registers.rtmr1),
            ("rtmr2", registers.rtmr2),
            ("rtmr3", registers.rtmr3),
        ]
    };
    let found = named(found);
    let common = |build: &[(&str, Digest384); 5]| {
        found
            .iter()
            .zip(build)
            .filter(|(found, build)| found == build)
            .count()
    };
    let nearest = builds.iter().map(named).max_by_key(common);
    let mut nearest = nearest.into_iter().flatten().map(|(_, digest)| digest);
    found.map(|(name, found)| {
        let expected = nearest.next();
        let text = expected.map_or("no build".into(), |digest| digest.to_string());
        Check::new(name, text, found, expected == Some(found))
    })
}

pub(crate) fn pin<T: Ord + fmt::Display>(
    name: &'static str,
    accepted: &Accept<T>,
    found: Option<&T>,
) -> Check {
    let text = found.map_or("none".into(), ToString::to_string);
    Check::new(name, accepted, text, accepted.takes(found))
}

fn at_least<T: fmt::Display + Ord>(name: &'static str, least: T, found: T) -> Check {
    let passed = found >= least;
    Check::new(name, format_args!("at least {least}"), found, passed)
}

fn one_of<T: fmt::Display>(accepted: &BTreeSet<T>) -> String {
    match accepted.len() {
        0 | 1 => list(accepted),
        _ => alloc::format!("one of {}", list(accepted)),
    }
}

fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    match items.is_empty() {
        true => "none".into(),
        false => items
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The word `any`.
mod any {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Any,
    }

    pub(super) fn serialize<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
        Word::Any.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
        Word::deserialize(from).map(|Word::Any| ())
    }
}
