// Evidence that others recorded. It lies outside the repository: in COCOON_VECTORS, or
// beside the checkout.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { join } from "node:path";

const root =
    process.env.COCOON_VECTORS ??
    fileURLToPath(new URL("../../../shared/vectors", import.meta.url));

if (!existsSync(root) && process.env.CI !== undefined) {
    throw new Error("CI needs the vectors");
}

/** For node:test: why a test cannot run, or `false`. */
export const skip = existsSync(root) ? false : "skipped: no vectors";

export const path = (name) => join(root, name);

export const read = (name) => readFileSync(path(name));

/** The files of a folder, by name. */
export function collateral(folder) {
    const names = readdirSync(path(folder)).filter((name) => /\.(der|json|pem)$/.test(name));
    return Object.fromEntries(names.map((name) => [name, read(join(folder, name))]));
}

/** Rows of a table (RFC 4180), each with the names of its columns. */
export function table(name) {
    const rows = [[]];
    for (const [, plain, quoted, end] of read(name).toString().trim().matchAll(CELL)) {
        rows.at(-1).push(quoted?.replaceAll('""', '"') ?? plain);
        if (end === "") {
            break;
        }
        if (end !== ",") {
            rows.push([]);
        }
    }
    const [header, ...records] = rows;
    return records.map((row) => Object.fromEntries(header.map((name, at) => [name, row[at]])));
}

const CELL = /("((?:[^"]|"")*)"|[^,\r\n]*)(,|\r?\n|$)/g;

/** A quote that is up to date, when that was, and the collateral of the day. */
export const GENUINE = {
    quote: "tdx/TelegramMessenger__cocoon/76641c46_v4_tee-test-quote.dat.quote.bin",
    collateral: "tdx/collateral/2026-01-12_90c06f000000",
    at: 1_769_529_299,
};
