//! Quotes of a TPM 2.0, by tpm2-tss.
//!
//! The endorsement key comes from the standard template, so that the certificate
//! in NV memory is of that key. The attestation key is a primary key of the null
//! hierarchy: the TPM forgets it at reset, and a boot has an identity of its own.
//! Nothing here shows that the TPM is genuine: that is the verifier's part.
//!
//! All calls block.
//!
//! Source: TCG EK Credential Profile 2.5, annex B.3.3 (template L-1) and section
//! 2.2.1 (NV indices); TPM 2.0 Library, part 3.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use attestation::der::{self, Der, DerError};
use attestation::vtpm::{Credential, Endorsement, Evidence, PCR_COUNT};
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek, nv};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, NvIndexTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    CapabilityData, Data, EccPoint, EccScheme, EncryptedSecret, HashScheme, IdObject,
    KeyDerivationFunctionScheme, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Public,
    PublicBuilder, PublicEccParametersBuilder, SignatureScheme, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::Marshall;
use tss_esapi::{Context, Error};

/// A TPM with its endorsement and attestation keys loaded.
#[derive(Debug)]
pub struct Tpm {
    endorsement: Endorsement,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    context: Context,
    ek: KeyHandle,
    ak: KeyHandle,
}

impl Tpm {
    /// Opens the TPM behind a TCTI, such as `device:/dev/tpmrm0`, and makes both keys.
    pub fn open(tcti: &str) -> Result<Self, TpmError> {
        let name = TctiNameConf::from_str(tcti).during("reading the TCTI name")?;
        let mut context = Context::new(name).during("opening the TCTI")?;
        let ek = create_ek(&mut context)?;
        let (ak, ak_public) = create_ak(&mut context)?;
        let endorsement = Endorsement {
            ek_certificate: read_ek_certificate(&mut context)?,
            chain: read_ek_chain(&mut context)?
                .into_iter()
                .map(Into::into)
                .collect(),
            ak_public: ak_public.marshall().during("marshalling TPMT_PUBLIC")?,
        };
        let keys = Mutex::new(Keys { context, ek, ak });
        Ok(Self { endorsement, keys })
    }

    /// What a verifier needs before it can challenge this TPM.
    #[must_use]
    pub const fn endorsement(&self) -> &Endorsement {
        &self.endorsement
    }

    /// Answers a challenge, and quotes the PCRs over `report_data`.
    pub fn attest(
        &self,
        report_data: &[u8; 64],
        credential: &Credential,
    ) -> Result<Evidence, TpmError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = keys.activate(credential)?;
        // Read before quoted: if a register moves in between, the verifier sees
        // that the values are not those that were quoted.
        let pcrs = keys.read_pcrs()?;
        let (attest, signature) = keys.quote(report_data)?;
        Ok(Evidence {
            attest,
            signature,
            pcrs,
            secret,
        })
    }
}

impl Keys {
    /// The endorsement key takes no password: its policy asks for the
    /// authorisation of the endorsement hierarchy, which is empty.
    fn activate(&mut self, credential: &Credential) -> Result<[u8; 32], TpmError> {
        let id_object = IdObject::try_from(credential.id_object.as_slice());
        let id_object = id_object.during("reading the credential")?;
        let secret = EncryptedSecret::try_from(credential.encrypted_secret.as_slice());
        let secret = secret.during("reading the credential")?;
        let policy = self.start_policy()?;
        let sessions = (Some(AuthSession::Password), Some(policy.into()), None);
        let (ek, ak) = (self.ek, self.ak);
        let answer = self.satisfy(policy).and_then(|()| {
            self.context
                .execute_with_sessions(sessions, |context| {
                    context.activate_credential(ak, ek, id_object, secret)
                })
                .during("TPM2_ActivateCredential")
        });
        let session = SessionHandle::from(AuthSession::from(policy)).into();
        self.context
            .flush_context(session)
            .during("TPM2_FlushContext")?;
        let answer = answer?;
        <[u8; 32]>::try_from(answer.value()).map_err(|_| TpmError::Secret {
            len: answer.value().len(),
        })
    }

    fn start_policy(&mut self) -> Result<PolicySession, TpmError> {
        let session = self.context.start_auth_session(
            None,
            None,
            None,
            SessionType::Policy,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        );
        let session = session.during("TPM2_StartAuthSession")?;
        let session = session.ok_or(TpmError::NoSession)?;
        session.try_into().during("TPM2_StartAuthSession")
    }

    fn satisfy(&mut self, policy: PolicySession) -> Result<(), TpmError> {
        let password = Some(AuthSession::Password);
        let result = self.context.execute_with_session(password, |context| {
            context.policy_secret(
                policy,
                AuthHandle::Endorsement,
                Default::default(),
                Default::default(),
                Default::default(),
                None,
            )
        });
        result.during("TPM2_PolicySecret").map(|_ticket| ())
    }

    fn read_pcrs(&mut self) -> Result<[u8; PCR_COUNT * 32], TpmError> {
        // TPM2_PCR_Read answers eight values at most (TPML_DIGEST).
        let mut values = Vec::with_capacity(PCR_COUNT * 32);
        for slots in SLOTS.chunks(8) {
            let selection = select(slots)?;
            let (_counter, _selection, digests) =
                self.context.pcr_read(selection).during("TPM2_PCR_Read")?;
            values.extend(digests.value().iter().flat_map(|digest| digest.value()));
        }
        let len = values.len();
        values.try_into().map_err(|_| TpmError::Pcrs { len })
    }

    fn quote(&mut self, report_data: &[u8; 64]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let data = Data::try_from(report_data.as_slice()).during("reading REPORTDATA")?;
        let selection = select(&SLOTS)?;
        let ak = self.ak;
        let password = Some(AuthSession::Password);
        let quote = self.context.execute_with_session(password, |context| {
            context.quote(ak, data, SignatureScheme::Null, selection)
        });
        let (attest, signature) = quote.during("TPM2_Quote")?;
        let attest = attest.marshall().during("marshalling TPMS_ATTEST")?;
        let signature = signature.marshall().during("marshalling TPMT_SIGNATURE")?;
        Ok((attest, signature))
    }
}

fn create_ek(context: &mut Context) -> Result<KeyHandle, TpmError> {
    let rsa = AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048);
    ek::create_ek_object_2(context, rsa, None).during("TPM2_CreatePrimary (endorsement key)")
}

fn create_ak(context: &mut Context) -> Result<(KeyHandle, Public), TpmError> {
    let template = ak_template().during("building the attestation key's template")?;
    let password = Some(AuthSession::Password);
    let created = context.execute_with_session(password, |context| {
        context.create_primary(Hierarchy::Null, template, None, None, None, None)
    });
    let created = created.during("TPM2_CreatePrimary (attestation key)")?;
    Ok((created.key_handle, created.out_public))
}

/// ECDSA P-256 with SHA-256, for what the TPM itself has made and nothing else.
fn ak_template() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// NV space may be larger than the certificate in it.
fn read_ek_certificate(context: &mut Context) -> Result<Vec<u8>, TpmError> {
    let bytes = read_nv(context, EK_CERTIFICATE)?;
    let certificate = Der::new(&bytes).whole(der::SEQUENCE, "endorsement certificate");
    certificate
        .map(<[u8]>::to_vec)
        .map_err(TpmError::Certificate)
}

/// Issuers of the endorsement certificate, one after the other over as many
/// indices as they need (section 2.2.1.5.2). Many TPMs have none.
fn read_ek_chain(context: &mut Context) -> Result<Vec<Vec<u8>>, TpmError> {
    let (first, last) = EK_CHAIN;
    let capability = context
        .get_capability(CapabilityType::Handles, first, 256)
        .during("TPM2_GetCapability")?;
    let mut bytes = Vec::new();
    if let (CapabilityData::Handles(handles), _more) = capability {
        for handle in handles.iter() {
            match handle {
                TpmHandle::NvIndex(index) if u32::from(*index) <= last => {
                    bytes.extend(read_nv(context, (*index).into())?);
                }
                _ => {}
            }
        }
    }
    let mut chain = Vec::new();
    let mut rest = Der::new(&bytes);
    while rest.peek() == Some(der::SEQUENCE) {
        let certificate = rest.whole(der::SEQUENCE, "certificate chain");
        chain.push(certificate.map_err(TpmError::Certificate)?.to_vec());
    }
    Ok(chain)
}

fn read_nv(context: &mut Context, index: u32) -> Result<Vec<u8>, TpmError> {
    let handle = NvIndexTpmHandle::new(index).during("TPM2_NV_Read")?;
    let password = Some(AuthSession::Password);
    context
        .execute_with_session(password, |context| {
            nv::read_full(context, NvAuth::Owner, handle)
        })
        .map_err(|source| TpmError::Nv { index, source })
}

fn select(slots: &[PcrSlot]) -> Result<PcrSelectionList, TpmError> {
    PcrSelectionListBuilder::new()
        .with_selection(HashingAlgorithm::Sha256, slots)
        .build()
        .during("selecting PCRs")
}

/// Certificate of the RSA-2048 endorsement key.
const EK_CERTIFICATE: u32 = 0x01c0_0002;
/// Certificates of its issuers.
const EK_CHAIN: (u32, u32) = (0x01c0_0100, 0x01c0_01ff);

const SLOTS: [PcrSlot; PCR_COUNT] = [
    PcrSlot::Slot0,
    PcrSlot::Slot1,
    PcrSlot::Slot2,
    PcrSlot::Slot3,
    PcrSlot::Slot4,
    PcrSlot::Slot5,
    PcrSlot::Slot6,
    PcrSlot::Slot7,
    PcrSlot::Slot8,
    PcrSlot::Slot9,
    PcrSlot::Slot10,
    PcrSlot::Slot11,
    PcrSlot::Slot12,
    PcrSlot::Slot13,
    PcrSlot::Slot14,
    PcrSlot::Slot15,
];

trait During<T> {
    fn during(self, command: &'static str) -> Result<T, TpmError>;
}

impl<T> During<T> for Result<T, Error> {
    fn during(self, command: &'static str) -> Result<T, TpmError> {
        self.map_err(|source| TpmError::Command { command, source })
    }
}

/// Why a TPM gave no evidence.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// What is in NV memory is no certificate.
    #[error("endorsement certificates in NV memory are malformed")]
    Certificate(#[source] DerError),
    /// The TPM, or the library before it, refused.
    #[error("{command} failed")]
    Command {
        /// The TPM's name for it, where it has one.
        command: &'static str,
        /// As the library reports it.
        source: Error,
    },
    /// A session that is not the TPM's own.
    #[error("TPM2_StartAuthSession gave no session")]
    NoSession,
    /// The TPM has no such certificate, or does not let us read it.
    #[error("TPM2_NV_Read of index {index:#010x} failed")]
    Nv {
        /// NV index.
        index: u32,
        /// As the library reports it.
        source: Error,
    },
    /// The bank is not active, or not of SHA-256.
    #[error("TPM2_PCR_Read gave {len} bytes, expected {}", PCR_COUNT * 32)]
    Pcrs {
        /// As read.
        len: usize,
    },
    /// The challenge holds something else than our verifier's secret.
    #[error("TPM2_ActivateCredential gave {len} bytes, expected 32")]
    Secret {
        /// As decrypted.
        len: usize,
    },
}
