// A scheduler and two emulated workers, and the package under their made-up root.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { CI, COCOON_NETWORK, COCOON_DOUBLE } = process.env;

if (COCOON_NETWORK === undefined && CI !== undefined) {
    throw new Error("CI needs COCOON_NETWORK and COCOON_DOUBLE");
}

/** For node:test: why a test cannot run, or `false`. */
export const skip = COCOON_NETWORK === undefined ? "skipped: no network" : false;

/** Where the package lies that takes another root. */
export const double = COCOON_DOUBLE;

/** The same package, loaded. */
export const load = (name) => import(pathToFileURL(`${COCOON_DOUBLE}/${name}`));

/** Starts it: where it is, what it reports, and how to end it. */
export async function start(...args) {
    const network = spawn(COCOON_NETWORK, args, { stdio: ["pipe", "pipe", "inherit"] });
    const [line] = await once(createInterface(network.stdout), "line");
    const stop = () => {
        network.stdin.end();
        return once(network, "exit");
    };
    return { ...JSON.parse(line), stop };
}
