//! Builds, runs and checks the image.
//!
//! Debian packages, each locked by its hash, are unpacked into a tools tree
//! ([`tools`]); in its sandbox the kernel, our programs and the root are made
//! ([`image`]) and a machine is run from them ([`vm`]). Debian's apt and dpkg
//! are all that is asked of the machine it runs on ([`host`]).

pub mod clients;
pub mod cocoon;
pub mod contracts;
mod dashboard;
pub mod demo;
pub mod disk;
pub mod fuzz;
pub mod host;
pub mod image;
pub mod models;
pub mod place;
pub mod progress;
pub mod test;
pub mod tools;
mod town;
pub mod up;
pub mod vm;
pub mod web;
