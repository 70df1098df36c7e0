//! Reference manifests that are not what they should be, each in one way, and what has
//! been done to other readers of signed XML.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[macro_use]
mod paper_gpu;

use attestation::nvidia::{Revocation, Rim};
use proptest::prelude::*;

use paper_gpu::judge::{Paper, check};
use paper_gpu::pki::{ECDSA_WITH_SHA256, Key, ca};
use paper_gpu::rim::{DSIG, Manifest, SWID};
use paper_gpu::{AT, DRIVER, manifests, measurement, roots};

#[test]
fn each_fault_of_what_a_manifest_says_gives_its_reason() {
    check(
        Paper::good,
        faults! {
            "rim-malformed": "another root element" => |p| rim(p).edit = |text| text.replace("SoftwareIdentity", "Software");
            "rim-malformed": "a description in another language" => |p| rim(p).edit = |text| text.replace("<ns0:Meta", "<ns0:Meta xmlns:ns0=\"urn:x\"");
            "rim-malformed": "no product" => |p| rim(p).product = String::new();
            "rim-malformed": "a product that nobody knows" => |p| rim(p).product = "GX100".into();
            "rim-malformed": "no version" => |p| rim(p).version = String::new();
            "rim-malformed": "no measurement" => |p| rim(p).resources.clear();
            "rim-malformed": "no measurement that counts" => |p| rim(p).resources.truncate(7);
            "rim-malformed": "a measurement twice" => |p| rim(p).resources.push((7, true, vec![measurement(7)]));
            "rim-malformed": "a measurement out of range" => |p| rim(p).resources.push((64, true, vec![measurement(7)]));
            "rim-malformed": "two payloads" => |p| rim(p).edit = |text| text.replace("</ns0:Payload>", "</ns0:Payload><ns0:Payload></ns0:Payload>");
            "rim-malformed": "two descriptions" => |p| rim(p).edit = |text| text.replace("</ns0:Meta>", "</ns0:Meta><ns0:Meta></ns0:Meta>");
            "rim-malformed": "text between resources" => |p| rim(p).edit = |text| text.replacen("</ns0:Resource>", "</ns0:Resource>x", 1);
            "rim-malformed": "text between its parts" => |p| rim(p).edit = |text| text.replacen("</ns0:Meta>", "</ns0:Meta>x", 1);
            "rim-malformed": "a resource of another type" => |p| rim(p).edit = |text| text.replacen("\"Measurement\"", "\"File\"", 1);
            "rim-malformed": "another element among resources" => |p| rim(p).edit = |text| text.replacen("<ns0:Payload>", "<ns0:Payload><ns0:File></ns0:File>", 1);
            "rim-malformed": "an element in a resource" => |p| rim(p).edit = |text| text.replacen("</ns0:Resource>", "<ns0:File></ns0:File></ns0:Resource>", 1);
            "rim-malformed": "another size" => |p| rim(p).edit = |text| text.replacen("size=\"48\"", "size=\"32\"", 1);
            "rim-malformed": "neither active nor not" => |p| rim(p).edit = |text| text.replacen("\"True\"", "\"1\"", 1);
            "rim-malformed": "no hash" => |p| rim(p).resources[7].2.clear();
            "rim-malformed": "fewer hashes than it says" => |p| rim(p).edit = |text| text.replacen("alternatives=\"2\"", "alternatives=\"3\"", 1);
            "rim-malformed": "more hashes than it says" => |p| rim(p).edit = |text| text.replacen("alternatives=\"2\"", "alternatives=\"1\"", 1);
            "rim-malformed": "a hash that is none" => |p| rim(p).edit = |text| text.replacen("Hash0=\"00", "Hash0=\"0x", 1);
            "rim-malformed": "a hash under another number" => |p| rim(p).edit = |text| text.replacen("ns2:Hash0=", "ns2:Hash00=", 1);
            "rim-malformed": "a hash of another algorithm" => |p| rim(p).edit = |text| text.replace("<ns0:Payload", "<ns0:Payload xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha256\"");
            "rim-malformed": "an attribute that nobody knows" => |p| rim(p).edit = |text| text.replacen(" size=", " root=\"\" size=", 1);
            "rim-malformed": "an index with a sign" => |p| rim(p).edit = |text| text.replacen("index=\"7\"", "index=\"+7\"", 1);
            "rim-malformed": "an index with a zero" => |p| rim(p).edit = |text| text.replacen("index=\"7\"", "index=\"07\"", 1);
        },
    );
}

#[test]
fn each_fault_of_a_manifests_chain_gives_its_reason() {
    check(
        Paper::good,
        faults! {
            "rim-signature": "signed by somebody else" => |p| rim(p).key = Key::STRANGER;
            "rim-signature": "signed by its own CA" => |p| rim(p).key = Key::LEVEL_3;
            "rim-root-key": "another root" => |p| rim(p).chain[3].key = Key::STRANGER;
            "rim-root-key": "the root of devices" => |p| rim(p).chain[3] = p.devices[0].chain[4].clone();
            "rim-ca-signature": "a CA of somebody else" => |p| rim(p).chain[2].signer = Key::STRANGER;
            "rim-level-3-signature": "a level of somebody else" => |p| rim(p).chain[1].signer = Key::STRANGER;
            "rim-signer-signature": "a signer of somebody else" => |p| rim(p).chain[0].signer = Key::STRANGER;
            "rim-signer-issuer": "issued by another name" => |p| rim(p).chain[0].issuer = "NVIDIA".into();
            "rim-signer-name": "a signer of something else" => |p| rim(p).chain[0].subject = "VBIOS Signer".into();
            "rim-level-3-name": "a level of something else" => |p| rim(p).chain[1].subject = "NVIDIA L3 GH100".into();
            "rim-ca-name": "a CA of something else" => |p| rim(p).chain[2].subject = "NVIDIA CA".into();
            "rim-level-3-architecture": "a signer for other products" => |p| {
                rim(p).chain = Manifest::new("CX7", DRIVER).chain;
            };
            "rim-signer-usage": "an authority as signer" => |p| rim(p).chain[0].extensions = ca(None);
            "rim-ca-usage": "a path that is too long for it" => |p| rim(p).chain[2].extensions = ca(Some(0));
            "rim-signer-algorithm": "signed with the shorter hash" => |p| rim(p).chain[0].algorithm = ECDSA_WITH_SHA256;
            "rim-signer-expired": "a signer whose two years are over" => |p| rim(p).chain[0].until = "20261231235959Z";
            "rim-signer-not-yet-valid": "a signer of next year" => |p| rim(p).chain[0].from = "20280101000000Z";
        },
    );
}

#[test]
fn each_other_form_of_signature_is_refused() {
    check(
        Paper::good,
        faults! {
            "rim-digest": "another document" => |p| rim(p).forge = |text| text.replacen(DRIVER, "590.13", 1);
            "rim-digest": "a space" => |p| rim(p).forge = |text| text.replacen("\n<ns0:Meta", " \n<ns0:Meta", 1);
            "rim-digest": "a digest that is empty" => |p| rim(p).edit_signed_info = |text| between(&text, "<ds:DigestValue>", "");
            "rim-digest": "a digest of something else" => |p| rim(p).edit_signed_info = |text| between(&text, "<ds:DigestValue>", &"A".repeat(64));
            "rim-signature": "another digest than the signed one" => |p| rim(p).forge = |text| {
                let other = text.replacen(DRIVER, "590.13", 1);
                let hashed = without_signature(&other);
                let digest = base64(&sha384(hashed.as_bytes()));
                between(&other, "<ds:DigestValue>", &digest)
            };
            "rim-signature": "half a signature" => |p| rim(p).forge = |text| between(&text, "<ds:SignatureValue>", &"A".repeat(64));
            "rim-signature-form": "no signature" => |p| rim(p).forge = |text| without_signature(&text);
            "rim-signature-form": "two signatures" => |p| rim(p).forge = |text| {
                let signature = signature(&text);
                text.replace("</SoftwareIdentity>", &(signature + "</SoftwareIdentity>"))
            };
            "rim-signature-form": "a signature in a signature's object" => |p| rim(p).forge = |text| {
                let inner = signature(&text);
                text.replace("</ds:Signature>", &format!("<ds:Object>{inner}</ds:Object></ds:Signature>"))
            };
            "rim-signature-form": "the signed document wrapped in another" => |p| rim(p).forge = |text| {
                let signature = signature(&text);
                let inner = without_signature(&text);
                let outer = inner.replace(DRIVER, "590.13");
                let wrapped = format!("<ds:Object xmlns:ds=\"{DSIG}\">{inner}</ds:Object>{signature}</SoftwareIdentity>");
                outer.replace("</SoftwareIdentity>", &wrapped)
            };
            "rim-signature-form": "a signature deeper in the document" => |p| rim(p).forge = |text| {
                let signature = signature(&text);
                without_signature(&text).replace("</ns0:Payload>", &(signature + "</ns0:Payload>"))
            };
            "rim-signature-form": "one more, hidden among text" => |p| rim(p).edit = |text| {
                let hidden = format!("x<ds:Signature xmlns:ds=\"{DSIG}\"></ds:Signature></ns0:Meta>");
                text.replace("</ns0:Meta>", &hidden)
            };
            "rim-signature-form": "a signature of another language" => |p| rim(p).forge = |text| text.replace(DSIG, "urn:x");
            "rim-signature-form": "two references" => |p| rim(p).edit_signed_info = |text| {
                let reference = cut(&text, "<ds:Reference", "</ds:Reference>");
                text.replace("</ds:SignedInfo>", &(reference + "</ds:SignedInfo>"))
            };
            "rim-signature-form": "a reference to a part" => |p| rim(p).edit_signed_info = |text| text.replace("URI=\"\"", "URI=\"#x\"");
            "rim-signature-form": "a reference without a target" => |p| rim(p).edit_signed_info = |text| text.replace(" URI=\"\"", "");
            "rim-signature-form": "a reference with a type" => |p| rim(p).edit_signed_info = |text| text.replace(" URI=\"\"", " Type=\"urn:x\" URI=\"\"");
            "rim-signature-form": "another canonical form" => |p| rim(p).edit_signed_info = |text| text.replacen("http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/2001/10/xml-exc-c14n#", 1);
            "rim-signature-form": "another signature algorithm" => |p| rim(p).edit_signed_info = |text| text.replace("ecdsa-sha384", "hmac-sha384");
            "rim-signature-form": "another digest algorithm" => |p| rim(p).edit_signed_info = |text| text.replace("xmldsig-more#sha384", "xmldsig-more#sha224");
            "rim-signature-form": "no transform of canonical form" => |p| rim(p).edit_signed_info = |text| {
                let last = cut(&text, "<ds:Transform Algorithm=\"http://www.w3.org/2006", "</ds:Transform>");
                text.replace(&last, "")
            };
            "rim-signature-form": "a transform that selects" => |p| rim(p).edit_signed_info = |text| text.replace("xmldsig#enveloped-signature", "xmldsig#base64");
            "rim-signature-form": "something in a transform" => |p| rim(p).edit_signed_info = |text| text.replacen("></ds:Transform>", "><ds:XPath></ds:XPath></ds:Transform>", 1);
            "rim-signature-form": "a key beside the certificates" => |p| rim(p).forge = |text| text.replace("<ds:X509Data>", "<ds:KeyValue></ds:KeyValue><ds:X509Data>");
            "rim-signature-form": "a key instead of certificates" => |p| rim(p).forge = |text| text.replace("X509Data>", "KeyValue>");
            "rim-signature-form": "five certificates" => |p| rim(p).forge = |text| {
                let one = cut(&text, "<ds:X509Certificate>", "</ds:X509Certificate>");
                text.replacen(&one, &(one.clone() + &one), 1)
            };
            "rim-signature-form": "three certificates" => |p| rim(p).forge = |text| {
                let one = cut(&text, "<ds:X509Certificate>", "</ds:X509Certificate>");
                text.replacen(&one, "", 1)
            };
            "rim-signature-form": "certificates in two places" => |p| rim(p).forge = |text| {
                let data = cut(&text, "<ds:X509Data>", "</ds:X509Data>");
                text.replace(&data, &(data.clone() + &data))
            };
            "rim-signature-form": "an identifier" => |p| rim(p).forge = |text| text.replace("<ds:SignatureValue>", "<ds:SignatureValue Id=\"a\">");
            "rim-signature-form": "not base64" => |p| rim(p).forge = |text| between(&text, "<ds:SignatureValue>", "*");
            "rim-signature-form": "an element in a value" => |p| rim(p).forge = |text| text.replace("<ds:SignatureValue>", "<ds:SignatureValue><a></a>");
            "rim-signature-form": "text between its parts" => |p| rim(p).forge = |text| text.replace("<ds:KeyInfo>", "x<ds:KeyInfo>");
        },
    );
}

#[test]
fn the_certificates_of_another_signer_do_not_help_a_forger() {
    // Everything re-signed by a stranger, with the genuine chain or with his own.
    let mut paper = Paper::good();
    rim(&mut paper).key = Key::STRANGER;
    assert_eq!(paper.judge(), Err("rim-signature".into()));
    rim(&mut paper).chain[0].key = Key::STRANGER;
    rim(&mut paper).chain[0].signer = Key::STRANGER;
    assert_eq!(paper.judge(), Err("rim-signer-signature".into()));
    let mut own = Paper::good();
    for certificate in &mut rim(&mut own).chain {
        (certificate.key, certificate.signer) = (Key::STRANGER, Key::STRANGER);
    }
    rim(&mut own).key = Key::STRANGER;
    assert_eq!(own.judge(), Err("rim-root-key".into()));
}

#[test]
fn each_thing_that_xml_can_do_and_manifests_need_not_is_refused() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>";
    let deep = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
    let many = |count: usize| -> String {
        let attributes = (0..count).map(|number| format!(" a{number}=\"\""));
        format!("<a{}></a>", attributes.collect::<String>())
    };
    let spaces = |count: usize| -> String {
        let declared = (0..count).map(|number| format!(" xmlns:a{number}=\"urn:x\""));
        format!("<a{}></a>", declared.collect::<String>())
    };
    let inside: [(&str, String); 35] = [
        ("too many namespaces", spaces(9)),
        ("a comment", "<!-- -->".into()),
        ("CDATA", "<![CDATA[x]]>".into()),
        ("an instruction", "<?x y?>".into()),
        ("an entity of one's own", "&b;".into()),
        ("an entity without an end", "& ".into()),
        ("a character that is none", "&#0;".into()),
        ("a character that is none, in hex", "&#xFFFF;".into()),
        ("half of a character", "&#xD800;".into()),
        ("a character with a sign", "&#+65;".into()),
        ("a character with too many digits", "&#0000065;".into()),
        ("a control character", "\u{1}".into()),
        ("the end of CDATA", "]]>".into()),
        ("too deep", deep(20)),
        ("deep enough to overflow", deep(30_000)),
        ("too many attributes", many(65)),
        ("far too many attributes", many(20_000)),
        (
            "a huge attribute",
            format!("<a b=\"{}\"></a>", "x".repeat(300_000)),
        ),
        ("an attribute twice", "<a b=\"\" b=\"\"></a>".into()),
        (
            "an attribute twice under two prefixes",
            "<a xmlns:x=\"urn:x\" xmlns:y=\"urn:x\" x:b=\"\" y:b=\"\"></a>".into(),
        ),
        (
            "a namespace declared twice",
            "<a xmlns:x=\"urn:x\" xmlns:x=\"urn:y\"></a>".into(),
        ),
        ("a prefix that nobody declared", "<x:a></x:a>".into()),
        (
            "a prefix of an attribute that nobody declared",
            "<a x:b=\"\"></a>".into(),
        ),
        (
            "a prefix that is taken back",
            "<a xmlns:ns0=\"\"></a>".into(),
        ),
        (
            "the prefix of XML itself",
            "<a xmlns:xml=\"urn:x\"></a>".into(),
        ),
        (
            "another prefix for XML itself",
            "<a xmlns:x=\"http://www.w3.org/XML/1998/namespace\"></a>".into(),
        ),
        (
            "an attribute of XML itself",
            "<a xml:space=\"preserve\"></a>".into(),
        ),
        (
            "a namespace with a reference",
            "<a xmlns:x=\"urn:&#120;\"></a>".into(),
        ),
        ("an element that does not end", "<a>".into()),
        ("elements that overlap", "<a><b></a></b>".into()),
        ("an end without a beginning", "</a>".into()),
        ("no space between attributes", "<a b=\"\"c=\"\"></a>".into()),
        ("no quotes", "<a b=c></a>".into()),
        ("a name that is none", "<1a></1a>".into()),
        ("a name with two colons", "<ns0:a:b></ns0:a:b>".into()),
    ];
    let good = String::from_utf8(manifests()[0].sign()).unwrap();
    for (what, bad) in inside {
        let text = good.replacen("</ns0:Meta>", &format!("{bad}</ns0:Meta>"), 1);
        assert_eq!(judge(text.as_bytes()), Err("rim-xml".into()), "{what}");
    }
    for (what, text) in [
        ("a document type", format!("{bomb}{good}")),
        ("something before it", format!("x{good}")),
        ("something after it", format!("{good}x")),
        ("an element after it", format!("{good}<a></a>")),
        ("a comment after it", format!("{good}<!-- -->")),
        ("a byte order mark", format!("\u{feff}{good}")),
        (
            "a declaration of another encoding",
            format!("<?xml version=\"1.0\" encoding=\"latin1\"?>{good}"),
        ),
        (
            "a declaration of another version",
            format!("<?xml version=\"1.1\"?>{good}"),
        ),
        ("nothing", String::new()),
    ] {
        assert_eq!(judge(text.as_bytes()), Err("rim-xml".into()), "{what}");
    }
    let broken = [&good.as_bytes()[..100], &[0xff], &good.as_bytes()[100..]].concat();
    assert_eq!(judge(&broken), Err("rim-xml".into()), "not UTF-8");
}

#[test]
fn other_ways_to_write_the_same_document_are_taken() {
    let good = String::from_utf8(manifests()[0].sign()).unwrap();
    for (what, text) in [
        ("as it is", good.clone()),
        (
            "with a declaration",
            format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{good}\n"),
        ),
        ("other line ends", good.replace('\n', "\r\n")),
        ("other quotes", good.replace('"', "'")),
        (
            "elements that end at once",
            good.replace("></ns0:Resource>", "/>"),
        ),
        ("another order of attributes", {
            good.replace(
                " edition=\"GPU\" product=\"GH100\"",
                " product=\"GH100\" edition=\"GPU\"",
            )
        }),
        ("a declaration once more", {
            good.replace(
                "<ns0:Meta",
                &format!("<ns0:Meta xmlns:ns0=\"{SWID}\" xmlns=\"{SWID}\""),
            )
        }),
        (
            "characters by their numbers",
            good.replace("GH100\" edition", "&#x47;&#72;100\" edition"),
        ),
        (
            "spaces in a tag",
            good.replace("</ns0:Payload>", "</ns0:Payload >"),
        ),
        (
            "line ends in base64",
            good.replace("<ds:SignatureValue>", "<ds:SignatureValue>\n"),
        ),
        (
            "line ends by their numbers in base64",
            good.replace("</ds:X509Certificate>", "&#13;</ds:X509Certificate>"),
        ),
    ] {
        assert_eq!(judge(text.as_bytes()), Ok(()), "{what}");
    }
}

#[test]
fn what_stands_in_the_document_is_hashed_as_canonical_form_has_it() {
    // Written in canonical form: what the reader makes of it has to be the same bytes.
    for (what, inside) in [
        ("entities", "&amp;&lt;&gt;\"'&#xD;"),
        (
            "an attribute",
            "<ns0:a b=\"&amp;&lt;>&quot;'&#x9;&#xA;&#xD;\"></ns0:a>",
        ),
        (
            "a namespace for one element",
            "<x:a xmlns:x=\"urn:x\"><x:b></x:b></x:a><y:a xmlns:y=\"urn:x\"></y:a>",
        ),
        ("no namespace", "<a xmlns=\"\"><b></b></a>"),
        (
            "a prefix used anew",
            "<ns0:a xmlns:ns0=\"urn:x\"><ns0:b></ns0:b></ns0:a><ns0:c></ns0:c>",
        ),
        (
            "attributes by namespace, then name",
            "<a xmlns:x=\"urn:b\" xmlns:y=\"urn:a\" c=\"\" y:d=\"\" x:a=\"\"></a>",
        ),
        ("other scripts", "<a b=\"é\">日本</a>"),
    ] {
        let document = |text: String| {
            let inside = format!("{inside}</ns0:Meta>");
            text.replacen("</ns0:Meta>", &inside, 1)
        };
        let signed = manifests()[0].sign_edited(document);
        assert_eq!(judge(&signed), Ok(()), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_text_never_panics(text in "[<>/=\"'&;#x a-z:!?\\[\\]-]{0,200}") {
        prop_assert!(judge(text.as_bytes()).is_err());
    }

    #[test]
    fn no_changed_byte_is_taken(at in any::<prop::sample::Index>(), byte in 0x20..0x7f_u8) {
        let good = manifests()[0].sign();
        let mut other = good.clone();
        let at = at.index(good.len());
        other[at] = byte;
        // Of the root's certificate only name and key count, which are pinned.
        let text = String::from_utf8_lossy(&good);
        let root = text.rfind("<ds:X509Certificate>").unwrap();
        if at < root && judge(&other).is_ok() {
            // White space within base64 or a tag.
            let [old, new] = [good[at], byte].map(|byte| byte.is_ascii_whitespace());
            prop_assert!(good[at] == byte || (old && new), "{}: {}", at, byte);
        }
    }
}

fn judge(document: &[u8]) -> Result<(), String> {
    let [_, root] = roots();
    let rim = Rim::verify_under(&root, document, &Revocation::default(), AT);
    rim.map(|_| ()).map_err(|error| error.code())
}

fn rim(paper: &mut Paper) -> &mut Manifest {
    &mut paper.manifests[0]
}

/// What stands between two texts, both included.
fn cut(text: &str, from: &str, to: &str) -> String {
    let start = text.find(from).unwrap();
    let end = start + text[start..].find(to).unwrap() + to.len();
    text[start..end].into()
}

/// With another text after `tag`, up to the next tag.
fn between(text: &str, tag: &str, value: &str) -> String {
    let start = text.find(tag).unwrap() + tag.len();
    let end = start + text[start..].find('<').unwrap();
    format!("{}{value}{}", &text[..start], &text[end..])
}

fn signature(text: &str) -> String {
    cut(text, "<ds:Signature ", "</ds:Signature>")
}

fn without_signature(text: &str) -> String {
    text.replace(&signature(text), "")
}

fn sha384(bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha384::digest(bytes).to_vec()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
