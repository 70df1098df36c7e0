//! The GPUs of this machine: what each signs, and that nobody else reads along.
//!
//! A report covers firmware and identity of one GPU. It says neither whether the
//! bus is encrypted nor whether the mode for developers is on, in which whoever
//! holds the host reads everything: that the driver alone knows, and the driver
//! is part of what the platform measures. So it is asked each time, and a
//! machine that would have to say "no" says nothing.
//!
//! Nothing here verifies a signature.

use attestation::batch::TreeHead;
use attestation::evidence::{GpuEvidence, GpuMode};
use attestation::reader::Reader;

use crate::admission::Shown;

/// What the driver knows and does. Calls block, a report for about a second.
pub trait Gpus: Send + Sync {
    /// How many there are.
    fn count(&self) -> Result<u32, GpuError>;

    /// What holds for all of them.
    fn mode(&self) -> Result<GpuMode, GpuError>;

    /// What GPU `index` signs over `nonce`.
    fn evidence(&self, index: u32, nonce: &[u8; 32]) -> Result<GpuEvidence, GpuError>;

    /// Lets programs use them. Wants root, and is forgotten when nobody holds them open.
    fn accept_work(&self) -> Result<(), GpuError>;
}

/// The GPUs that PID 1 found.
pub struct Machine {
    driver: Box<dyn Gpus>,
    count: u32,
}

impl Machine {
    /// `count` comes from PID 1, which counted on the bus.
    #[must_use]
    pub fn new(driver: Box<dyn Gpus>, count: u32) -> Self {
        Self { driver, count }
    }

    /// A report of each GPU for one round of evidence, in the order of their nonces,
    /// and how they run.
    pub fn evidence(&self, head: &TreeHead) -> Result<(Vec<Shown>, GpuMode), GpuError> {
        let mode = self.confidential()?;
        let found = self.driver.count()?;
        if found != self.count {
            return Err(GpuError::Count {
                found,
                expected: self.count,
            });
        }
        let reports: Result<_, _> = (0..self.count)
            .map(|index| self.report(index, head.gpu_nonce(index, self.count)))
            .collect();
        Ok((reports?, mode))
    }

    /// Lets programs use the GPUs. Whoever calls this has had them verified.
    pub fn accept_work(&self) -> Result<(), GpuError> {
        self.confidential()?;
        self.driver.accept_work()?;
        match self.driver.mode()?.accepting_work {
            true => Ok(()),
            false => Err(GpuError::Idle),
        }
    }

    fn confidential(&self) -> Result<GpuMode, GpuError> {
        match self.driver.mode()? {
            mode if !mode.confidential => Err(GpuError::NotConfidential),
            mode if mode.dev_tools => Err(GpuError::DevTools),
            mode => Ok(mode),
        }
    }

    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Shown, GpuError> {
        let evidence = self.driver.evidence(index, &nonce)?;
        // The nonce of the request, which is part of the report (DMTF DSP0274 1.1, table 37).
        let mut reader = Reader::new(&evidence.report);
        let found = reader
            .array::<4>("GET_MEASUREMENTS")
            .and_then(|_| reader.array::<32>("nonce"));
        if found != Ok(&nonce) {
            return Err(GpuError::Nonce { index });
        }
        if !evidence.chain.starts_with(PEM) {
            return Err(GpuError::Chain { index });
        }
        Ok((evidence, nonce))
    }
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Why GPUs show nothing, or may not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// Certificates in another form.
    #[error("GPU {index} shows no certificates in PEM")]
    Chain {
        /// From zero.
        index: u32,
    },
    /// One came or went.
    #[error("the driver has {found} GPUs, expected {expected}")]
    Count {
        /// By the driver.
        found: u32,
        /// On the bus.
        expected: u32,
    },
    /// The host reads what is in their memory.
    #[error("DevTools mode is on: the host sees what the GPUs see")]
    DevTools,
    /// The driver said yes and did nothing.
    #[error("the GPUs were told to accept work and do not")]
    Idle,
    /// The driver, or its library.
    #[error("cannot {operation}")]
    Driver {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A report for another question.
    #[error("GPU {index} answered another nonce than it was asked")]
    Nonce {
        /// From zero.
        index: u32,
    },
    /// Off on the host's side.
    #[error("confidential computing is off: `cocoon host setup-gpu` turns it on")]
    NotConfidential,
}

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::batch;
    use attestation::binding::{Binding, Nonce};
    use attestation::register::Digest384;
    use std::sync::{Arc, Mutex};

    /// A driver that plays a part, and records what it is asked.
    #[derive(Clone)]
    struct Double {
        count: u32,
        mode: GpuMode,
        asked: Arc<Mutex<Vec<String>>>,
        report: fn(&[u8; 32]) -> Vec<u8>,
        /// Whether it does what it is told.
        obeys: bool,
    }

    impl Double {
        fn new() -> Self {
            Self {
                count: 2,
                mode: GpuMode::SERVING,
                asked: Arc::default(),
                report: |nonce| [&[0x11, 0xe0, 0x01, 0xff][..], nonce, &[0; 9]].concat(),
                obeys: true,
            }
        }

        fn machine(&self) -> Machine {
            Machine::new(Box::new(self.clone()), 2)
        }

        fn note(&self, what: String) {
            self.asked.lock().unwrap().push(what);
        }
    }

    impl Gpus for Double {
        fn count(&self) -> Result<u32, GpuError> {
            Ok(self.count)
        }

        fn mode(&self) -> Result<GpuMode, GpuError> {
            self.note("mode".into());
            Ok(self.mode)
        }

        fn evidence(&self, index: u32, nonce: &[u8; 32]) -> Result<GpuEvidence, GpuError> {
            self.note(format!("report {index} {}", hex::encode(nonce)));
            Ok(GpuEvidence {
                report: (self.report)(nonce),
                chain: PEM.to_vec(),
            })
        }

        fn accept_work(&self) -> Result<(), GpuError> {
            self.note("accept work".into());
            match self.obeys {
                true => Ok(()),
                false => Err(GpuError::Driver {
                    operation: "let the GPUs accept work",
                    source: "no permission".into(),
                }),
            }
        }
    }

    fn head() -> TreeHead {
        let binding = Binding::new(&Digest384::ZERO, &[1; 64], &Nonce([2; 32]));
        batch::tree(&[binding]).0
    }

    fn refused(double: &Double) -> String {
        let error = double.machine().evidence(&head()).unwrap_err();
        error.to_string()
    }

    #[test]
    fn each_gpu_signs_its_own_nonce_of_the_round() {
        let double = Double::new();
        let (shown, mode) = double.machine().evidence(&head()).unwrap();
        assert_eq!(mode, GpuMode::SERVING);
        assert_eq!(shown.len(), 2);
        let nonces = [0, 1].map(|index| hex::encode(head().gpu_nonce(index, 2)));
        assert_eq!(
            *double.asked.lock().unwrap(),
            [
                "mode".to_owned(),
                format!("report 0 {}", nonces[0]),
                format!("report 1 {}", nonces[1])
            ]
        );
    }

    #[test]
    fn a_machine_on_which_others_read_along_shows_nothing_and_does_no_work() {
        let off = GpuMode {
            confidential: false,
            ..GpuMode::SERVING
        };
        let developers = GpuMode {
            dev_tools: true,
            ..GpuMode::SERVING
        };
        for (mode, reason) in [
            (
                off,
                "confidential computing is off: `cocoon host setup-gpu` turns it on",
            ),
            (
                developers,
                "DevTools mode is on: the host sees what the GPUs see",
            ),
        ] {
            let double = Double {
                mode,
                ..Double::new()
            };
            assert_eq!(refused(&double), reason);
            let error = double.machine().accept_work().unwrap_err();
            assert_eq!(error.to_string(), reason);
            assert_eq!(*double.asked.lock().unwrap(), ["mode", "mode"]);
        }
    }

    #[test]
    fn a_report_for_another_nonce_is_not_passed_on() {
        let double = Double {
            report: |_| [&[0x11, 0xe0, 0x01, 0xff][..], &[7; 32]].concat(),
            ..Double::new()
        };
        let reason = "GPU 0 answered another nonce than it was asked";
        assert_eq!(refused(&double), reason);
        let double = Double {
            report: |nonce| nonce[..31].to_vec(),
            ..Double::new()
        };
        assert_eq!(refused(&double), reason);
    }

    #[test]
    fn a_gpu_that_came_or_went_is_noticed() {
        for count in [0, 1, 3] {
            let double = Double {
                count,
                ..Double::new()
            };
            let reason = format!("the driver has {count} GPUs, expected 2");
            assert_eq!(refused(&double), reason);
        }
    }

    #[test]
    fn gpus_that_accept_no_work_are_noticed() {
        let mut double = Double::new();
        double.machine().accept_work().unwrap();
        double.mode.accepting_work = false;
        let error = double.machine().accept_work().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the GPUs were told to accept work and do not"
        );
        double.obeys = false;
        let error = double.machine().accept_work().unwrap_err();
        assert_eq!(error.to_string(), "cannot let the GPUs accept work");
    }
}
