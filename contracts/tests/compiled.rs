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
