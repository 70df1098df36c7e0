//! A unified kernel image: kernel, command line and initrd in one program, started
//! from a disk by firmware and by systemd's stub, which comes with it.
//!
//! The stub measures each of its sections, name and content, then starts the
//! kernel inside, which measures its load options and initrd.
//!
//! Only images are read whose stub adds nothing of its own to what the kernel
//! gets. What lies beside the image on the same disk is not looked at: credentials,
//! add-ons and extensions in `*.extra.d` would be measured too.
//!
//! Source: systemd src/boot/efi/stub.c and src/fundamental/uki.c, releases 254 to
//! 257; UAPI Group, Unified Kernel Image, "PE sections".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::Utf8Error;

use crate::digests::Digests;
use crate::load_options::{LoadOptionsError, unchanged};
use crate::pe::{PeError, Section, authenticode, sections};

/// An image, hashed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uki {
    /// Of the whole program, as firmware measures it.
    pub image: Digests,
    /// Of the kernel inside, the same way.
    pub kernel: Digests,
    /// Name with its NUL, then content, in the stub's order.
    pub sections: Vec<(&'static str, [Digests; 2])>,
    /// As the kernel gets them.
    pub load_options: Digests,
    /// As the kernel gets it.
    pub initrd: Digests,
    /// Whether the stub measures its sections in a TD too (systemd 256,
    /// pull request 30996).
    pub sections_in_td: bool,
}

impl Uki {
    /// Reads an image file.
    pub fn parse(file: &[u8]) -> Result<Self, UkiError> {
        let sections = Sections(sections(file)?);
        let stub = sections.stub()?;
        if let Some(name) = ALTERING.into_iter().find(|name| sections.has(name)) {
            return Err(UkiError::Altering { name });
        }
        let kernel = sections.content(".linux")?;
        let initrd = sections.content(".initrd")?;
        if !initrd.len().is_multiple_of(4) {
            return Err(UkiError::Initrd { len: initrd.len() });
        }
        let options = sections.content(".cmdline")?;
        let options = core::str::from_utf8(options)?.trim_end_matches(['\0', '\n', ' ']);
        let measured = MEASURED.into_iter().filter(|name| sections.has(name));
        let measured = measured.map(|name| {
            let title = Digests::of_parts([name.as_bytes(), &[0]]);
            Ok((name, [title, Digests::of(sections.content(name)?)]))
        });
        Ok(Self {
            image: authenticode(file)?,
            kernel: authenticode(kernel).map_err(UkiError::Kernel)?,
            sections: measured.collect::<Result<_, UkiError>>()?,
            load_options: Digests::of(&unchanged(&[options])?),
            initrd: Digests::of(initrd),
            sections_in_td: stub >= 256,
        })
    }

    /// What the stub measures, in words and in its order.
    pub fn events(&self) -> impl Iterator<Item = (String, Digests)> {
        self.sections.iter().flat_map(|(name, [title, content])| {
            [
                (format!("name {name}"), *title),
                (format!("section {name}"), *content),
            ]
        })
    }
}

/// In the order in which the stub measures them.
const MEASURED: [&str; 6] = [
    ".linux", ".cmdline", ".initrd", ".splash", ".uname", ".sbat",
];

/// Sections of which the stub makes something that the kernel measures: another
/// archive behind the initrd, microcode before it, a device tree, another profile.
const ALTERING: [&str; 9] = [
    ".osrel", ".ucode", ".dtb", ".pcrpkey", ".pcrsig", ".profile", ".dtbauto", ".hwids", ".efifw",
];

struct Sections<'a>(Vec<Section<'a>>);

impl Sections<'_> {
    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Section<'_>> {
        let mut sections = self.0.iter();
        sections.find(|section| {
            let end = section.name.iter().position(|byte| *byte == 0);
            let found = section.name.get(..end.unwrap_or(section.name.len()));
            found == Some(name.as_bytes())
        })
    }

    /// As it is in memory: without what fills it up in the file.
    fn content(&self, name: &'static str) -> Result<&[u8], UkiError> {
        let section = self.find(name).ok_or(UkiError::Missing { name })?;
        let content = section.content.get(..section.virtual_size);
        content.ok_or(UkiError::Size { name })
    }

    /// Release of the stub, from the text that it carries for boot loaders.
    fn stub(&self) -> Result<u32, UkiError> {
        let text = self.content(".sdmagic")?;
        let text = String::from_utf8_lossy(text);
        let version = text.split_once("LoaderInfo: systemd-stub ");
        let version = version.map_or("", |(_, version)| version);
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        let release = digits.and_then(|digits| digits.parse().ok());
        match release {
            Some(release @ 254..=257) => Ok(release),
            _ => Err(UkiError::Stub {
                found: version.split(' ').next().unwrap_or_default().into(),
            }),
        }
    }
}

/// Why an image cannot be predicted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UkiError {
    /// The stub makes more of it than is known here.
    #[error("image has a section {name}, of which its stub changes what the kernel gets")]
    Altering {
        /// Which.
        name: &'static str,
    },
    /// The stub would pad it.
    #[error("section .initrd has {len} bytes, expected a multiple of 4")]
    Initrd {
        /// In bytes.
        len: usize,
    },
    /// Of the kernel inside.
    #[error("section .linux has no Authenticode digest")]
    Kernel(#[source] PeError),
    /// Of the command line inside.
    #[error("section .cmdline cannot be passed on")]
    LoadOptions(#[from] LoadOptionsError),
    /// Not a unified kernel image.
    #[error("image has no section {name}")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// Not a program.
    #[error(transparent)]
    Pe(#[from] PeError),
    /// Filled up with zeros in memory, which no tool makes.
    #[error("section {name} is larger in memory than in the file")]
    Size {
        /// Which.
        name: &'static str,
    },
    /// Another stub, or another release of it.
    #[error("stub of the image is {found:?}, expected systemd-stub 254 to 257")]
    Stub {
        /// Its version.
        found: String,
    },
    /// Not text.
    #[error("section .cmdline is not text")]
    Text(#[from] Utf8Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pe;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const STUB: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1 ####";

    type Parts<'a> = Vec<(&'static str, &'a [u8])>;

    fn parts(kernel: &[u8]) -> Parts<'_> {
        [
            (".sdmagic", STUB),
            (".cmdline", &b"console=ttyS0\n"[..]),
            (".uname", &b"6.12"[..]),
            (".initrd", &b"cpio"[..]),
            (".linux", kernel),
        ]
        .into()
    }

    /// An image whose sections are filled up to 16 bytes in the file.
    fn image(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let padded = |content: &[u8]| {
            let mut padded = content.to_vec();
            padded.resize(content.len().next_multiple_of(16), 0xee);
            padded
        };
        let contents: Vec<(&str, usize, Vec<u8>)> = parts
            .iter()
            .map(|(name, content)| (*name, content.len(), padded(content)))
            .collect();
        pe::tests::with_sections(&contents)
    }

    #[test]
    fn sections_are_measured_in_the_order_of_the_stub() {
        let kernel = pe::tests::image();
        let uki = Uki::parse(&image(&parts(&kernel))).unwrap();
        let names: Vec<_> = uki.sections.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [".linux", ".cmdline", ".initrd", ".uname"]);
        assert_eq!(
            uki.sections[3].1,
            [Digests::of(b".uname\0"), Digests::of(b"6.12")]
        );
        assert_eq!(uki.kernel, authenticode(&kernel).unwrap());
        assert_eq!(uki.initrd, Digests::of(b"cpio"));
        let text: Vec<u8> = b"console=ttyS0\0".iter().flat_map(|c| [*c, 0]).collect();
        assert_eq!(uki.load_options, Digests::of(&text));
        assert!(uki.sections_in_td);
    }

    #[test]
    fn an_older_stub_measures_less_in_a_td() {
        let kernel = pe::tests::image();
        let mut parts = parts(&kernel);
        parts[0].1 = b"#### LoaderInfo: systemd-stub 255.4-1ubuntu8 ####";
        assert!(!Uki::parse(&image(&parts)).unwrap().sections_in_td);
    }

    #[test]
    fn each_image_that_is_not_understood_has_its_error() {
        let kernel = pe::tests::image();
        let error = |change: &dyn Fn(&mut Parts<'_>)| {
            let mut parts = parts(&kernel);
            change(&mut parts);
            Uki::parse(&image(&parts)).unwrap_err().to_string()
        };
        assert_eq!(
            error(&|parts| parts.push((".osrel", b"ID=x"))),
            "image has a section .osrel, of which its stub changes what the kernel gets"
        );
        assert_eq!(
            error(&|parts| parts[3].1 = b"odd"),
            "section .initrd has 3 bytes, expected a multiple of 4"
        );
        assert_eq!(
            error(&|parts| parts[0].1 = b"systemd-boot 257"),
            "stub of the image is \"\", expected systemd-stub 254 to 257"
        );
        assert_eq!(
            error(&|parts| parts[0].1 = b"LoaderInfo: systemd-stub 258~rc1 ####"),
            "stub of the image is \"258~rc1\", expected systemd-stub 254 to 257"
        );
        assert_eq!(
            error(&|parts| parts[1].1 = b"a\xff"),
            "section .cmdline is not text"
        );
        assert_eq!(
            error(&|parts| parts[1].1 = b"a\nb"),
            "section .cmdline cannot be passed on"
        );
        assert_eq!(
            error(&|parts| parts[4].1 = b"not a kernel"),
            "section .linux has no Authenticode digest"
        );
        for name in [".sdmagic", ".cmdline", ".initrd", ".linux"] {
            assert_eq!(
                error(&|parts| parts.retain(|part| part.0 != name)),
                format!("image has no section {name}")
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            at in 0_usize..1500,
        ) {
            let kernel = pe::tests::image();
            let mut file = image(&parts(&kernel));
            for (byte, new) in file.iter_mut().skip(at).zip(&noise) {
                *byte = *new;
            }
            drop(Uki::parse(&file));
            drop(Uki::parse(&noise));
        }
    }
}
