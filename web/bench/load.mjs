// What a page has to load, and how long node takes to compile it.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const folder = new URL("../../target/web/attestation/", import.meta.url);
const scripts = ["index.js", "attestation.js", "client-web.js", "client.js", "error.js", "purse.js"];
const files = ["attestation_bg.wasm", ...scripts].map((name) => readFileSync(new URL(name, folder)));
const packed = files.reduce((sum, file) => sum + gzipSync(file, { level: 9 }).length, 0);

// Once: what was compiled before, node remembers.
const start = performance.now();
new WebAssembly.Module(files[0]);
const took = performance.now() - start;
console.log(`a page loads ${packed} bytes, gzipped; compiling the verifier: ${took.toFixed(0)} ms`);
