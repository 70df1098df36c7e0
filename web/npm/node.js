// For node: whoever imports this has the verifier loaded.
import { readFileSync } from "node:fs";
import { initSync } from "./attestation.js";

initSync({ module: readFileSync(new URL("attestation_bg.wasm", import.meta.url)) });

export * from "./attestation.js";
