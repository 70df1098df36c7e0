// CBOR (RFC 8949) of what evidence is made of; maps in the order given.

/** Bytes of an integer, a string, bytes, an array or a Map. */
export function encode(value) {
    if (typeof value === "number") {
        return value < 0 ? head(1, -1 - value) : head(0, value);
    }
    if (typeof value === "string") {
        return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)]);
    }
    if (value instanceof Uint8Array) {
        return Buffer.concat([head(2, value.length), value]);
    }
    if (value instanceof Map) {
        return Buffer.concat([head(5, value.size), ...[...value].flat().map(encode)]);
    }
    return Buffer.concat([head(4, value.length), ...value.map(encode)]);
}

function head(major, number) {
    const bytes = [24, 0x100, 0x1_0000].findIndex((limit) => number < limit);
    if (bytes === 0) {
        return Buffer.from([(major << 5) | number]);
    }
    const [info, width] = [[], [24, 1], [25, 2]][bytes] ?? [26, 4];
    const head = Buffer.alloc(1 + width, (major << 5) | info);
    head.writeUIntBE(number, 1, width);
    return head;
}
