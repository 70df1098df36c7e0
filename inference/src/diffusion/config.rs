//! What the configurations of all parts have in common.

use serde_json::{Map, Value};

use super::Diffusion;
use crate::config::unsupported;
use crate::error::LoadError;
use crate::model_dir::ModelDir;

/// Checks what the directory is made of.
pub(super) fn check_index(dir: &ModelDir) -> Result<(), LoadError> {
    let index: Map<String, Value> = dir.json(Diffusion::INDEX)?;
    let class = |key: &str| index.get(key).and_then(|part| part.get(1));
    for (key, found, expected) in [
        (
            "_class_name",
            index.get("_class_name"),
            Diffusion::ARCHITECTURE,
        ),
        ("text_encoder", class("text_encoder"), "CLIPTextModel"),
        ("tokenizer", class("tokenizer"), "CLIPTokenizer"),
        ("unet", class("unet"), "UNet2DConditionModel"),
        ("vae", class("vae"), "AutoencoderKL"),
    ] {
        let found = found.unwrap_or(&Value::Null);
        if found.as_str() != Some(expected) {
            return Err(unsupported(Diffusion::INDEX, key, found, expected));
        }
    }
    Ok(())
}

/// Refuses settings that are not implemented: each must be absent, null or as given.
pub(super) fn check_neutral(
    file: &'static str,
    config: &Map<String, Value>,
    neutral: &[(&'static str, Value)],
) -> Result<(), LoadError> {
    for (key, expected) in neutral {
        match config.get(*key) {
            None | Some(Value::Null) => {}
            Some(found) if found == expected => {}
            Some(found) => return Err(unsupported(file, key, found, expected.to_string())),
        }
    }
    Ok(())
}

/// Channels of the levels of a network, each of which `groups` divide.
pub(super) fn check_levels(
    file: &'static str,
    levels: &[usize],
    groups: usize,
) -> Result<(), LoadError> {
    if !(2..=6).contains(&levels.len()) {
        let found = format!("a list of {}", levels.len());
        return Err(unsupported(
            file,
            "block_out_channels",
            found,
            "2 to 6 levels",
        ));
    }
    crate::config::check_sizes(file, [("norm_num_groups", groups, 1 << 8)])?;
    for channels in levels {
        crate::config::check_sizes(file, [("block_out_channels", *channels, 1 << 12)])?;
        crate::config::check_multiple(file, "block_out_channels", *channels, groups)?;
    }
    Ok(())
}
