import type { Policy, Settled, UnixTime } from "./attestation.js";

export interface Options {
    /** URL of a scheduler; it is trusted with nothing. */
    readonly scheduler: string | URL;
    /** Which workers to seal to. */
    readonly policy: Policy;
    /** In nanotons for a million tokens. */
    readonly maxPrice: number;
    /** 32 bytes: requests under one secret share what a worker keeps of them. Random, and
     * so this object's own, where it is left out. */
    readonly secret?: Uint8Array;
    /** Tokens of an answer whose request names no maximum: 4096. */
    readonly answerTokens?: number;
    /** Milliseconds for which an answer is of use: 120,000. */
    readonly deadline?: number;
    /** Workers that are tried before the first byte of an answer: 3. */
    readonly tries?: number;
    /** Seconds for which evidence counts: 600. */
    readonly fresh?: number;
    /** What pays for a request, base64url, where the network is not free. */
    readonly voucher?: (agreed: {
        readonly worker: string;
        readonly price: number;
        readonly limit: number;
    }) => Promise<string | undefined>;
    /** Told what each answer cost, once it is over; `null` where nothing was signed. */
    readonly settled?: (settled: Settled | null) => void;
    /** Instead of the platform's own. */
    readonly fetch?: typeof globalThis.fetch;
    /** Instead of the platform's own. */
    readonly now?: () => UnixTime;
}

/** Answers of verified workers, sealed on their way there and back. */
export class CocoonClient {
    constructor(options: Options);
    /**
     * For `new OpenAI({ fetch: client.fetch, baseURL: "https://network.invalid/v1" })`, or
     * for use as it is. What a scheduler refuses comes as its answer; what is wrong with
     * every worker that was tried is thrown, and so is an answer that was cut or whose
     * receipt is not what was agreed.
     */
    readonly fetch: typeof globalThis.fetch;
}

export class CocoonError extends Error {
    /** Stable, for programs. */
    readonly code: string;
}
