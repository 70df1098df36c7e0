//! The platform, shared by all who ask: one at a time, and one quote for all that
//! wait together.

use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use attestation::aci::{Keyset, report_data as report_data_for_keys};
use attestation::appraisal::chain;
use attestation::batch::{self, Path, TreeHead};
use attestation::binding::{Binding, ReportData};
use attestation::evidence::{Evidence, PlatformEvidence, State, report_data};
use attestation::protocol::Refusal;
use attestation::register::{Digest256, Digest384};
use attestation::vtpm::{Credential, Endorsement};
use aws_lc_rs::rand;
use tokio::spawn;
use tokio::sync::oneshot::{self, Sender};
use tokio::sync::{Mutex as Turn, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::identity::{Identity, IdentityError};
use crate::provider::{Provider, ProviderError};
use crate::receipts::{KeyError, Signer};

/// What speaks for this machine, in turns.
pub(crate) struct Platform {
    provider: Arc<dyn Provider>,
    /// But for the keyset, which changes.
    state: State,
    pub(crate) signer: Signer,
    turn: Turn<()>,
    places: Arc<Semaphore>,
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    binding: Binding,
    credential: Option<Credential>,
    answer: Sender<Answer>,
    /// Taken until it is served, even if the client leaves.
    _place: OwnedSemaphorePermit,
}

pub(crate) type Answer = Result<(Box<Evidence>, Path), Refusal>;

impl Platform {
    pub(crate) fn new(provider: Arc<dyn Provider>) -> Result<Self, KeyError> {
        let mut boot_seed = [0; 32];
        rand::fill(&mut boot_seed).map_err(|_| KeyError::Random)?;
        let event_log = *Digest384::of(provider.event_log()).as_bytes();
        Ok(Self {
            provider,
            state: State {
                boot_seed,
                event_log,
                gpu_mode: None,
                keyset: [0; 32],
            },
            signer: Signer::new()?,
            turn: Turn::default(),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            waiting: Mutex::default(),
        })
    }

    pub(crate) fn endorsement(&self) -> Option<Endorsement> {
        self.provider.endorsement()
    }

    pub(crate) fn event_log(&self) -> &[u8] {
        self.provider.event_log()
    }

    /// A new key, and the platform's word for it.
    pub(crate) async fn identity(&self) -> Result<Identity, IdentityError> {
        let _turn = self.turn.lock().await;
        let provider = Arc::clone(&self.provider);
        let identity = spawn_blocking(move || Identity::new(&*provider))
            .await
            .map_err(IdentityError::Panicked)??;
        let keyset = self.signer.renew(&identity.pin);
        keyset.map_err(IdentityError::Keyset)?;
        Ok(identity)
    }

    /// The platform's word for the newest keyset, and the keyset.
    pub(crate) async fn report(
        &self,
        nonce: Option<Digest256>,
    ) -> Result<(Arc<Keyset>, ReportData, PlatformEvidence), Refusal> {
        let _place = self.places.try_acquire().map_err(|_| Refusal::Busy)?;
        let _turn = self.turn.lock().await;
        let keyset = self.signer.keyset().ok_or(Refusal::NoEvidence)?;
        let data = report_data_for_keys(keyset.digest(), nonce.as_ref());
        let provider = Arc::clone(&self.provider);
        let evidence = spawn_blocking(move || provider.attest(&data, None))
            .await
            .map_err(ProviderError::from)
            .flatten()
            .map_err(no_evidence)?;
        Ok((keyset, data, evidence))
    }

    /// Evidence for one client.
    pub(crate) async fn attest(
        self: &Arc<Self>,
        binding: Binding,
        credential: Option<Credential>,
    ) -> Answer {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let (answer, mine) = oneshot::channel();
        self.waiting().push(Waiting {
            binding,
            credential,
            answer,
            _place: place.map_err(|_| Refusal::Busy)?,
        });
        // Not by this client's own future, which ends when the client leaves.
        spawn(Arc::clone(self).serve());
        mine.await.unwrap_or(Err(Refusal::NoEvidence))
    }

    /// Serves all that wait when its turn comes: together by a TD, each by itself
    /// by a TPM, which opens one credential at a time.
    async fn serve(self: Arc<Self>) {
        let _turn = self.turn.lock().await;
        let waiting = take(&mut *self.waiting());
        if waiting.is_empty() {
            return;
        }
        let rounds: Vec<Vec<Waiting>> = match self.endorsement() {
            None => vec![waiting],
            Some(_) => waiting.into_iter().map(|one| vec![one]).collect(),
        };
        for mut round in rounds {
            let bindings: Vec<Binding> = round.iter().map(|one| one.binding).collect();
            let credential = round.first_mut().and_then(|one| one.credential.take());
            let (head, paths) = batch::tree(&bindings);
            let evidence = self.evidence(&head, credential).await;
            for (one, path) in round.into_iter().zip(paths) {
                let answer = evidence.clone().map(|evidence| (evidence, path));
                // A client that has left needs none.
                one.answer.send(answer).unwrap_or_default();
            }
        }
    }

    async fn evidence(
        &self,
        head: &TreeHead,
        credential: Option<Credential>,
    ) -> Result<Box<Evidence>, Refusal> {
        let (provider, head) = (Arc::clone(&self.provider), *head);
        let keyset = self.signer.keyset().ok_or(Refusal::NoEvidence)?;
        let mut state = self.state.clone();
        state.keyset = *keyset.digest().0.as_bytes();
        // GPUs first: what they signed is part of what the platform signs.
        let attest = move || {
            let gpus = provider.gpus(&head)?;
            state.gpu_mode = gpus.mode;
            let data = report_data(&head, &gpus.reports, &state);
            Ok(Box::new(Evidence {
                platform: provider.attest(&data, credential.as_ref())?,
                gpus: gpus.reports,
                gpu_collateral: gpus.collateral,
                state,
                event_log: provider.event_log().to_vec(),
            }))
        };
        spawn_blocking(attest)
            .await
            .map_err(ProviderError::from)
            .flatten()
            .map_err(no_evidence)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_evidence(error: ProviderError) -> Refusal {
    tracing::warn!("no evidence: {}", chain(error.as_ref()));
    Refusal::NoEvidence
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Platform").finish_non_exhaustive()
    }
}

/// Clients that may wait together, each with evidence of some 60 KB at the end. A
/// quote takes about a second on real hardware.
const MAX_WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Gpus;
    use attestation::binding::Nonce;
    use attestation::evidence::{Collateral, GpuEvidence, GpuMode};
    use attestation::vtpm;
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::task::yield_now;

    /// A platform that signs by repeating, and counts.
    #[derive(Default)]
    struct Echo {
        tpm: bool,
        asked: Mutex<Vec<ReportData>>,
    }

    impl Provider for Echo {
        fn endorsement(&self) -> Option<Endorsement> {
            self.tpm.then(|| Endorsement {
                ek_certificate: Vec::new(),
                chain: Vec::new(),
                ak_public: Vec::new(),
            })
        }

        fn gpus(&self, head: &TreeHead) -> Result<Gpus, ProviderError> {
            let gpu = GpuEvidence {
                report: head.gpu_nonce(0, 1).to_vec(),
                chain: Vec::new(),
            };
            Ok(Gpus {
                reports: vec![gpu],
                mode: Some(GpuMode::SERVING),
                ..Gpus::default()
            })
        }

        fn attest(
            &self,
            report_data: &ReportData,
            credential: Option<&Credential>,
        ) -> Result<PlatformEvidence, ProviderError> {
            assert_eq!(self.tpm, credential.is_some());
            self.asked.lock().unwrap().push(*report_data);
            Ok(PlatformEvidence::Tdx {
                quote: report_data.0.to_vec(),
                collateral: Collateral {
                    tcb_info: String::new(),
                    tcb_info_issuer_chain: String::new(),
                    qe_identity: String::new(),
                    qe_identity_issuer_chain: String::new(),
                    pck_crl: Vec::new(),
                    pck_crl_issuer_chain: String::new(),
                    root_ca_crl: Vec::new(),
                },
            })
        }

        fn event_log(&self) -> &[u8] {
            &[]
        }
    }

    fn platform(tpm: bool) -> (Arc<Echo>, Arc<Platform>) {
        let echo = Arc::new(Echo {
            tpm,
            ..Echo::default()
        });
        let provider: Arc<dyn Provider> = echo.clone();
        let platform = Platform::new(provider).unwrap();
        platform.signer.renew(&Digest256::ZERO).unwrap();
        (echo, Arc::new(platform))
    }

    fn binding(of: usize) -> Binding {
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&of.to_le_bytes());
        Binding::new(&Digest384::ZERO, &[0; 64], &Nonce(nonce))
    }

    fn assert_speaks_for(binding: &Binding, answer: Answer) {
        let (evidence, path) = answer.unwrap();
        let head = path.head(binding).unwrap();
        assert_eq!(evidence.gpus[0].report, head.gpu_nonce(0, 1));
        assert_eq!(evidence.state.gpu_mode, Some(GpuMode::SERVING));
        assert_ne!(evidence.state.keyset, [0; 32]);
        let expected = evidence.report_data(&head);
        let PlatformEvidence::Tdx { quote, .. } = evidence.platform else {
            panic!("no quote");
        };
        assert_eq!(quote, expected.0);
    }

    #[tokio::test]
    async fn all_that_wait_together_get_one_quote_that_speaks_for_each() {
        let (echo, platform) = platform(false);
        let asking = (0..100).map(|of| platform.attest(binding(of), None));
        for (of, answer) in join_all(asking).await.into_iter().enumerate() {
            assert_speaks_for(&binding(of), answer);
        }
        assert_eq!(echo.asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_tpm_answers_one_after_the_other() {
        let (echo, platform) = platform(true);
        let credential = vtpm::Credential {
            id_object: Vec::new(),
            encrypted_secret: Vec::new(),
        };
        let asking = (0..3).map(|of| platform.attest(binding(of), Some(credential.clone())));
        for (of, answer) in join_all(asking).await.into_iter().enumerate() {
            assert_speaks_for(&binding(of), answer);
        }
        assert_eq!(echo.asked.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_client_that_leaves_takes_nothing_from_the_others() {
        let (_, platform) = platform(false);
        assert!(platform.attest(binding(0), None).now_or_never().is_none());
        assert_speaks_for(&binding(1), platform.attest(binding(1), None).await);
    }

    #[tokio::test]
    async fn places_are_free_again_when_all_have_left() {
        let (_, platform) = platform(false);
        let turn = platform.turn.lock().await;
        for of in 0..MAX_WAITING {
            assert!(platform.attest(binding(of), None).now_or_never().is_none());
        }
        drop(turn);
        yield_now().await;
        // Turns are taken in the order of asking.
        drop(platform.turn.lock().await);
        assert_speaks_for(&binding(0), platform.attest(binding(0), None).await);
    }

    #[tokio::test]
    async fn only_so_many_wait_even_if_they_leave() {
        let (_, platform) = platform(false);
        for of in 0..MAX_WAITING {
            assert!(platform.attest(binding(of), None).now_or_never().is_none());
        }
        let answer = platform.attest(binding(MAX_WAITING), None).await;
        assert_eq!(answer.unwrap_err(), Refusal::Busy);
    }
}
