//! What a TD's run-time registers hold when PID 1 starts.
//!
//! RTMR3 is free for the guest, and ours leaves it zero: it has no event.
//!
//! Source: UEFI 2.10, section 38.4.1 (which PCR's events go where); edk2
//! OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c, release edk2-stable202502. Later releases
//! measure more.

pub mod rtmr0;
pub mod rtmr1;
pub mod rtmr2;
