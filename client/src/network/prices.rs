//! What a model costs at most by its Markets, as the chain proves it to this gateway: no
//! scheduler is believed.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::chain::client::Client;
use ::scheduler::onchain::{Market, ReadError};
use attestation::appraisal::chain;
use tokio::sync;
use tycho_types::models::StdAddr;

/// The Markets of models.
#[derive(Debug)]
pub struct Prices {
    client: Client,
    markets: Vec<MarketOf>,
    known: Mutex<HashMap<String, Known>>,
    /// Whoever reads anew; others go on with what is known.
    reading: sync::Mutex<()>,
}

/// `MODEL=ADDRESS`: one of a model's, which has one for each kind of GPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MarketOf {
    model: String,
    address: StdAddr,
}

impl FromStr for MarketOf {
    type Err = NoMarket;

    fn from_str(text: &str) -> Result<Self, NoMarket> {
        let parts = text.rsplit_once('=').filter(|(model, _)| !model.is_empty());
        let address = parts.and_then(|(_, address)| address.parse().ok());
        match (parts, address) {
            (Some((model, _)), Some(address)) => Ok(Self {
                model: model.into(),
                address,
            }),
            _ => Err(NoMarket(text.into())),
        }
    }
}

/// Text that names none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} names no Market, expected MODEL=ADDRESS")]
pub struct NoMarket(String);

#[derive(Clone, Copy, Debug)]
struct Known {
    most: u64,
    at: Instant,
    /// When it was last read, or could not be.
    tried: Instant,
}

impl Prices {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(client: Client, markets: Vec<MarketOf>) -> Self {
        Self {
            client,
            markets,
            known: Mutex::default(),
            reading: sync::Mutex::default(),
        }
    }

    /// Nanotons for a million tokens: of the model's Markets the dearest, and a tenth more for
    /// what schedulers keep and workers ask above it. What cannot be read anew holds for an
    /// hour, in which a price moves by an eighth at most.
    pub(super) async fn most(&self, model: &str) -> Result<u64, PriceError> {
        let _turn = match (self.holding(model), self.reading.try_lock()) {
            (Some(known), Err(_)) => return Ok(known.most),
            (_, Ok(turn)) => turn,
            (None, Err(_)) => self.reading.lock().await,
        };
        let before = self.holding(model);
        if let Some(known) = before.filter(|known| known.tried.elapsed() < FRESH) {
            return Ok(known.most);
        }
        let read = self.read(model).await;
        let tried = Instant::now();
        let known = match (read, before) {
            (Ok(most), _) => Known {
                most,
                at: tried,
                tried,
            },
            (Err(error), Some(known)) => {
                tracing::warn!(model, "the price stays: {}", chain(&error));
                Known { tried, ..known }
            }
            (Err(error), None) => return Err(error),
        };
        self.known().insert(model.into(), known);
        Ok(known.most)
    }

    /// What was read within the hour.
    fn holding(&self, model: &str) -> Option<Known> {
        let known = self.known().get(model).copied();
        known.filter(|known| known.at.elapsed() < HOLDS)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, model: &str) -> Result<u64, PriceError> {
        let mut dearest = None;
        for market in self.markets.iter().filter(|market| market.model == model) {
            let read = Market::read(&self.client, &market.address).await?;
            dearest = dearest.max(Some(read.price));
        }
        let price = dearest.ok_or_else(|| PriceError::None(model.into()))?;
        Ok(price.saturating_add(price / 10))
    }
}

const FRESH: Duration = Duration::from_secs(60);

const HOLDS: Duration = Duration::from_secs(3600);

/// Why nobody knows what a model may cost.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// None of this model.
    #[error("no --market is of model {0:?}")]
    None(String),
    /// Not with proofs, or something else.
    #[error("the model's Market cannot be read")]
    Read(#[from] ReadError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_market_is_a_model_and_an_address() {
        let address = format!("0:{}", "00".repeat(32));
        let market: MarketOf = format!("a=b={address}").parse().unwrap();
        assert_eq!(
            (&*market.model, market.address.to_string()),
            ("a=b", address.clone())
        );
        for text in [&*address, "a=", "a=0:0", &format!("={address}")] {
            let error = text.parse::<MarketOf>().unwrap_err();
            assert!(
                error.to_string().ends_with("expected MODEL=ADDRESS"),
                "{text}"
            );
        }
    }
}
