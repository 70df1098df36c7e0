// For node: whoever imports this has the verifier loaded.
import "./node.js";
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

export * from "./client.js";

/** In a file, for one process at a time. */
export function file(path) {
    return {
        async update(change) {
            const next = JSON.stringify(change(kept(path)));
            synced(`${path}.new`, "w", (open) => writeFileSync(open, next));
            renameSync(`${path}.new`, path);
            synced(dirname(path), "r", () => {});
        },
    };
}

function synced(path, flags, write) {
    const open = openSync(path, flags, 0o600);
    try {
        write(open);
        fsyncSync(open);
    } finally {
        closeSync(open);
    }
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
