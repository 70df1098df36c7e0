//! Who is one: whose turn it is, whose places they are, and what is counted as whose.
//!
//! Where requests are paid for, that is the Channel, not the address: behind one address
//! there may be a gateway's thousand customers, and one of them has as many addresses as it
//! likes. A Channel costs a deposit for as long as it is open, so many shares cost many
//! deposits. Who shows no Channel with a deposit shares one turn with all who show none, and
//! is counted by address wherever one alone could take what there is.

use std::net::{IpAddr, Ipv6Addr};

use tycho_types::cell::HashBytes;

/// One of those who share what there is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Payer {
    /// Whoever asks from there, where nothing is paid.
    Network(IpAddr),
    /// Whoever can sign for it.
    Channel(HashBytes),
    /// All together who would have to pay, and show no deposit.
    Unpaid,
}

impl Payer {
    /// One customer's addresses: of IPv6, 64 bits of them.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => {
                let bits = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(bits).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// Among those who ask: who shows no deposit is known by address.
    #[must_use]
    pub(crate) fn or_at(self, address: IpAddr) -> Self {
        match self {
            Self::Unpaid => Self::at(address),
            known => known,
        }
    }
}
