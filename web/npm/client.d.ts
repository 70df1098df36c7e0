import type { Check, Policy, Settled, UnixTime } from "./attestation.js";

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
    /** Milliseconds for an answer: 120,000. One that has not begun by then is given up, as
     * `deadline_exceeded`; one that has is what was said by then. One worker is asked at a
     * time; none is asked beside a slow one. */
    readonly deadline?: number;
    /** Milliseconds for which an answer that has begun may be silent: 180,000. Then it has
     * broken off, as `silent`. */
    readonly silence?: number;
    /** Workers that are tried before the first byte of an answer: 3. */
    readonly tries?: number;
    /** Seconds for which evidence counts: 600. */
    readonly fresh?: number;
    /** Bytes of an answer that are taken: 64 MiB. */
    readonly maxAnswer?: number;
    /** What pays, where the network is not free. */
    readonly purse?: Purse;
    /** Told what each answer cost, once it is over; `null` where nothing was signed. */
    readonly settled?: (settled: Settled | null) => void;
    /** Told what was verified of each worker, before anything is sealed to it. */
    readonly verified?: (verified: { readonly worker: string; readonly checks: Check[] }) => void;
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
     * receipt is not what was agreed: by its bytes, price, and tokens, which are what the
     * answer says of its usage and no more than there can be. Who signed such a receipt is
     * left alone for ten minutes.
     */
    readonly fetch: typeof globalThis.fetch;
    /** Asks how requests ended that broke off. It does so by itself now and then. */
    reconcile(): Promise<void>;
}

/** What `cocoon chain channel open --out` writes; its key is in a file of its own. */
export interface Channel {
    readonly channel: string;
    readonly global_id: number;
    readonly payee: string;
    /** In nanotons. */
    readonly deposit: number;
    readonly until: UnixTime;
}

/** Where a purse keeps what it must not forget: one that forgets signs for less than was
 * spent, and is served no more. */
export interface Store {
    /** Replaces what is kept, all of it or nothing, before it resolves; where several
     * pages share it, one after the other. `change` may throw: then nothing changes. */
    update(change: (state: unknown) => unknown): Promise<void>;
}

/** A Channel of ours to a scheduler. */
export class Purse {
    constructor(options: {
        readonly channel: Channel;
        /** Signs vouchers: a key of WebCrypto's (Ed25519), or its 32 bytes, or their hex. */
        readonly key: CryptoKey | Uint8Array | string;
        /** Nanotons to spend of it at most. */
        readonly budget?: number;
        /** {@link memory} where it is left out. */
        readonly store?: Store;
        /** Instead of the platform's own. */
        readonly now?: () => UnixTime;
    });
    /** In nanotons; `reserved` is for what is under way, or may have been. */
    balance(): Promise<{
        readonly spent: number;
        readonly reserved: number;
        readonly budget: number;
        readonly tokens: number;
    }>;
}

/** A key's 32 bytes, or their hex, as a key that signs and cannot be read out. */
export function importKey(key: Uint8Array | string): Promise<CryptoKey>;

/** Forgets with the program. */
export function memory(): Store;

/** In the browser: for all pages of an origin, under this name. */
export function indexedDb(name: string): Store;

/** In node: a file, for one process at a time. */
export function file(path: string): Store;

export class CocoonError extends Error {
    /** Stable, for programs. */
    readonly code: string;
}
