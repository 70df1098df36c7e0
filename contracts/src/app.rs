//! App: one application, and what it will ask for. What the contract keeps and hears, as
//! in `tolk/app-types.tolk`.

use tycho_types::cell::{HashBytes, Lazy, Load, Store};
use tycho_types::models::StdAddr;

/// What an App keeps.
///
/// ```text
/// _ owner:MsgAddressInt declared:uint32 wanted:(Maybe ^Wanted) = AppState;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct State {
    /// Who gets everything back.
    pub owner: StdAddr,
    /// The last epoch in which it was declared to a Market.
    pub declared: u32,
    /// What the owner will ask for.
    pub wanted: Option<Lazy<Wanted>>,
}

impl State {
    /// Of an App that is deployed: with the code, this is its address.
    #[must_use]
    pub const fn new(owner: StdAddr) -> Self {
        Self {
            owner,
            declared: 0,
            wanted: None,
        }
    }
}

/// What the owner will ask for.
///
/// ```text
/// _ market:MsgAddressInt model:uint256 requests_per_day:uint32 tokens_per_request:uint32
///   = Wanted;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Wanted {
    /// Of which model and GPUs.
    pub market: StdAddr,
    /// Root hash.
    pub model: HashBytes,
    /// On average.
    pub requests_per_day: u32,
    /// Read and made, on average.
    pub tokens_per_request: u32,
}

impl Wanted {
    /// Tokens in an epoch, rounded down.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let tokens =
            u64::from(self.requests_per_day).saturating_mul(self.tokens_per_request.into());
        tokens.checked_div(24).unwrap_or_default()
    }
}

/// The owner says what is wanted; what comes with it stays as deposit.
///
/// ```text
/// want#57414e54 query_id:uint64 wanted:^Wanted = Want;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#57414e54")]
pub struct Want {
    /// Of the sender's choice.
    pub query_id: u64,
    /// What it is.
    pub wanted: Lazy<Wanted>,
}

/// Anyone has it counted as demand in this epoch.
///
/// ```text
/// declare#4445434c query_id:uint64 = Declare;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#4445434c")]
pub struct Declare {
    /// Of the sender's choice.
    pub query_id: u64,
}

/// The owner takes everything back.
///
/// ```text
/// leave#4c454156 query_id:uint64 = Leave;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#4c454156")]
pub struct Leave {
    /// Of the sender's choice.
    pub query_id: u64,
}
