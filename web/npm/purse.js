// What pays for requests: vouchers of one Channel. What a request may cost is reserved and
// kept before its voucher leaves, so nothing that is forgotten signs for less than was
// spent. What broke off, or was not settled as agreed, is in doubt, each request by itself,
// until its worker's receipt is there or the scheduler has said that it costs nothing.
import { Voucher, settled } from "./attestation.js";
import { CocoonError } from "./error.js";

export class Purse {
    #channel;
    #key;
    #most;
    #now;
    #store;

    /** See client.d.ts. */
    constructor({ channel, key, budget = Infinity, now = () => Date.now() / 1000, store = memory() }) {
        this.#channel = channel;
        this.#key = importKey(key);
        // Who awaits a signature hears of it.
        this.#key.catch(() => {});
        this.#most = Math.min(channel.deposit, budget);
        this.#now = now;
        this.#store = store;
    }

    /** Whether it is what a scheduler with these terms is paid from. */
    pays({ payee, global_id }) {
        return payee === this.#channel.payee && global_id === this.#channel.global_id;
    }

    /** Shows a scheduler whose turn it is, for a few minutes (`scheduler/src/pass.rs`). */
    async pass() {
        const { channel, global_id } = this.#channel;
        const until = Math.floor(this.#now()) + PASS;
        const text = `cocoon pass\n${global_id}\n${channel}\n${until}\n`;
        const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
        const signature = await crypto.subtle.sign("Ed25519", await this.#key, hash);
        return `${channel}.${until}.${base64(new Uint8Array(signature))}`;
    }

    /** A voucher for a request, base64url; nothing where nothing is owed. After so many
     * seconds nobody settles it here any more. */
    async reserve(id, agreed, seconds) {
        const { limit, price } = agreed;
        const { channel, global_id, until } = this.#channel;
        return this.#signed(
            await this.#change((state, now) => {
                if (now >= until) {
                    throw new CocoonError("channel", `the channel has ended at ${until}`);
                }
                const most = cost(limit, price);
                const [needed, left] = [taken(state) + most, this.#most - taken(state)];
                if (most > left) {
                    const message = `the request may cost ${most} nanotons, and ${left} are left`;
                    throw new CocoonError("not_covered", message);
                }
                state.reserved[id] = { ...agreed, until: now + seconds };
                if (state.voucher === null && needed === 0) {
                    return undefined;
                }
                const last = newest(state) ?? Voucher.first(channel, global_id);
                const enough = state.voucher !== null && last.amount >= needed && last.cap >= price;
                const voucher = enough ? last : last.raised(needed, price, now);
                state.voucher = base64(voucher.bytes);
                return voucher;
            }),
        );
    }

    /** A worker has signed for so many tokens; whether or not it was in doubt. */
    settle(id, tokens) {
        return this.#change((state) => settle(state, id, tokens));
    }

    /** Nothing was done for it; whether or not it was in doubt. */
    release(id) {
        return this.#change((state) => release(state, id));
    }

    /** Nobody has told what was done for it. */
    doubt(id) {
        return this.#change((state) => doubt(state, id));
    }

    /** A scheduler refused `sent` for what it counts. Whether another voucher would say more:
     * of many that were refused at once, one alone finds something to hold. */
    async refused(sent, counted) {
        const now = await this.#change((state) => {
            holdMost(state, counted);
            return state.held > 0 ? undefined : newest(state);
        });
        return now === undefined || (await this.#signed(now)) !== sent;
    }

    /** What a scheduler tells of the requests that it was asked about. Those that it never
     * heard of are over once it is too late for it to. */
    told(asked, { spent, reserved, requests }) {
        return this.#change((state, now) => {
            for (const id of asked.filter((id) => id in state.doubts)) {
                const { stage, settlement } = requests[id] ?? {};
                if (stage === "settled") {
                    const tokens = tokensIn(settlement, state.doubts[id]);
                    tokens !== undefined && settle(state, id, tokens);
                } else if (stage === "released" || (!stage && state.doubts[id].until + SURELY < now)) {
                    release(state, id);
                }
            }
            hold(state, { spent, reserved });
        });
    }

    /** The newest voucher, and the requests that the scheduler knows better. */
    async inDoubt() {
        const doubts = await this.#change((state) => ({
            requests: Object.keys(state.doubts),
            voucher: newest(state),
        }));
        return doubts.requests.length === 0
            ? undefined
            : { ...doubts, voucher: await this.#signed(doubts.voucher) };
    }

    /** How it stands. */
    balance() {
        return this.#change((state) => ({
            spent: state.spent,
            reserved: taken(state) - state.spent,
            budget: this.#most,
            tokens: state.tokens,
        }));
    }

    async #change(change) {
        let done;
        await this.#store.update((kept) => {
            const state = { ...EMPTY, ...kept };
            const next = structuredClone(state);
            const now = this.#now();
            const old = ([, { until }]) => until < now;
            // Of a page that was left, or a process that ended.
            Object.entries(next.reserved).filter(old).forEach(([id]) => doubt(next, id));
            done = change(next, now);
            return next;
        });
        return done;
    }

    async #signed(voucher) {
        if (voucher === undefined) {
            return undefined;
        }
        const signature = await crypto.subtle.sign("Ed25519", await this.#key, voucher.hash);
        return base64(voucher.signed(new Uint8Array(signature)));
    }
}

/** For as long as the program runs. */
export function memory() {
    let state;
    return {
        async update(change) {
            state = change(state);
        },
    };
}

/** In the browser, for all pages of an origin. */
export function indexedDb(name) {
    const opened = new Promise((resolve, reject) => {
        const request = indexedDB.open("cocoon", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("purses");
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
    return {
        async update(change) {
            const database = await opened;
            return new Promise((resolve, reject) => {
                // Whoever comes second reads what the first has written, and all of it is
                // on disk when it is over.
                const how = { durability: "strict" };
                const transaction = database.transaction("purses", "readwrite", how);
                const purses = transaction.objectStore("purses");
                let reason;
                purses.get(name).onsuccess = ({ target }) => {
                    try {
                        purses.put(change(target.result), name);
                    } catch (error) {
                        reason = error;
                        transaction.abort();
                    }
                };
                transaction.oncomplete = () => resolve();
                transaction.onabort = () => reject(reason ?? transaction.error);
            });
        },
    };
}

/** Tokens at a price, rounded down. */
function cost(tokens, price) {
    const nanotons = Number((BigInt(tokens) * BigInt(price)) / 1_000_000n);
    if (!Number.isSafeInteger(nanotons)) {
        throw new CocoonError("not_covered", "more than there are nanotons");
    }
    return nanotons;
}

const taken = ({ spent, held, reserved }) => spent + held + total(reserved);

const total = (requests) =>
    Object.values(requests).reduce((sum, { limit, price }) => sum + cost(limit, price), 0);

function settle(state, id, tokens) {
    const { limit, price } = state.reserved[id] ?? state.doubts[id] ?? { limit: 0, price: 0 };
    const paid = cost(Math.min(tokens, limit), price);
    state.spent += paid;
    state.tokens += Math.min(tokens, limit);
    state.held -= id in state.doubts ? Math.min(paid, state.held) : 0;
    release(state, id);
}

function release(state, id) {
    delete state.reserved[id];
    delete state.doubts[id];
    state.held = Math.min(state.held, total(state.doubts));
}

function doubt(state, id) {
    const reserved = state.reserved[id];
    delete state.reserved[id];
    // Where nothing is owed, it is so whatever became of it.
    if (reserved !== undefined && cost(reserved.limit, reserved.price) > 0) {
        state.doubts[id] = reserved;
    }
}

/** The scheduler counts more or less than we do: it is believed as far as there is doubt. */
function hold(state, { spent, reserved }) {
    const more = spent + reserved - (taken(state) - state.held);
    state.held = Math.min(Math.max(more, 0), total(state.doubts));
}

/** The same of one that refused a request: it may have refused all that is under way, so that
 * whatever it counts is in doubt, and no less is held than was. */
function holdMost(state, { spent, reserved }) {
    const most = Math.min(spent + reserved - state.spent, total(state.doubts));
    state.held = Math.max(most, state.held);
}

/** Of a settlement that somebody shows, if it is what the worker signed for this request. */
function tokensIn(settlement, agreed) {
    try {
        const { limit, price, request, receipt_key } = agreed;
        const signed = settled(bytes(settlement), { limit, price, request, receipt_key });
        return signed.prompt_tokens + signed.completion_tokens;
    } catch {
        return undefined;
    }
}

function newest({ voucher }) {
    return voucher === null ? undefined : Voucher.parse(bytes(voucher));
}

/** A key that signs: one of WebCrypto's, or its 32 bytes, as they are or in hex. */
export async function importKey(key) {
    if (key instanceof CryptoKey) {
        return key;
    }
    const seed = typeof key === "string" ? fromHex(key.trim()) : key;
    if (seed.length !== 32) {
        throw new CocoonError("channel", "the key of a channel has 32 bytes");
    }
    const whole = new Uint8Array([...PKCS8, ...seed]);
    return crypto.subtle.importKey("pkcs8", whole, "Ed25519", false, ["sign"]);
}

const fromHex = (text) =>
    Uint8Array.from(/^([0-9a-f]{2})*$/i.test(text) ? (text.match(/../g) ?? []) : [], (digits) =>
        parseInt(digits, 16),
    );

/** What {@link base64} gave the text of. */
export const bytes = (text) =>
    Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt());

/** In the alphabet of URLs, without padding. */
export const base64 = (bytes) =>
    btoa(String.fromCharCode(...bytes))
        .replaceAll("+", "-")
        .replaceAll("/", "_")
        .replaceAll("=", "");

/** What is before the bytes of an Ed25519 key: RFC 8410, section 7. */
const PKCS8 = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/** Seconds for which a pass holds. */
const PASS = 300;

/** Seconds in which a request may still be on its way that was given up. */
const SURELY = 300;

const EMPTY = { voucher: null, spent: 0, tokens: 0, held: 0, reserved: {}, doubts: {} };
