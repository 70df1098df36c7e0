//! The key of a private model: AES-256 in XTS mode over the blocks of its pack.
//!
//! Each block of 4096 bytes is one data unit, numbered from the start of the disk: what
//! dm-crypt calls `aes-xts-plain64` with `sector_size:4096 iv_large_sectors`. XTS hides
//! and does not authenticate: the hash tree is over the encrypted blocks, so that
//! nothing is decrypted that is not under the root hash. One pack, one key.
//!
//! The key's file is JSON that only its owner may read.
//!
//! Source: IEEE 1619; Linux, `Documentation/admin-guide/device-mapper/dm-crypt.rst`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use aes::Aes256;
use aes::cipher::KeyInit as _;
use anyhow::{Context as _, Result, ensure};
use attestation::config::KEY_LEN;
use attestation::register::Digest256;
use attestation::verity::BLOCK;
use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use xts_mode::{Xts128, get_tweak_default};
use zeroize::Zeroizing;

/// Encrypts and decrypts one pack.
pub struct ModelKey(Zeroizing<[u8; KEY_LEN]>);

impl ModelKey {
    /// A new one.
    pub fn generate() -> Result<Self> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut *key).context("the system gives no randomness")?;
        Ok(Self(key))
    }

    /// What a measured configuration names it by.
    #[must_use]
    pub fn digest(&self) -> Digest256 {
        Digest256::of(&*self.0)
    }

    /// The secret itself.
    #[must_use]
    pub const fn bytes(&self) -> &Zeroizing<[u8; KEY_LEN]> {
        &self.0
    }

    /// In place, whole blocks of which the first has the number `first`.
    pub(super) fn encrypt(&self, blocks: &mut [u8], first: u64) {
        self.xts()
            .encrypt_area(blocks, BLOCK, first.into(), get_tweak_default);
    }

    /// The reverse.
    pub(super) fn decrypt(&self, blocks: &mut [u8], first: u64) {
        self.xts()
            .decrypt_area(blocks, BLOCK, first.into(), get_tweak_default);
    }

    fn xts(&self) -> Xts128<Aes256> {
        let (data, tweak) = self.0.split_at(KEY_LEN / 2);
        Xts128::new(Aes256::new(data.into()), Aes256::new(tweak.into()))
    }
}

impl fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest().fmt(f)
    }
}

/// A key, and what it opens.
#[derive(Debug)]
pub struct KeyFile {
    /// `name@revision`.
    pub model: String,
    /// Root hash of the encrypted pack.
    pub root: Digest256,
    /// The secret.
    pub key: ModelKey,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text {
    key: Zeroizing<String>,
    model: String,
    root: Digest256,
}

impl KeyFile {
    /// Writes a new file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = Text {
            key: Zeroizing::new(hex::encode(self.key.0.as_slice())),
            model: self.model.clone(),
            root: self.root,
        };
        let json = Zeroizing::new(serde_json::to_vec(&text).context("a key as JSON")?);
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(path)?;
            file.write_all(&json)?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot make {}", path.display()))
    }

    /// Reads a file that only its owner may read.
    pub fn read(path: &Path) -> Result<Self> {
        let named = || path.display();
        let mut file = File::open(path).with_context(|| format!("cannot open {}", named()))?;
        let metadata = file.metadata();
        let mode = metadata
            .with_context(|| format!("cannot look at {}", named()))?
            .mode()
            & 0o777;
        ensure!(
            mode & 0o077 == 0,
            "{} has mode {mode:o}, expected 600 or less for a key",
            named()
        );
        let mut json = Zeroizing::new(Vec::new());
        file.read_to_end(&mut json)
            .with_context(|| format!("cannot read {}", named()))?;
        // The reason would quote the text.
        let text: Text = serde_json::from_slice(&json)
            .ok()
            .with_context(|| format!("{} is no key of a model", named()))?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        hex::decode_to_slice(&*text.key, &mut *key)
            .ok()
            .with_context(|| format!("{} holds no key", named()))?;
        Ok(Self {
            model: text.model,
            root: text.root,
            key: ModelKey(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    fn known() -> ModelKey {
        ModelKey(Zeroizing::new(std::array::from_fn(|at| {
            u8::try_from(at).unwrap()
        })))
    }

    /// SHA-256 of what OpenSSL's AES-256-XTS makes of blocks of zeros.
    #[test]
    fn a_block_is_encrypted_as_openssl_does_it() {
        let mut blocks = vec![0; 2 * BLOCK];
        known().encrypt(&mut blocks, 0x0102);
        let digests = blocks.chunks(BLOCK).map(|b| Digest256::of(b).to_string());
        assert_eq!(digests.collect::<Vec<_>>(), OPENSSL);
        known().decrypt(&mut blocks, 0x0102);
        assert_eq!(blocks, vec![0; 2 * BLOCK]);
    }

    const OPENSSL: [&str; 2] = [
        "6278555b148cac655bf72460f447ba4c10738d7551e42a08756718b6a4fda4eb",
        "e22f7a3624b8a817ba178ebe31883684307758f92ba6507b8ae5cae4c7be959b",
    ];

    #[test]
    fn a_key_is_read_back_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = KeyFile {
            model: "a@b".into(),
            root: Digest256::of(b"root"),
            key: known(),
        };
        file.write(&path).unwrap();
        let read = KeyFile::read(&path).unwrap();
        assert_eq!(read.key.bytes(), known().bytes());
        assert_eq!((read.model, read.root), (file.model.clone(), file.root));
        assert!(file.write(&path).is_err(), "a key is never overwritten");

        set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = KeyFile::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("has mode 640, expected 600 or less for a key"));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        known_file(&path);
        let good = std::fs::read_to_string(&path).unwrap();
        for (text, end) in [
            (good.replace("0102", "01"), "holds no key"),
            (good.replace("0102", "01+2"), "holds no key"),
            (good.replace("model", "x"), "is no key of a model"),
            (good[..good.len() - 1].into(), "is no key of a model"),
        ] {
            write(&path, &text).unwrap();
            let error = format!("{:#}", KeyFile::read(&path).unwrap_err());
            assert!(error.ends_with(end), "{error}");
        }
    }

    fn known_file(path: &Path) {
        let (model, root) = ("a@b".into(), Digest256::of(b"root"));
        let key = known();
        KeyFile { model, root, key }.write(path).unwrap();
    }

    #[test]
    fn a_key_shows_its_digest_and_nothing_else() {
        assert_eq!(format!("{:?}", known()), known().digest().to_string());
    }
}
