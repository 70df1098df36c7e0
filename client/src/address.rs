//! Where a worker is: `https://host:port`, or `host:port`.

use std::fmt;
use std::str::FromStr;

/// A host name or address, and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// Name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.into());
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let bare = match host.strip_prefix('[') {
            Some(open) => open.strip_suffix(']').ok_or_else(error)?,
            None if host.contains([':', '/', '@']) => return Err(error()),
            None => host,
        };
        match (bare, port.parse()) {
            ("", _) | (_, Err(_)) => Err(error()),
            (host, Ok(port)) => Ok(Self {
                host: host.into(),
                port,
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "https://[{}]:{}", self.host, self.port),
            false => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

/// Text that is not a worker's address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a worker's address, expected https://HOST:PORT")]
pub struct AddressError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("https://gpu.example:8443", "gpu.example", 8443),
            ("127.0.0.1:1/", "127.0.0.1", 1),
            ("https://[::1]:443", "::1", 443),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((&*address.host, address.port), (host, port));
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:99999",
            "a:b:1",
            "http://h:1",
            "u@h:1",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(
                error.to_string().ends_with("expected https://HOST:PORT"),
                "{text}"
            );
        }
    }
}
