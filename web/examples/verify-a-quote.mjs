// Judges a TDX quote in node: QUOTE, the folder of its collateral, and the time to judge
// by, in seconds since 1970; now, where it is left out.
//
// Exits with 0 for a quote that verifies on a platform that is up to date.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Collateral, Policy } from "@cocoon/attestation";

const [, , quotePath, folder, at = Date.now() / 1000] = process.argv;
const quote = readFileSync(quotePath);
const names = readdirSync(folder);
const files = Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name))]));

try {
    // Once; it holds for all quotes of this processor family until `validity.until`.
    const collateral = Collateral.verify(files, quote, Number(at));
    console.log("collateral holds until", new Date(collateral.validity.until * 1000));

    // For each quote: signatures, revocation, TCB. This is not trust yet.
    const verified = collateral.verifyQuote(quote, Number(at));
    const { registers, report_data, tcb_status } = verified.claims;
    console.log("platform is", tcb_status);

    // Which TDs to trust, everything stated. A client takes a published release instead:
    // `Policy.ofRelease(manifest, {})`; this example takes what it found.
    const { mrtd, rtmr0, rtmr1, rtmr2, rtmr3, mrconfigid, mrowner, mrownerconfig } = registers;
    const policy = Policy.of({
        platform: { statuses: ["UpToDate"] },
        identity: {
            builds: [{ mrtd, rtmr0, rtmr1, rtmr2, rtmr3 }],
            mrconfigid: [mrconfigid],
            mrowner: [mrowner],
            mrownerconfig: [mrownerconfig],
        },
    });

    // What the TD must have put into its quote in this session; see also `Policy.judge`.
    const trusted = verified.appraise(policy, Buffer.from(report_data, "hex"));
    console.log("trusted:", trusted.checks.length, "checks passed");
} catch (error) {
    if (error.name !== "AttestationError") {
        throw error;
    }
    console.error(`${error.code}: ${error.message}`);
    process.exitCode = 1;
}
