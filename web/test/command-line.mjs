// The command line, whose reports have to be those of the package.
import { spawnSync } from "node:child_process";

/** For node:test: why it cannot be asked, or `false`. */
export const noCocoon = process.env.COCOON === undefined && "skipped: COCOON names no client";

/** The report that `cocoon verify` prints. */
export function cocoon(...args) {
    const { stdout } = spawnSync(process.env.COCOON, ["verify", ...args, "--json"]);
    return JSON.parse(stdout);
}
