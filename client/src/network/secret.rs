//! A secret of one gateway's, or of several that serve the same users: what is derived from
//! it leads a conversation back to the worker that has it in its cache, and tells neither
//! worker nor scheduler whose it is. Text: 64 hex digits.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::{hmac, rand};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::artefacts::read;

/// 32 random bytes.
#[derive(Debug)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// For as long as this process lives.
    pub fn random() -> Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(&mut *secret)?;
        Ok(Self(secret))
    }

    /// The same whenever it is asked for in this folder.
    pub fn kept(folder: &Path) -> Result<Self> {
        let about = || format!("cannot write in {}", folder.display());
        std::fs::create_dir_all(folder).with_context(about)?;
        let path = folder.join("secret");
        if !path.exists() {
            // Readable by its owner only; whoever comes first has made it.
            let mut file = NamedTempFile::new_in(folder).with_context(about)?;
            let text = Zeroizing::new(hex::encode(*Self::random()?.0));
            file.write_all(text.as_bytes()).with_context(about)?;
            file.as_file().sync_all().with_context(about)?;
            drop(file.persist_noclobber(&path));
        }
        let text = Zeroizing::new(read(&path)?);
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim_ascii(), &mut *secret)
            .map_err(|_| anyhow!("{} is not 64 hex digits", path.display()))?;
        Ok(Self(secret))
    }

    pub(super) fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_one_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let secret = Secret::kept(&path).unwrap();
        assert_eq!(secret.0, Secret::kept(&path).unwrap().0);
        assert_ne!(secret.0, Secret::kept(folder.path()).unwrap().0);
        std::fs::write(path.join("secret"), "07").unwrap();
        let error = Secret::kept(&path).unwrap_err().to_string();
        assert!(error.ends_with("is not 64 hex digits"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        Secret::kept(folder.path()).unwrap();
        let kept = std::fs::metadata(folder.path().join("secret")).unwrap();
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    }
}
