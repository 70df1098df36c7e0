// For node: whoever imports this has the verifier loaded.
import "./node.js";
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";

export * from "./client.js";

/** In a file, for one process at a time. */
export function file(path) {
    return {
        async update(change) {
            const next = JSON.stringify(change(kept(path)));
            const open = openSync(`${path}.new`, "w", 0o600);
            writeSync(open, next);
            fsyncSync(open);
            closeSync(open);
            renameSync(`${path}.new`, path);
        },
    };
}

function kept(path) {
    try {
        return JSON.parse(readFileSync(path, "utf8"));
    } catch (error) {
        if (error.code === "ENOENT") {
            return undefined;
        }
        throw error;
    }
}
