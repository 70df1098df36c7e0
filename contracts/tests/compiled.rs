//! What is embedded is what the sources compile to.

mod tvm;

use std::process::Command;

#[test]
fn the_embedded_code_is_what_its_source_compiles_to() {
    if !tvm::installed() {
        return;
    }
    let output = Command::new("node")
        .args(["tools/compile.js", "--check"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
}

/// Whoever changes a source looks again at what was accepted of it.
#[test]
fn every_accepted_mutant_is_one() {
    if !tvm::installed() {
        return;
    }
    let output = Command::new("node")
        .args(["tools/mutate.js", "check"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// Whoever adds a refusal to a contract adds a test that asserts it.
#[test]
fn every_exit_code_that_a_source_names_is_asserted_somewhere() {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = |folder: &str, ending: &str| -> Vec<String> {
        let entries = std::fs::read_dir(package.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let named = paths.filter(|path| path.to_str().unwrap().ends_with(ending));
        named
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect()
    };
    let tests = texts("tests", ".rs").concat();
    let asserted = |code: &str| {
        let mut words = tests.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| word == code)
    };
    let sources = texts("tolk", ".tolk").concat();
    let errors = sources
        .split("enum ")
        .skip(1)
        .filter(|text| !text.starts_with("Lacks"));
    let mut codes = 0;
    for body in errors.filter_map(|text| text.split_once('}')) {
        for (name, code) in body.0.lines().filter_map(|line| line.split_once(" = ")) {
            assert!(asserted(code), "{} = {code}", name.trim());
            codes += 1;
        }
    }
    assert!(codes > 40, "{codes}");
}
