// For browsers: whoever imports this has the verifier loaded.
import load from "./attestation.js";

await load({ module_or_path: new URL("attestation_bg.wasm", import.meta.url) });

export * from "./attestation.js";
