//! A made-up Intel: the keys and certificates under which a platform is genuine.
//!
//! ```text
//! Intel SGX Root CA ─┬─ Intel SGX PCK Platform CA ── Intel SGX PCK Certificate
//!                    └─ Intel SGX TCB Signing
//! ```
//!
//! Names and extensions are those of the real ones, so that a verifier walks
//! the same path; the root is another, so that it refuses them unless built to
//! trust it. All keys come from a seed: one seed, one set of bytes. Anyone who
//! has the seed can sign anything here.
//!
//! Source: Intel SGX PCK Certificate and CRL Profile Specification, 1.5.

use std::fmt;

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CustomExtension, DnType, DnValue, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use yasna::DERWriter;
use yasna::models::ObjectIdentifier;

/// Intel's certificate authorities, and one platform that they certified.
#[derive(Debug)]
pub struct Intel {
    root: Holder,
    platform_ca: Holder,
    pck: Holder,
    tcb_signing: Holder,
}

impl Intel {
    /// The same seed and platform give the same bytes.
    #[must_use]
    pub fn new(seed: &[u8; 32], platform: &Platform) -> Self {
        let root = Holder::self_signed(Key::derive(seed, "root"), root_params());
        let platform_ca = root.issue(Key::derive(seed, "platform CA"), platform_ca_params());
        let pck = platform_ca.issue(Key::derive(seed, "PCK"), pck_params(platform));
        let tcb_signing = root.issue(Key::derive(seed, "TCB signing"), tcb_signing_params());
        Self {
            root,
            platform_ca,
            pck,
            tcb_signing,
        }
    }

    /// The trust anchor, DER.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        self.root.certificate.der()
    }

    /// The authority of what has one processor, under the same root, and its list: DER.
    #[must_use]
    pub fn processor_ca(&self, valid: Window) -> [Vec<u8>; 2] {
        let key = Key::derive(&[0; 32], "processor CA");
        let mut params = authority_params("Intel SGX PCK Processor CA", 0);
        params.not_before = moment(valid.from);
        let authority = self.root.issue(key, params);
        [
            authority.certificate.der().to_vec(),
            authority.crl(valid, None),
        ]
    }

    /// PEM: PCK certificate, platform CA, root.
    #[must_use]
    pub fn pck_chain(&self) -> String {
        pem(&[&self.pck, &self.platform_ca, &self.root])
    }

    /// PEM: TCB signing certificate, root.
    #[must_use]
    pub fn tcb_chain(&self) -> String {
        pem(&[&self.tcb_signing, &self.root])
    }

    /// PEM: platform CA, root.
    #[must_use]
    pub fn crl_chain(&self) -> String {
        pem(&[&self.platform_ca, &self.root])
    }

    /// The platform CA's list, DER.
    #[must_use]
    pub fn pck_crl(&self, valid: Window, revoke_platform: bool) -> Vec<u8> {
        let revoked = revoke_platform.then_some(&self.pck);
        self.platform_ca.crl(valid, revoked)
    }

    /// The root's list, DER; empty.
    #[must_use]
    pub fn root_crl(&self, valid: Window) -> Vec<u8> {
        self.root.crl(valid, None)
    }

    /// `r || s` over the body of a list of the platform CA's.
    #[must_use]
    pub fn sign_list(&self, bytes: &[u8]) -> [u8; 64] {
        self.platform_ca.key.sign_raw(bytes)
    }

    /// `r || s` over TCB info or an enclave identity.
    #[must_use]
    pub fn sign_statement(&self, bytes: &[u8]) -> [u8; 64] {
        self.tcb_signing.key.sign_raw(bytes)
    }

    /// `r || s` over a quoting enclave's report.
    #[must_use]
    pub fn sign_qe_report(&self, bytes: &[u8]) -> [u8; 64] {
        self.pck.key.sign_raw(bytes)
    }
}

/// What a PCK certificate says of a platform.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Provisioning id.
    pub ppid: [u8; 16],
    /// The sixteen SGX TCB components.
    pub cpu_svn: [u8; 16],
    /// Version of the provisioning enclave.
    pub pce_svn: u16,
    /// Identity of the provisioning enclave.
    pub pce_id: [u8; 2],
    /// Family, model, stepping, platform type, custom SKU.
    pub fmspc: [u8; 6],
    /// One platform of several sockets.
    pub instance: [u8; 16],
}

impl Platform {
    /// Like a server of 2023, of a family that Intel never made.
    pub const SAMPLE: Self = Self {
        ppid: *b"cocoon test PPID",
        cpu_svn: [4, 4, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
        pce_svn: 13,
        pce_id: [0, 0],
        fmspc: [0xc0, 0xc0, 0x0a, 0, 0, 0],
        instance: *b"cocoon test host",
    };
}

/// When a statement is valid, in Unix seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// `thisUpdate`, `issueDate`.
    pub from: i64,
    /// `nextUpdate`.
    pub until: i64,
}

/// A key with its certificate.
#[derive(Debug)]
struct Holder {
    key: Key,
    params: CertificateParams,
    certificate: rcgen::Certificate,
}

impl Holder {
    fn self_signed(key: Key, params: CertificateParams) -> Self {
        let certificate = params.self_signed(&key).expect("root parameters are valid");
        Self {
            key,
            params,
            certificate,
        }
    }

    fn issue(&self, key: Key, params: CertificateParams) -> Self {
        let certificate = params
            .signed_by(&key, &Issuer::from_params(&self.params, &self.key))
            .expect("certificate parameters are valid");
        Self {
            key,
            params,
            certificate,
        }
    }

    fn crl(&self, valid: Window, revoked: Option<&Self>) -> Vec<u8> {
        let revoked_certs = revoked
            .and_then(|holder| holder.params.serial_number.clone())
            .map(|serial_number| RevokedCertParams {
                serial_number,
                revocation_time: moment(valid.from),
                reason_code: None,
                invalidity_date: None,
            });
        let params = CertificateRevocationListParams {
            this_update: moment(valid.from),
            next_update: moment(valid.until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.into_iter().collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = params
            .signed_by(&Issuer::from_params(&self.params, &self.key))
            .expect("the issuer may sign CRLs");
        crl.der().to_vec()
    }
}

fn pem(chain: &[&Holder]) -> String {
    chain
        .iter()
        .map(|holder| holder.certificate.pem())
        .collect()
}

fn root_params() -> CertificateParams {
    authority_params("Intel SGX Root CA", 1)
}

fn platform_ca_params() -> CertificateParams {
    authority_params("Intel SGX PCK Platform CA", 0)
}

fn authority_params(common_name: &str, path_len: u8) -> CertificateParams {
    let mut params = params(common_name, "IntelSGXRootCA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn pck_params(platform: &Platform) -> CertificateParams {
    let mut params = params("Intel SGX PCK Certificate", "IntelSGXPCKPlatform");
    params.custom_extensions = vec![sgx_extension(platform)];
    params
}

fn tcb_signing_params() -> CertificateParams {
    params("Intel SGX TCB Signing", "IntelSGXRootCA")
}

/// What the four certificates share; a signer of no certificates unless said otherwise.
fn params(common_name: &str, crl: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    let serial = Sha256::digest(common_name);
    params.serial_number = Some(SerialNumber::from_slice(&serial[..16]));
    params.distinguished_name = rcgen::DistinguishedName::new();
    let country = PrintableString::try_from("US").expect("two letters");
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, common_name);
    name.push(DnType::OrganizationName, "Intel Corporation");
    name.push(DnType::LocalityName, "Santa Clara");
    name.push(DnType::StateOrProvinceName, "CA");
    name.push(DnType::CountryName, DnValue::PrintableString(country));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::ContentCommitment,
    ];
    params.use_authority_key_identifier_extension = true;
    params.crl_distribution_points = vec![CrlDistributionPoint {
        uris: vec![format!("https://intel.test/{crl}.der")],
    }];
    params
}

/// OID 1.2.840.113741.1.13.1: a sequence of (OID, value) pairs.
fn sgx_extension(platform: &Platform) -> CustomExtension {
    let content = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            field(writer.next(), &[1], |value| {
                value.write_bytes(&platform.ppid)
            });
            field(writer.next(), &[2], |value| write_tcb(value, platform));
            field(writer.next(), &[3], |value| {
                value.write_bytes(&platform.pce_id)
            });
            field(writer.next(), &[4], |value| {
                value.write_bytes(&platform.fmspc)
            });
            // SGX type: 1, scalable.
            field(writer.next(), &[5], |value| value.write_enum(1));
            field(writer.next(), &[6], |value| {
                value.write_bytes(&platform.instance)
            });
            field(writer.next(), &[7], write_configuration);
        });
    });
    CustomExtension::from_oid_content(SGX_EXTENSION, content)
}

/// Components 1 to 16, PCESVN, CPUSVN.
fn write_tcb(writer: DERWriter<'_>, platform: &Platform) {
    writer.write_sequence(|writer| {
        for (index, svn) in (1..).zip(platform.cpu_svn) {
            field(writer.next(), &[2, index], |value| value.write_u8(svn));
        }
        field(writer.next(), &[2, 17], |value| {
            value.write_u16(platform.pce_svn)
        });
        field(writer.next(), &[2, 18], |value| {
            value.write_bytes(&platform.cpu_svn)
        });
    });
}

/// Dynamic platform, cached keys, SMT.
fn write_configuration(writer: DERWriter<'_>) {
    writer.write_sequence(|writer| {
        for (index, flag) in [(1, false), (2, true), (3, true)] {
            field(writer.next(), &[7, index], |value| value.write_bool(flag));
        }
    });
}

fn field(writer: DERWriter<'_>, suffix: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        let oid = [SGX_EXTENSION, suffix].concat();
        writer.next().write_oid(&ObjectIdentifier::from_slice(&oid));
        value(writer.next());
    });
}

const SGX_EXTENSION: &[u64] = &[1, 2, 840, 113_741, 1, 13, 1];

/// A P-256 key whose signatures repeat (RFC 6979).
pub(crate) struct Key {
    secret: SigningKey,
    /// Uncompressed: 4, x, y.
    public: Vec<u8>,
}

impl Key {
    pub(crate) fn derive(seed: &[u8; 32], purpose: &str) -> Self {
        let scalar = Sha256::new().chain_update(seed).chain_update(purpose);
        let secret =
            SigningKey::from_slice(&scalar.finalize()).expect("one scalar in 2^32 is out of range");
        let public = secret.verifying_key().to_sec1_point(false);
        Self {
            public: public.as_bytes().to_vec(),
            secret,
        }
    }

    /// `x || y`.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public[1..]
    }

    /// `r || s`.
    pub(crate) fn sign_raw(&self, bytes: &[u8]) -> [u8; 64] {
        let signature: Signature = self.secret.sign(bytes);
        signature.to_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.secret.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

/// As X.509 has it.
fn moment(unix_s: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix_s).expect("a date of this era")
}
