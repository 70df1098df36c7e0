// For node: whoever imports this has the verifier loaded.
import "./node.js";

export * from "./client.js";
