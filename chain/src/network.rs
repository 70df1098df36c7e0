//! Which network: its liteservers and the block that is pinned, as in the file
//! `global.config.json` that every TON software reads.
//!
//! The file is the user's to choose: whoever writes it says what is true.

use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tycho_types::cell::HashBytes;
use tycho_types::models::{BlockId, ShardIdent};

use crate::block::Anchor;

/// Liteservers, and where trust starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    /// At least one.
    pub servers: Vec<Server>,
    /// A key block.
    pub pinned: Anchor,
}

/// A liteserver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// Ed25519.
    pub key: [u8; 32],
}

impl Network {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let file: File = serde_json::from_str(text).map_err(NetworkError::Json)?;
        let servers = file
            .liteservers
            .iter()
            .map(server)
            .collect::<Result<_, _>>()?;
        let block = &file.validator.init_block;
        let id = BlockId {
            shard: ShardIdent::MASTERCHAIN,
            seqno: block.seqno,
            root_hash: HashBytes(bytes("root_hash", &block.root_hash)?),
            file_hash: HashBytes(bytes("file_hash", &block.file_hash)?),
        };
        if (block.workchain, block.shard) != (-1, MASTERCHAIN) || block.seqno == 0 {
            return Err(NetworkError::Pinned);
        }
        match file.liteservers.is_empty() {
            true => Err(NetworkError::Alone),
            false => Ok(Self {
                servers,
                pinned: Anchor::pin(id),
            }),
        }
    }

    /// Writes the file, of servers that have an address of four bytes.
    pub fn to_json(&self) -> Result<String, NetworkError> {
        let id = self.pinned.id();
        let liteservers = self.servers.iter().map(|server| match server.address {
            SocketAddr::V4(address) => Ok(Liteserver {
                ip: i32::from_be_bytes(address.ip().octets()).into(),
                port: address.port(),
                id: Key {
                    key: STANDARD.encode(server.key),
                },
            }),
            SocketAddr::V6(_) => Err(NetworkError::Address),
        });
        let file = File {
            liteservers: liteservers.collect::<Result<_, _>>()?,
            validator: Validator {
                init_block: InitBlock {
                    workchain: -1,
                    shard: MASTERCHAIN,
                    seqno: id.seqno,
                    root_hash: STANDARD.encode(id.root_hash),
                    file_hash: STANDARD.encode(id.file_hash),
                },
            },
        };
        serde_json::to_string_pretty(&file).map_err(NetworkError::Json)
    }
}

fn server(server: &Liteserver) -> Result<Server, NetworkError> {
    let ip = i32::try_from(server.ip)
        .map(i32::to_be_bytes)
        .or_else(|_| u32::try_from(server.ip).map(u32::to_be_bytes));
    let ip = ip.map_err(|_| NetworkError::Address)?;
    Ok(Server {
        address: (Ipv4Addr::from(ip), server.port).into(),
        key: bytes("key", &server.id.key)?,
    })
}

fn bytes(field: &'static str, text: &str) -> Result<[u8; 32], NetworkError> {
    let bytes = STANDARD.decode(text).ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(NetworkError::Bytes { field })
}

/// Why a file describes no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A liteserver's address.
    #[error("a liteserver's ip is not an address of four bytes")]
    Address,
    /// Nobody to ask.
    #[error("no liteserver")]
    Alone,
    /// A hash or a key.
    #[error("{field} is not 32 bytes in base64")]
    Bytes {
        /// In the file.
        field: &'static str,
    },
    /// Not JSON, or not with these members.
    #[error("not a network's configuration")]
    Json(#[source] serde_json::Error),
    /// Where trust starts.
    #[error("init_block is not a key block of the masterchain")]
    Pinned,
}

#[derive(Deserialize, Serialize)]
struct File {
    liteservers: Vec<Liteserver>,
    validator: Validator,
}

#[derive(Deserialize, Serialize)]
struct Liteserver {
    ip: i64,
    port: u16,
    id: Key,
}

#[derive(Deserialize, Serialize)]
struct Key {
    key: String,
}

#[derive(Deserialize, Serialize)]
struct Validator {
    init_block: InitBlock,
}

#[derive(Deserialize, Serialize)]
struct InitBlock {
    workchain: i32,
    shard: i64,
    seqno: u32,
    root_hash: String,
    file_hash: String,
}

const MASTERCHAIN: i64 = i64::MIN;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_network_reads_as_it_was_written_and_nothing_is_made_up() {
        let network = Network {
            servers: vec![Server {
                address: "203.0.113.200:4924".parse().unwrap(),
                key: [7; 32],
            }],
            pinned: Anchor::pin(BlockId {
                shard: ShardIdent::MASTERCHAIN,
                seqno: 5,
                root_hash: HashBytes([1; 32]),
                file_hash: HashBytes([2; 32]),
            }),
        };
        let text = network.to_json().unwrap();
        assert_eq!(Network::parse(&text).unwrap(), network);
        let refused = |from: &str, to: &str| {
            assert!(text.contains(from));
            Network::parse(&text.replace(from, to))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused("\"seqno\": 5", "\"seqno\": 0"),
            "init_block is not a key block of the masterchain"
        );
        assert_eq!(
            refused("\"workchain\": -1", "\"workchain\": 0"),
            "init_block is not a key block of the masterchain"
        );
        assert_eq!(
            refused(&STANDARD.encode([2; 32]), "AAAA"),
            "file_hash is not 32 bytes in base64"
        );
        assert_eq!(
            refused("-889163320", "99999999999"),
            "a liteserver's ip is not an address of four bytes"
        );
        assert_eq!(
            refused("init_block", "last"),
            "not a network's configuration"
        );
        let alone = Network {
            servers: Vec::new(),
            ..network
        };
        let alone = Network::parse(&alone.to_json().unwrap()).unwrap_err();
        assert_eq!(alone.to_string(), "no liteserver");
    }
}
