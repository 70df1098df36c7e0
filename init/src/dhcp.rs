//! DHCP messages: the four that a client needs, and the replies it dares to believe.
//!
//! Whoever is on the network can answer. A reply can make this machine
//! unreachable and nothing worse: it yields addresses, never names or text.
//!
//! Integers are big-endian. Source: RFC 2131, section 2 (format) and 4.3.2
//! (what each request carries); RFC 2132 (options).

use std::net::Ipv4Addr;
use std::time::Duration;

use attestation::config::Cidr;
use attestation::reader::{Reader, Truncated};

/// One conversation: replies to another one are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// Chosen at random.
    pub(crate) id: u32,
    /// Hardware address of the card.
    pub(crate) mac: [u8; 6],
}

impl Exchange {
    /// Asks who has an address to offer.
    pub(crate) fn discover(&self) -> Vec<u8> {
        self.message(DISCOVER, Ipv4Addr::UNSPECIFIED, &[])
    }

    /// Takes one offer and thereby declines the others.
    pub(crate) fn request(&self, offer: &Lease) -> Vec<u8> {
        let options = [
            (REQUESTED_ADDRESS, offer.address.address),
            (SERVER, offer.server),
        ];
        self.message(REQUEST, Ipv4Addr::UNSPECIFIED, &options)
    }

    /// Asks to keep the address for another period.
    pub(crate) fn renew(&self, lease: &Lease) -> Vec<u8> {
        self.message(REQUEST, lease.address.address, &[])
    }

    fn message(&self, kind: u8, own: Ipv4Addr, options: &[(u8, Ipv4Addr)]) -> Vec<u8> {
        let mut message = Vec::with_capacity(SMALLEST);
        message.extend_from_slice(&[BOOTREQUEST, ETHERNET, 6, 0]);
        message.extend_from_slice(&self.id.to_be_bytes());
        // Without an address we only hear broadcasts.
        let flags = if own.is_unspecified() { BROADCAST } else { 0 };
        message.extend_from_slice(&[0, 0]);
        message.extend_from_slice(&flags.to_be_bytes());
        message.extend_from_slice(&own.octets());
        message.extend_from_slice(&[0; 12]); // yiaddr, siaddr, giaddr
        message.extend_from_slice(&self.mac);
        message.resize(236, 0); // rest of chaddr, sname, file
        message.extend_from_slice(&COOKIE);
        message.extend_from_slice(&[MESSAGE_TYPE, 1, kind]);
        for (option, address) in options {
            message.extend_from_slice(&[*option, 4]);
            message.extend_from_slice(&address.octets());
        }
        message.extend_from_slice(&[PARAMETERS, 3, NETMASK, ROUTER, NAMESERVER]);
        message.push(END);
        message.resize(message.len().max(SMALLEST), 0);
        message
    }

    /// Reads what a server says to this exchange.
    pub(crate) fn reply(&self, bytes: &[u8]) -> Result<Reply, DhcpError> {
        let mut reader = Reader::new(bytes);
        let [op, htype, hlen, _hops] = *reader.array("op, htype, hlen, hops")?;
        let id = reader.u32_be("xid")?;
        reader.array::<8>("secs, flags, ciaddr")?;
        let yours = Ipv4Addr::from(*reader.array::<4>("yiaddr")?);
        reader.array::<8>("siaddr, giaddr")?;
        let mac = *reader.array::<6>("chaddr")?;
        reader.array::<202>("padding of chaddr, sname, file")?;
        let cookie = *reader.array::<4>("magic cookie")?;
        if (op, htype, hlen, cookie) != (BOOTREPLY, ETHERNET, 6, COOKIE) {
            return Err(DhcpError::NotAReply);
        }
        if (id, mac) != (self.id, self.mac) {
            return Err(DhcpError::NotForUs);
        }

        let options = Options::read(&mut reader)?;
        match options.kind.ok_or(DhcpError::Missing("message type"))? {
            OFFER => Ok(Reply::Offer(options.lease(yours)?)),
            ACK => Ok(Reply::Ack(options.lease(yours)?)),
            NAK => Ok(Reply::Nak),
            found => Err(DhcpError::Kind { found }),
        }
    }
}

/// What a server can say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    /// Could be ours.
    Offer(Lease),
    /// Is ours.
    Ack(Lease),
    /// Is not ours, or not any more.
    Nak,
}

/// An address for some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Lease {
    /// With the network's prefix length.
    pub(crate) address: Cidr,
    /// On the same network.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// At most three, as many as a resolver asks.
    pub(crate) nameservers: Vec<Ipv4Addr>,
    /// Who gave it.
    pub(crate) server: Ipv4Addr,
    /// At least a minute, so that nobody can keep us busy renewing.
    pub(crate) time: Duration,
}

#[derive(Debug, Default)]
struct Options {
    kind: Option<u8>,
    netmask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    nameservers: Vec<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    time: Option<Duration>,
}

impl Options {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DhcpError> {
        let mut options = Self::default();
        loop {
            let code = reader.u8("option")?;
            if code == END {
                return Ok(options);
            }
            if code == PAD {
                continue;
            }
            let len = reader.u8("option length")?;
            let mut value = Reader::new(reader.slice("option value", len.into())?);
            match code {
                MESSAGE_TYPE => options.kind = Some(value.u8("message type")?),
                NETMASK => options.netmask = Some(address(&mut value)?),
                // The first one listed is preferred (RFC 2132, section 3.5).
                ROUTER => options.router = Some(address(&mut value)?),
                NAMESERVER => options.nameservers = addresses(&mut value)?,
                SERVER => options.server = Some(address(&mut value)?),
                LEASE_TIME => {
                    let seconds = value.u32_be("lease time")?;
                    options.time = Some(Duration::from_secs(seconds.into()));
                }
                _ => {}
            }
        }
    }

    fn lease(self, yours: Ipv4Addr) -> Result<Lease, DhcpError> {
        let mask = self.netmask.ok_or(DhcpError::Missing("subnet mask"))?;
        let lease = Lease {
            address: Cidr {
                address: usable(yours)?,
                prefix: prefix(mask)?,
            },
            gateway: self.router.map(usable).transpose()?,
            nameservers: self.nameservers,
            server: usable(self.server.ok_or(DhcpError::Missing("server identifier"))?)?,
            time: self.time.ok_or(DhcpError::Missing("lease time"))?,
        };
        if lease.time < SHORTEST {
            return Err(DhcpError::Short { found: lease.time });
        }
        Ok(lease)
    }
}

fn address(value: &mut Reader<'_>) -> Result<Ipv4Addr, Truncated> {
    value.array::<4>("address").map(|a| Ipv4Addr::from(*a))
}

fn addresses(value: &mut Reader<'_>) -> Result<Vec<Ipv4Addr>, DhcpError> {
    let mut addresses = Vec::new();
    while addresses.len() < 3 && !value.rest().is_empty() {
        addresses.push(usable(address(value)?)?);
    }
    Ok(addresses)
}

/// An address that one machine can have.
fn usable(address: Ipv4Addr) -> Result<Ipv4Addr, DhcpError> {
    let [first, ..] = address.octets();
    // 0/8 is this network, 127/8 ourselves, from 224 on multicast and reserved.
    if matches!(first, 0 | 127 | 224..) {
        return Err(DhcpError::Address { found: address });
    }
    Ok(address)
}

fn prefix(mask: Ipv4Addr) -> Result<u8, DhcpError> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    // Two addresses are not enough for a network with a server in it.
    match u8::try_from(ones) {
        Ok(prefix @ 1..=30) if bits.count_ones() == ones => Ok(prefix),
        _ => Err(DhcpError::Netmask { found: mask }),
    }
}

/// Why a datagram is not believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DhcpError {
    /// No machine can have it.
    #[error("{found} is not a machine's address")]
    Address {
        /// As read.
        found: Ipv4Addr,
    },
    /// Neither OFFER, ACK nor NAK.
    #[error("message type is {found}, expected {OFFER}, {ACK} or {NAK}")]
    Kind {
        /// As read.
        found: u8,
    },
    /// An option that every lease has.
    #[error("no {0}")]
    Missing(&'static str),
    /// Not ones followed by zeros, or none of either.
    #[error("subnet mask {found} has no prefix length from 1 to 30")]
    Netmask {
        /// As read.
        found: Ipv4Addr,
    },
    /// Another protocol.
    #[error("not a DHCP reply for Ethernet")]
    NotAReply,
    /// Another machine's, or an old one.
    #[error("transaction or hardware address is not ours")]
    NotForUs,
    /// Would be renewed all the time.
    #[error("lease time is {} s, expected at least {}", found.as_secs(), SHORTEST.as_secs())]
    Short {
        /// As read.
        found: Duration,
    },
    /// It ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
const ETHERNET: u8 = 1;
const BROADCAST: u16 = 0x8000;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Some relays drop what is shorter than a BOOTP message.
const SMALLEST: usize = 300;
const SHORTEST: Duration = Duration::from_secs(60);

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

const PAD: u8 = 0;
const NETMASK: u8 = 1;
const ROUTER: u8 = 3;
const NAMESERVER: u8 = 6;
const REQUESTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const PARAMETERS: u8 = 55;
const END: u8 = 255;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXCHANGE: Exchange = Exchange {
        id: 0x0102_0304,
        mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
    };

    /// A server's answer to `exchange` with 10.0.2.15, as QEMU's gives it.
    pub(crate) fn answer(exchange: &Exchange, kind: u8, changed: &[(u8, &[u8])]) -> Vec<u8> {
        let mut options: Vec<(u8, &[u8])> = vec![
            (MESSAGE_TYPE, core::slice::from_ref(&kind)),
            (SERVER, &[10, 0, 2, 2]),
            (NETMASK, &[255, 255, 255, 0]),
            (ROUTER, &[10, 0, 2, 2]),
            (NAMESERVER, &[10, 0, 2, 3]),
            (LEASE_TIME, &[0, 1, 0x51, 0x80]),
        ];
        for (code, value) in changed {
            options.retain(|(other, _)| other != code);
            options.push((*code, value));
        }
        let mut answer = exchange.message(kind, Ipv4Addr::UNSPECIFIED, &[]);
        answer[0] = BOOTREPLY;
        answer[16..20].copy_from_slice(&[10, 0, 2, 15]);
        answer.truncate(240);
        for (code, value) in options {
            // An empty value leaves the option out.
            if !value.is_empty() {
                answer.extend([code, u8::try_from(value.len()).unwrap()]);
                answer.extend(value);
            }
        }
        answer.push(END);
        answer
    }

    pub(crate) fn lease() -> Lease {
        Lease {
            address: "10.0.2.15/24".parse().unwrap(),
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            nameservers: vec![Ipv4Addr::new(10, 0, 2, 3)],
            server: Ipv4Addr::new(10, 0, 2, 2),
            time: Duration::from_secs(86400),
        }
    }

    fn refused(kind: u8, changed: &[(u8, &[u8])]) -> String {
        let answer = answer(&EXCHANGE, kind, changed);
        EXCHANGE.reply(&answer).unwrap_err().to_string()
    }

    #[test]
    fn a_discover_is_a_broadcast_with_the_cards_address() {
        let message = EXCHANGE.discover();
        assert_eq!(message.len(), SMALLEST);
        assert_eq!(message[..8], [1, 1, 6, 0, 1, 2, 3, 4]);
        assert_eq!(message[10..12], [0x80, 0], "broadcast flag");
        assert_eq!(message[28..34], EXCHANGE.mac);
        assert_eq!(message[236..243], [99, 130, 83, 99, 53, 1, DISCOVER]);
        assert_eq!(message[243..249], [55, 3, 1, 3, 6, 255]);
    }

    #[test]
    fn a_request_names_address_and_server_and_a_renewal_only_comes_from_the_address() {
        let request = EXCHANGE.request(&lease());
        assert_eq!(request[12..16], [0; 4]);
        let options = [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2];
        assert_eq!(request[243..255], options);

        let renewal = EXCHANGE.renew(&lease());
        assert_eq!(renewal[10..12], [0; 2], "an answer may come to our address");
        assert_eq!(renewal[12..16], [10, 0, 2, 15]);
        assert_eq!(renewal[242..244], [REQUEST, 55]);
    }

    #[test]
    fn offers_and_acknowledgements_carry_a_lease() {
        let reply = |kind| EXCHANGE.reply(&answer(&EXCHANGE, kind, &[]));
        assert_eq!(reply(OFFER), Ok(Reply::Offer(lease())));
        assert_eq!(reply(ACK), Ok(Reply::Ack(lease())));
        assert_eq!(reply(NAK), Ok(Reply::Nak));
    }

    #[test]
    fn a_lease_may_lack_router_and_name_servers() {
        let answer = answer(&EXCHANGE, ACK, &[(ROUTER, &[]), (NAMESERVER, &[])]);
        let Ok(Reply::Ack(lease)) = EXCHANGE.reply(&answer) else {
            panic!("not acknowledged");
        };
        assert_eq!((lease.gateway, lease.nameservers.len()), (None, 0));
    }

    #[test]
    fn only_three_name_servers_are_kept() {
        let many = [9; 200];
        let answer = answer(&EXCHANGE, ACK, &[(NAMESERVER, &many)]);
        let Ok(Reply::Ack(lease)) = EXCHANGE.reply(&answer) else {
            panic!("not acknowledged");
        };
        assert_eq!(lease.nameservers.len(), 3);
    }

    #[test]
    fn hostile_leases_are_refused_by_name() {
        let bad_address = |text| format!("{text} is not a machine's address");
        let cases: [(u8, &[u8], String); 14] = [
            (
                MESSAGE_TYPE,
                &[1],
                "message type is 1, expected 2, 5 or 6".into(),
            ),
            (MESSAGE_TYPE, &[], "no message type".into()),
            (SERVER, &[], "no server identifier".into()),
            (SERVER, &[0, 0, 0, 0], bad_address("0.0.0.0")),
            (NETMASK, &[], "no subnet mask".into()),
            (
                NETMASK,
                &[255, 0, 255, 0],
                "subnet mask 255.0.255.0 has no prefix length from 1 to 30".into(),
            ),
            (
                NETMASK,
                &[0; 4],
                "subnet mask 0.0.0.0 has no prefix length from 1 to 30".into(),
            ),
            (
                NETMASK,
                &[255; 4],
                "subnet mask 255.255.255.255 has no prefix length from 1 to 30".into(),
            ),
            (
                NETMASK,
                &[255; 3],
                "address at offset 0 needs 4 bytes, 3 left".into(),
            ),
            (ROUTER, &[127, 0, 0, 1], bad_address("127.0.0.1")),
            (NAMESERVER, &[224, 0, 0, 1], bad_address("224.0.0.1")),
            (
                NAMESERVER,
                &[9, 9, 9, 9, 9],
                "address at offset 4 needs 4 bytes, 1 left".into(),
            ),
            (LEASE_TIME, &[], "no lease time".into()),
            (
                LEASE_TIME,
                &[0, 0, 0, 59],
                "lease time is 59 s, expected at least 60".into(),
            ),
        ];
        for (option, value, expected) in cases {
            assert_eq!(refused(ACK, &[(option, value)]), expected);
        }
    }

    #[test]
    fn replies_to_others_are_refused() {
        let good = answer(&EXCHANGE, ACK, &[]);
        for (at, expected) in [
            (0, DhcpError::NotAReply),
            (1, DhcpError::NotAReply),
            (2, DhcpError::NotAReply),
            (239, DhcpError::NotAReply),
            (4, DhcpError::NotForUs),
            (28, DhcpError::NotForUs),
        ] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_eq!(EXCHANGE.reply(&changed), Err(expected), "{at}");
        }
        assert_eq!(
            DhcpError::NotForUs.to_string(),
            "transaction or hardware address is not ours"
        );
        assert_eq!(
            DhcpError::NotAReply.to_string(),
            "not a DHCP reply for Ethernet"
        );
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        let answer = answer(&EXCHANGE, ACK, &[]);
        for cut in 0..answer.len() {
            let error = EXCHANGE.reply(&answer[..cut]).unwrap_err();
            assert!(matches!(error, DhcpError::Truncated(_)), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_options_never_panic(options: Vec<u8>) {
            let mut bytes = answer(&EXCHANGE, ACK, &[]);
            bytes.truncate(240);
            bytes.extend(options);
            let _reply = EXCHANGE.reply(&bytes);
        }
    }
}
