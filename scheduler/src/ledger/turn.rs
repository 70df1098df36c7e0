//! Whose turn it is to send for the books: of several schedulers that share them, one has
//! the wallet, for as long as it says so in time.
//!
//! Clocks may differ by less than a turn takes. Two that send at once lose the price of a
//! message: a wallet takes each number once, and a Channel pays nothing twice.

use super::Ledger;
use super::store::{StoreError, Value};

impl Ledger {
    /// Takes the turn until a moment, if it is nobody else's now. Says whether it is ours.
    pub async fn turn(&self, who: [u8; 16], until: u32, now: u32) -> Result<bool, StoreError> {
        let turn = self.store.ask(move |open| {
            let who = Value::Bytes(who.to_vec());
            let is_ours = open.run(TAKE, &[who, until.into(), now.into()])?;
            Ok(!is_ours.is_empty())
        });
        turn.await
    }
}

const TAKE: &str = "INSERT INTO turns (one, who, until) VALUES (1, $1, $2) ON CONFLICT (one) \
     DO UPDATE SET who = excluded.who, until = excluded.until \
     WHERE turns.who = excluded.who OR turns.until <= $3 RETURNING one";
