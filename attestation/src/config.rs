//! The two configuration files of a TD.
//!
//! *Measured*: part of the machine's identity. Its digest, SHA-384 of the exact
//! bytes, is MRCONFIGID of a TD; on a vTPM it is an event in PCR 8. *Unmeasured*:
//! chosen by the host alone; may affect liveness or the host's own purse, never
//! privacy or correctness.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::register::{Digest256, Digest384};
use crate::verity::Verity;

/// What a verifier pins: parsed from a file whose digest the hardware reports.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    version: Version,
    /// What the machine is for.
    pub role: Role,
    /// Models it serves, each a verity disk.
    #[serde(rename = "model", default)]
    pub models: Vec<Model>,
}

impl Measured {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = parse(bytes)?;
        let mut names = BTreeSet::new();
        for model in &config.models {
            if !names.insert(model.name.as_str()) {
                return Err(ConfigError::Repeated {
                    name: model.name.0.clone(),
                });
            }
        }
        Ok(config)
    }

    /// What the hardware reports for this file: SHA-384 of the exact bytes.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> Digest384 {
        Digest384::of(bytes)
    }
}

/// What the host may choose without being noticed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Unmeasured {
    version: Version,
    /// Where the agent listens.
    pub listen: SocketAddr,
    /// Base URL of a service that speaks Intel's PCS v4 API. Its answers are
    /// signed by Intel, so that whoever serves them needs no trust.
    pub collateral: Option<String>,
    /// Base URL of a service that speaks NVIDIA's RIM API, version 1: signed likewise.
    pub manifests: Option<String>,
    /// URL of an OCSP responder for NVIDIA's certificates (RFC 6960): signed likewise.
    pub ocsp: Option<String>,
    /// Key server of the encrypted models, HOST:PORT. It proves to be the one that the
    /// measured configuration names.
    pub keyserver: Option<String>,
    /// How the network card is set up.
    pub network: Network,
    /// Schedulers that it offers its models to, and connects to itself. None of them
    /// sees what it is asked.
    #[serde(rename = "scheduler", default)]
    pub schedulers: Vec<Scheduler>,
}

impl Unmeasured {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = parse(bytes)?;
        let free = |scheduler: &&Scheduler| scheduler.channel.is_none();
        match config.schedulers.iter().filter(free).find(|one| one.asks()) {
            Some(Scheduler { address, .. }) => Err(ConfigError::Unpaid {
                address: address.clone(),
            }),
            None => Ok(config),
        }
    }
}

/// One of the network's, and how it pays. Prices are nanotons for a million tokens.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// HOST:PORT
    pub address: String,
    /// Lowest price.
    pub ask: u64,
    /// Another one for some models, by their names.
    #[serde(default)]
    pub asks: BTreeMap<String, u64>,
    /// Out of which it pays.
    pub channel: Option<Channel>,
}

impl Scheduler {
    /// Lowest price for a model.
    #[must_use]
    pub fn ask(&self, model: &str) -> u64 {
        self.asks.get(model).copied().unwrap_or(self.ask)
    }

    /// Whether anything is to be paid.
    fn asks(&self) -> bool {
        self.ask > 0 || self.asks.values().any(|ask| *ask > 0)
    }
}

/// A Channel on TON from a scheduler to the owner of this machine. Amounts are nanotons.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// What it keeps, or began with: a bag of cells in base64.
    pub state: String,
    /// Which network: -239 the main one, -3 the test one.
    pub network: i32,
    /// What its vouchers can be worth at most: all that was put in for them.
    pub deposit: u64,
    /// What of that has been claimed: older vouchers pay for nothing.
    pub paid: u64,
}

/// What a machine is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves models.
    Worker,
}

/// A model disk.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What requests call it.
    pub name: ModelName,
    /// What its disk must hold.
    #[serde(deserialize_with = "from_text")]
    pub verity: Verity,
    /// Where the key is from, if the disk is encrypted.
    pub key: Option<KeySource>,
    /// What its matrices are brought into when it is loaded; they stay as they are stored
    /// without it.
    pub quantise: Option<Quantise>,
    /// Whether the bits of its answers depend on nothing else that is asked, on a GPU, too.
    #[serde(default)]
    pub exact: bool,
}

/// How a model may be held.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Quantise {
    /// 4.5 bits for each number.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 8.5 bits for each number.
    #[serde(rename = "q8_0")]
    Q8_0,
}

/// Which key opens a model disk, and who gives it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KeySource {
    /// Of the key: with it, the root hash stands for one content.
    pub sha256: Digest256,
    /// SHA-256 of the key server's SubjectPublicKeyInfo.
    pub server: Digest256,
}

/// Of a model disk's key: two of AES-256, for XTS.
pub const KEY_LEN: usize = 64;

/// `[a-z0-9][a-z0-9.-]{0,13}`: fits a virtio disk serial behind `model-`, and
/// is one harmless path component.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModelName(String);

impl ModelName {
    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let inner = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
        let starts = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if !starts || text.len() > 14 || !text.bytes().all(inner) {
            return Err(D::Error::custom(alloc::format!(
                "model name {text:?} is not [a-z0-9][a-z0-9.-]{{0,13}}"
            )));
        }
        Ok(Self(text))
    }
}

/// How the network card gets its address.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "mode")]
pub enum Network {
    /// From a DHCP server.
    Dhcp,
    /// As written.
    Static {
        /// With the length of the network prefix.
        #[serde(deserialize_with = "from_text")]
        address: Cidr,
        /// Next hop for everything else.
        gateway: Option<Ipv4Addr>,
        /// Asked in this order.
        #[serde(default)]
        nameservers: Vec<Ipv4Addr>,
    },
}

/// An IPv4 address with its network's prefix length, `10.0.2.15/24`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cidr {
    /// Of this machine.
    pub address: Ipv4Addr,
    /// In bits, at most 32.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError)?;
        let cidr = Self {
            address: address.parse().map_err(|_| CidrError)?,
            prefix: prefix.parse().map_err(|_| CidrError)?,
        };
        if cidr.prefix > 32 {
            return Err(CidrError);
        }
        Ok(cidr)
    }
}

/// Text that is not an address with a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected an IPv4 address and a prefix length, like 10.0.2.15/24")]
pub struct CidrError;

/// Why a file is not a configuration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Two models would be mounted at one place.
    #[error("model {name} appears twice")]
    Repeated {
        /// The name of both.
        name: String,
    },
    /// TOML, or a value in it.
    #[error("{message}")]
    Syntax {
        /// With line and column, as the parser says it.
        message: String,
    },
    /// A price, and nothing that pays it.
    #[error("scheduler {address} is asked for a price, and has no channel that it pays out of")]
    Unpaid {
        /// Which one.
        address: String,
    },
    /// Not text at all.
    #[error("not UTF-8 after byte {valid}")]
    Utf8 {
        /// Bytes that were.
        valid: usize,
    },
}

/// Both files begin with `version = 1`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u32::deserialize(from)? {
            1 => Ok(Self),
            other => Err(D::Error::custom(alloc::format!(
                "version is {other}, expected 1"
            ))),
        }
    }
}

fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ConfigError> {
    let text = core::str::from_utf8(bytes).map_err(|error| ConfigError::Utf8 {
        valid: error.valid_up_to(),
    })?;
    toml::de::Deserializer::parse(text)
        .and_then(T::deserialize)
        .map_err(|error| ConfigError::Syntax {
            message: alloc::format!("{error}").trim_end().into(),
        })
}

fn from_text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: core::fmt::Display>,
{
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const MEASURED: &str = "version = 1\nrole = \"worker\"\n";

    fn with_model(name: &str) -> String {
        let verity = ["sha256", &"11".repeat(32), &"22".repeat(32), "7"].join(":");
        alloc::format!("[[model]]\nname = \"{name}\"\nverity = \"{verity}\"\n")
    }

    fn reason(text: &str) -> String {
        Measured::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_measured_file_names_role_and_models() {
        let text = [MEASURED, &with_model("cocoon-tiny")].concat();
        let config = Measured::parse(text.as_bytes()).unwrap();
        assert_eq!(config.role, Role::Worker);
        assert_eq!(config.models[0].name.as_str(), "cocoon-tiny");
        assert_eq!(config.models[0].verity.data_blocks.get(), 7);
    }

    #[test]
    fn an_encrypted_model_names_its_key_and_who_has_it() {
        let digest = |byte: &str| byte.repeat(32);
        let key = alloc::format!(
            "key = {{ sha256 = \"{}\", server = \"{}\" }}\n",
            digest("33"),
            digest("44")
        );
        let text = [MEASURED, &with_model("m"), &key].concat();
        let config = Measured::parse(text.as_bytes()).unwrap();
        let source = config.models[0].key.unwrap();
        assert_eq!(source.sha256, digest("33").parse().unwrap());
        assert_eq!(source.server, digest("44").parse().unwrap());
        for (from, to, expected) in [
            ("server", "x", "unknown field `x`"),
            ("44", "4", "expected 64 lower-case hex digits"),
        ] {
            let text = text.replace(from, to);
            assert!(reason(&text).contains(expected), "{}", reason(&text));
        }
        let half = text.replace(&alloc::format!(", server = \"{}\"", digest("44")), "");
        assert!(reason(&half).contains("missing field `server`"));
    }

    #[test]
    fn a_model_says_how_it_is_held_and_whether_it_is_exact() {
        let text = [MEASURED, &with_model("m")].concat();
        let read = |more: &str| {
            let config = Measured::parse([&text, more].concat().as_bytes());
            config.map(|config| (config.models[0].quantise, config.models[0].exact))
        };
        assert_eq!(read(""), Ok((None, false)));
        for (name, quantise) in [("q8_0", Quantise::Q8_0), ("q4_k", Quantise::Q4K)] {
            let more = alloc::format!("quantise = \"{name}\"\nexact = true\n");
            assert_eq!(read(&more), Ok((Some(quantise), true)));
        }
        for (more, expected) in [
            ("quantise = \"q4_0\"", "unknown variant `q4_0`"),
            ("exact = 1", "expected a boolean"),
        ] {
            let error = read(more).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_a_measured_file_may_not_say() {
        for (text, expected) in [
            ("role = \"worker\"", "missing field `version`"),
            ("version = 2\nrole = \"worker\"", "version is 2, expected 1"),
            ("version = 1", "missing field `role`"),
            ("version = 1\nrole = \"root\"", "unknown variant `root`"),
            ("version = 1\nrole = \"worker\"\nx = 1", "unknown field `x`"),
        ] {
            assert!(reason(text).contains(expected), "{}", reason(text));
        }
        for name in ["", "../etc", "Upper", "-dash", "longer-than-fits"] {
            let text = [MEASURED, &with_model(name)].concat();
            assert!(reason(&text).contains("is not [a-z0-9]"), "{name}");
        }
        let twice = [MEASURED, &with_model("m"), &with_model("m")].concat();
        assert_eq!(reason(&twice), "model m appears twice");
        let error = Measured::parse(b"a\xff").unwrap_err();
        assert_eq!(error, ConfigError::Utf8 { valid: 1 });
    }

    #[test]
    fn an_unmeasured_file_sets_up_the_network() {
        let text = "version = 1\nlisten = \"0.0.0.0:8443\"\n[network]\nmode = \"static\"\n\
                    address = \"10.0.2.15/24\"\ngateway = \"10.0.2.2\"\n";
        let config = Unmeasured::parse(text.as_bytes()).unwrap();
        let Network::Static { address, .. } = config.network else {
            panic!("static was asked for");
        };
        assert_eq!(address.prefix, 24);
        let wide = text.replace("/24", "/33");
        let error = Unmeasured::parse(wide.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("expected an IPv4 address and a prefix length"));
    }

    #[test]
    fn a_scheduler_pays_out_of_a_channel_or_asks_for_nothing() {
        let base = "version = 1\nlisten = \"0.0.0.0:8443\"\nnetwork = { mode = \"dhcp\" }\n\
                    [[scheduler]]\naddress = \"a.example:9443\"\n";
        let channel = "[scheduler.channel]\nstate = \"te6c\"\nnetwork = -239\n\
                       deposit = 9\npaid = 4\n";
        let parse = |text: &[&str]| Unmeasured::parse(text.concat().as_bytes());
        let asks = "ask = 7\nasks = { big = 20 }\n";
        let config = parse(&[base, asks, channel]).unwrap();
        let [scheduler] = config.schedulers.as_slice() else {
            panic!("one was named");
        };
        assert_eq!([scheduler.ask("big"), scheduler.ask("small")], [20, 7]);
        assert_eq!(scheduler.channel.as_ref().unwrap().paid, 4);
        assert!(parse(&[base, "ask = 0\n"]).is_ok());
        let unpaid = "scheduler a.example:9443 is asked for a price, and has no channel that it \
                      pays out of";
        for price in [asks, "ask = 0\nasks = { big = 1 }\n"] {
            let error = parse(&[base, price]).unwrap_err();
            assert_eq!(error.to_string(), unpaid);
        }
        for (text, expected) in [
            (base.to_string(), "missing field `ask`"),
            (
                [base, asks, &channel.replace("paid = 4", "")].concat(),
                "missing field `paid`",
            ),
            ([base, asks, "key = 1\n"].concat(), "unknown field `key`"),
        ] {
            let error = Unmeasured::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _measured = Measured::parse(&bytes);
            let _unmeasured = Unmeasured::parse(&bytes);
        }
    }
}
