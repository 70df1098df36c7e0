// A Channel as `cocoon chain channel open --out` writes it, that the double of a network
// takes vouchers of.
export const CHANNEL = {
    channel: `0:${"01".repeat(32)}`,
    global_id: -3,
    payee: `0:${"09".repeat(32)}`,
    deposit: 1_000_000_000,
    until: 4_000_000_000,
    voucher_key: "voucher.key",
};

/** Of the file beside it. */
export const KEY = "07".repeat(32);
