// For browsers: whoever imports this has the verifier loaded.
import "./index.js";

export * from "./client.js";
