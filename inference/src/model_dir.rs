//! The files of a model directory, read with limits.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::LoadError;

/// A directory in the layout of the Hugging Face hub.
#[derive(Debug)]
pub(crate) struct ModelDir(PathBuf);

impl ModelDir {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A folder of it.
    pub(crate) fn part(&self, folder: &str) -> Self {
        Self(self.path(folder))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// The file that ends in `.gguf`, if there is one.
    pub(crate) fn gguf(&self) -> Result<Option<PathBuf>, LoadError> {
        let error = |source| LoadError::Read {
            path: self.0.clone(),
            source,
        };
        for entry in self.0.read_dir().map_err(error)? {
            let path = entry.map_err(error)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "gguf")
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Reads a file that must be there.
    pub(crate) fn bytes(&self, file: &str) -> Result<Vec<u8>, LoadError> {
        self.optional_bytes(file)?.ok_or_else(|| LoadError::Read {
            path: self.path(file),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Reads a file that need not be there.
    pub(crate) fn optional_bytes(&self, file: &str) -> Result<Option<Vec<u8>>, LoadError> {
        let path = self.path(file);
        let read = |source| LoadError::Read {
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read(error)),
        };
        let found = file.metadata().map_err(read)?.len();
        if found > MAX_TEXT {
            return Err(LoadError::TooLarge {
                path,
                found,
                limit: MAX_TEXT,
            });
        }
        let mut bytes = Vec::new();
        file.take(MAX_TEXT).read_to_end(&mut bytes).map_err(read)?;
        Ok(Some(bytes))
    }

    /// Reads JSON that must be there.
    pub(crate) fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, LoadError> {
        self.parse(file, &self.bytes(file)?)
    }

    /// Reads JSON that need not be there.
    pub(crate) fn optional_json<T: DeserializeOwned>(
        &self,
        file: &str,
    ) -> Result<Option<T>, LoadError> {
        self.optional_bytes(file)?
            .map(|bytes| self.parse(file, &bytes))
            .transpose()
    }

    pub(crate) fn parse<T: DeserializeOwned>(
        &self,
        file: &str,
        bytes: &[u8],
    ) -> Result<T, LoadError> {
        serde_json::from_slice(bytes).map_err(|source| LoadError::Json {
            path: self.path(file),
            source,
        })
    }
}

/// Every file but the weights; the largest tokenizers in use have 35 MB.
const MAX_TEXT: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModelDir::new(dir.path()).bytes("config.json").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot read {}", dir.path().join("config.json").display()),
        );
    }

    #[test]
    fn an_oversized_file_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("config.json")).unwrap();
        file.set_len(MAX_TEXT + 1).unwrap();
        let error = ModelDir::new(dir.path()).bytes("config.json").unwrap_err();
        assert!(
            matches!(error, LoadError::TooLarge { found, limit: MAX_TEXT, .. } if found == MAX_TEXT + 1)
        );
    }

    #[test]
    fn malformed_json_tells_the_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{\n]").unwrap();
        let error = ModelDir::new(dir.path())
            .json::<serde_json::Value>("config.json")
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(
            source.to_string(),
            "key must be a string at line 2 column 1"
        );
    }
}
