//! One network card, one IPv4 address, one way out.
//!
//! Whatever is set up here is the host's choice: it can make this machine
//! unreachable, and no peer is believed because of its address.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use attestation::config::{self, Cidr};

use crate::dhcp::{Exchange, Lease, Reply};
use crate::system::System;

/// The network as it was set up, and when to ask for more of it.
#[derive(Debug)]
pub(crate) struct Network {
    lease: Option<Held>,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    ask_at: Duration,
    ends_at: Duration,
}

/// Brings the card up with the address that the host chose.
pub(crate) fn up(system: &mut dyn System, config: &config::Network) -> anyhow::Result<Network> {
    for interface in ["lo", CARD] {
        wait_for(system, interface)?;
        system
            .link_up(interface)
            .with_context(|| format!("cannot bring {interface} up"))?;
    }
    match config {
        config::Network::Static {
            address,
            gateway,
            nameservers,
        } => {
            apply(system, *address, *gateway, nameservers)?;
            Ok(Network { lease: None })
        }
        config::Network::Dhcp => {
            let lease = acquire(system)?;
            let held = hold(system, lease)?;
            Ok(Network { lease: Some(held) })
        }
    }
}

impl Network {
    /// When [`Self::keep`] has something to do.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.lease.as_ref().map(|held| held.ask_at)
    }

    /// Renews the lease. A server that does not answer is asked again, half the
    /// remaining time later; without any answer the address is given up for a new one.
    pub(crate) fn keep(&mut self, system: &mut dyn System) -> anyhow::Result<()> {
        let Some(held) = &mut self.lease else {
            return Ok(());
        };
        let now = system.uptime();
        if now < held.ask_at {
            return Ok(());
        }
        let lease = match renew(system, &held.lease) {
            Ok(lease) => lease,
            Err(error) if now < held.ends_at => {
                let left = held.ends_at.saturating_sub(now);
                held.ask_at = now.saturating_add(half(left).max(RETRY));
                return Err(error);
            }
            Err(_) => {
                held.ask_at = now.saturating_add(RETRY);
                acquire(system)?
            }
        };
        *held = hold(system, lease)?;
        Ok(())
    }
}

fn hold(system: &mut dyn System, lease: Lease) -> anyhow::Result<Held> {
    apply(system, lease.address, lease.gateway, &lease.nameservers)?;
    let now = system.uptime();
    // Half of the time: T1 (RFC 2131, section 4.4.5).
    Ok(Held {
        ask_at: now.saturating_add(half(lease.time)),
        ends_at: now.saturating_add(lease.time),
        lease,
    })
}

fn half(time: Duration) -> Duration {
    time.checked_div(2).unwrap_or(time)
}

fn wait_for(system: &mut dyn System, interface: &str) -> anyhow::Result<()> {
    let until = system.uptime().saturating_add(PATIENCE);
    while !system.exists(&format!("/sys/class/net/{interface}")) {
        if system.uptime() >= until {
            bail!("no interface {interface} within {} s", PATIENCE.as_secs());
        }
        system.pause(Duration::from_millis(20));
    }
    Ok(())
}

fn apply(
    system: &mut dyn System,
    address: Cidr,
    gateway: Option<Ipv4Addr>,
    nameservers: &[Ipv4Addr],
) -> anyhow::Result<()> {
    let Cidr {
        address: own,
        prefix,
    } = address;
    system
        .set_address(CARD, address)
        .with_context(|| format!("cannot give {CARD} the address {own}/{prefix}"))?;
    if let Some(gateway) = gateway {
        ensure!(
            on_link(address, gateway),
            "gateway {gateway} is not in the network of {own}/{prefix}"
        );
        system
            .set_gateway(gateway)
            .with_context(|| format!("cannot route through {gateway}"))?;
    }
    let mut resolvers = String::new();
    for server in nameservers {
        writeln!(resolvers, "nameserver {server}")?;
    }
    system
        .create(RESOLVERS, resolvers.as_bytes())
        .with_context(|| format!("cannot write {RESOLVERS}"))
}

fn on_link(network: Cidr, other: Ipv4Addr) -> bool {
    let host_bits = 32_u32.saturating_sub(network.prefix.into());
    let differ = u32::from(network.address) ^ u32::from(other);
    differ.checked_shr(host_bits).unwrap_or_default() == 0
}

/// Discover, offer, request, acknowledgement; waiting longer each time.
fn acquire(system: &mut dyn System) -> anyhow::Result<Lease> {
    let exchange = exchange(system)?;
    let mut refused = None;
    for wait_s in [1, 2, 4, 8, 16] {
        let until = system.uptime().saturating_add(Duration::from_secs(wait_s));
        send(system, Ipv4Addr::BROADCAST, &exchange.discover())?;
        let offer = listen(
            system,
            &exchange,
            until,
            &mut refused,
            |reply| match reply {
                Reply::Offer(lease) => Some(lease),
                Reply::Ack(_) | Reply::Nak => None,
            },
        )?;
        let Some(offer) = offer else { continue };
        send(system, Ipv4Addr::BROADCAST, &exchange.request(&offer))?;
        let answer = listen(system, &exchange, until, &mut refused, answered)?;
        if let Some(Some(lease)) = answer {
            return Ok(lease);
        }
    }
    match refused {
        Some(reason) => bail!("no DHCP lease; the last reply was refused: {reason}"),
        None => bail!("no DHCP lease: nobody answered"),
    }
}

fn renew(system: &mut dyn System, lease: &Lease) -> anyhow::Result<Lease> {
    let exchange = exchange(system)?;
    let until = system.uptime().saturating_add(RENEWAL);
    send(system, lease.server, &exchange.renew(lease))?;
    match listen(system, &exchange, until, &mut None, answered)? {
        Some(Some(lease)) => Ok(lease),
        Some(None) => bail!("{} takes the DHCP lease back", lease.server),
        None => bail!("{} does not renew the DHCP lease", lease.server),
    }
}

/// A lease, or its refusal.
fn answered(reply: Reply) -> Option<Option<Lease>> {
    match reply {
        Reply::Ack(lease) => Some(Some(lease)),
        Reply::Nak => Some(None),
        Reply::Offer(_) => None,
    }
}

fn exchange(system: &mut dyn System) -> anyhow::Result<Exchange> {
    let path = format!("/sys/class/net/{CARD}/address");
    let text = system
        .read(&path, 64)
        .with_context(|| format!("cannot read {path}"))?;
    let mac = parse_mac(&text).with_context(|| format!("{path} holds no Ethernet address"))?;
    // Not a secret: it tells replies apart.
    let random = system.read_random().context("cannot read random bytes")?;
    Ok(Exchange {
        id: u32::from_ne_bytes(random),
        mac,
    })
}

/// `52:54:00:12:34:56`, with a newline.
fn parse_mac(text: &[u8]) -> Option<[u8; 6]> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

fn send(system: &mut dyn System, to: Ipv4Addr, message: &[u8]) -> anyhow::Result<()> {
    system
        .dhcp_send(CARD, to, message)
        .with_context(|| format!("cannot send a DHCP message to {to}"))
}

/// Waits for a reply that is `wanted`, and remembers why others were refused.
fn listen<T>(
    system: &mut dyn System,
    exchange: &Exchange,
    until: Duration,
    refused: &mut Option<String>,
    wanted: impl Fn(Reply) -> Option<T>,
) -> anyhow::Result<Option<T>> {
    while let Some(bytes) = system
        .dhcp_receive(until)
        .context("cannot receive DHCP messages")?
    {
        match exchange.reply(&bytes) {
            Ok(reply) => {
                if let Some(found) = wanted(reply) {
                    return Ok(Some(found));
                }
            }
            Err(error) => *refused = Some(error.to_string()),
        }
    }
    Ok(None)
}

/// The kernel's own name for the first card.
const CARD: &str = "eth0";
/// Where `/etc/resolv.conf` of the root points.
const RESOLVERS: &str = "/run/resolv.conf";

const PATIENCE: Duration = Duration::from_secs(5);
const RENEWAL: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::tests::answer;
    use crate::double::{self, Double};

    fn dhcp(double: &mut Double) -> anyhow::Result<Network> {
        up(double, &config::Network::Dhcp)
    }

    fn fixed(gateway: &str) -> config::Network {
        config::Network::Static {
            address: "192.168.7.9/29".parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            nameservers: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)],
        }
    }

    #[test]
    fn a_static_address_is_set_as_written_and_never_due() {
        let mut double = Double::with_tpm();
        let network = up(&mut double, &fixed("192.168.7.14")).unwrap();
        assert_eq!(network.due(), None);
        assert_eq!(
            double.effects(),
            [
                "link up lo",
                "link up eth0",
                "address eth0 192.168.7.9/29",
                "gateway 192.168.7.14",
                "create /run/resolv.conf",
            ]
        );
        assert_eq!(
            double.files[RESOLVERS],
            b"nameserver 9.9.9.9\nnameserver 1.1.1.1\n"
        );
    }

    #[test]
    fn a_gateway_elsewhere_is_refused() {
        let error = up(&mut Double::with_tpm(), &fixed("192.168.7.16")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gateway 192.168.7.16 is not in the network of 192.168.7.9/29"
        );
    }

    #[test]
    fn a_machine_without_a_card_says_so() {
        let mut double = Double::with_tpm();
        double.files.remove("/sys/class/net/eth0/address");
        let error = dhcp(&mut double).unwrap_err();
        assert_eq!(error.to_string(), "no interface eth0 within 5 s");
    }

    #[test]
    fn an_address_that_is_not_ethernets_is_refused() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:5g",
        ] {
            let mut double = Double::with_tpm();
            double.file("/sys/class/net/eth0/address", text);
            let error = dhcp(&mut double).unwrap_err().to_string();
            assert_eq!(
                error,
                "/sys/class/net/eth0/address holds no Ethernet address"
            );
        }
    }

    #[test]
    fn silence_is_given_up_after_five_questions() {
        let mut double = Double::with_tpm();
        double.server = |_, _| Vec::new();
        let error = dhcp(&mut double).unwrap_err();
        assert_eq!(error.to_string(), "no DHCP lease: nobody answered");
        assert_eq!(double.now, Duration::from_secs(1 + 1 + 2 + 4 + 8 + 16));
    }

    #[test]
    fn refused_replies_are_named_at_the_end() {
        let mut double = Double::with_tpm();
        double.server = |exchange, _| vec![answer(exchange, 2, &[(54, &[])])];
        let error = dhcp(&mut double).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no DHCP lease; the last reply was refused: no server identifier"
        );
    }

    #[test]
    fn noise_and_refusals_before_the_answer_are_passed_over() {
        let mut double = Double::with_tpm();
        double.server = |exchange, kind| {
            let noise = vec![0; 7];
            let others = Exchange { id: 1, ..*exchange };
            let others = answer(&others, 2, &[]);
            [vec![noise, others], double::answer(exchange, kind)].concat()
        };
        dhcp(&mut double).unwrap();
        assert!(double.effects().contains(&"address eth0 10.0.2.15/24"));
    }

    #[test]
    fn a_lease_is_renewed_after_half_of_its_time() {
        let mut double = Double::with_tpm();
        let mut network = dhcp(&mut double).unwrap();
        let half_a_day = Duration::from_secs(43200);
        let due = network.due().unwrap();
        assert_eq!(due, double.now + half_a_day);

        double.calls.clear();
        network.keep(&mut double).unwrap();
        assert!(double.calls.is_empty(), "not due yet");

        double.now = due;
        network.keep(&mut double).unwrap();
        assert_eq!(double.effects()[0], "dhcp eth0 10.0.2.2 message 3");
        assert_eq!(network.due(), Some(due + half_a_day));
    }

    #[test]
    fn a_server_that_does_not_renew_is_asked_again_and_then_replaced() {
        let mut double = Double::with_tpm();
        let mut network = dhcp(&mut double).unwrap();
        let end = double.now + Duration::from_secs(86400);
        double.server = |_, _| Vec::new();
        double.now = network.due().unwrap();
        let error = network.keep(&mut double).unwrap_err();
        assert_eq!(error.to_string(), "10.0.2.2 does not renew the DHCP lease");
        assert_eq!(network.due(), Some(end - Duration::from_secs(21600)));

        double.now = end;
        let error = network.keep(&mut double).unwrap_err();
        assert_eq!(error.to_string(), "no DHCP lease: nobody answered");

        double.server = double::answer;
        double.now = network.due().unwrap();
        double.server = |exchange, kind| match kind {
            // Takes it back, then offers as if to a stranger.
            3 if exchange.id == 0x0707_0707 => vec![answer(exchange, 6, &[])],
            _ => double::answer(exchange, kind),
        };
        let error = network.keep(&mut double).unwrap_err();
        assert_eq!(error.to_string(), "no DHCP lease: nobody answered");

        double.server = double::answer;
        double.now = network.due().unwrap();
        network.keep(&mut double).unwrap();
        assert_eq!(network.due(), Some(double.now + Duration::from_secs(43200)));
    }
}
