// What compiles, and what must not: a step that is skipped is an error of types.
import {
    type AttestationError,
    type CollateralFiles,
    type Report,
    Binding,
    Collateral,
    Evidence,
    Peer,
    Policy,
    Trusted,
    Verified,
    verifyGpu,
    verifyLog,
    verifyTdx,
} from "@cocoon/attestation";
import { CocoonClient } from "@cocoon/attestation/client";

declare const bytes: Uint8Array;
declare const files: CollateralFiles;
declare const manifest: string;
declare const at: number;
declare function send(to: Trusted): void;

// The whole way, in the one order that there is.
const collateral = Collateral.verify(files, bytes, at);
const verified: Verified = collateral.verifyQuote(bytes, at);
const policy = Policy.ofRelease(manifest, { statuses: ["UpToDate"], smt: false });
send(verified.appraise(policy, bytes));
const session = new Binding(bytes, bytes, bytes);
send(policy.judge(Evidence.decode(bytes), session, at));

// Sealed requests: to a peer, and a peer is judged.
const peer: Peer = Peer.judge(policy, manifest, bytes, bytes, at);
declare const asked: Parameters<Peer["seal"]>[0];
const cost: number | undefined = peer.seal(asked, bytes, bytes).end()?.cost;
const client = new CocoonClient({ scheduler: "https://scheduler.invalid", policy, maxPrice: 1 });
export const answered: [Promise<Response>, number | undefined] = [client.fetch("/v1/models"), cost];

// Each result has a precise type.
const report: Report = verifyTdx(bytes, files, { platform: { fmspc: "any" } }, at);
const { verdict } = verifyLog(bytes, bytes);
const until: number = collateral.validity.until;
const rtmr: string = verified.claims.registers.rtmr0;
const maybe: string | undefined = report.registers.rtmr0;
const passed: boolean | undefined = verified.replay(bytes)[0]?.proved;
const gpu = verifyGpu({ report: bytes, chain: "", rims: [], crls: [], ocsp: [] }, bytes, "any", at);
const measurement: string | undefined = gpu.registers["measurement-01"];
export const known = [measurement, verdict === "trusted", until, rtmr, maybe, passed];

export function code(error: AttestationError): string {
    return `${error.code} ${error.checks?.map((check) => check.name)}`;
}

// @ts-expect-error: verified is not trusted
send(verified);
// @ts-expect-error: a report is for people
send(report);
// @ts-expect-error: collateral that nobody checked
const skipped: Collateral = files;
// @ts-expect-error: nobody else makes one
new Trusted();
// @ts-expect-error: nobody else makes one
new Verified();
// @ts-expect-error: nobody else makes one
new Peer();
// @ts-expect-error: no policy, no client
new CocoonClient({ scheduler: "https://scheduler.invalid", maxPrice: 1 });
// @ts-expect-error: nor an object that looks like one
send({ checks: [], free() {}, [Symbol.dispose]() {} });
// @ts-expect-error: evidence is judged for a session
policy.judge(Evidence.decode(bytes), at);
// @ts-expect-error: bytes are no evidence
policy.judge(bytes, session, at);
// @ts-expect-error: a quote is verified at a time
collateral.verifyQuote(bytes);
// @ts-expect-error: REPORTDATA belongs to every appraisal
verified.appraise(policy);
// @ts-expect-error: a policy for the platform is no policy
verified.appraise({ statuses: ["UpToDate"] }, bytes);
// @ts-expect-error: an identity has no unset part
Policy.of({ identity: { builds: [] } });
// @ts-expect-error: no such status
Policy.ofRelease(manifest, { statuses: ["Fine"] });
// @ts-expect-error: one list of revoked PCKs is needed
const unrevoked: CollateralFiles = { "tcb_info.json": "", "tcb_info_issuer_chain.pem": "", "td_qe_identity.json": "", "root_ca_crl.der": bytes };
// @ts-expect-error: a policy for devices has no unset part
verifyGpu({ report: bytes, chain: "", rims: [], crls: [], ocsp: [] }, bytes, {}, at);
// @ts-expect-error: the results are not `any`
const wrong: number = verdict;
