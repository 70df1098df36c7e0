// What the network charges since 30 April 2026: the sandbox knows the prices before,
// which were six times as high.
//
// Amounts are nanotons; prices of gas and of messages are in 1/65536 of one.
// Layout: block.tlb, ConfigParam 18 (storage), 21 (gas), 25 (messages).

const { Cell, Dictionary, beginCell } = require('@ton/core');
const { defaultConfig } = require('@ton/sandbox');

const SINCE = 1777500000;
const STORAGE = { bit: 0n, cell: 135n };
const GAS = { flatLimit: 100n, flatPrice: 6667n, price: 4369067n };
const MESSAGE = { lump: 66667n, bit: 4369067n, cell: 436906667n };

// Basechain prices of 2026 in an otherwise default configuration.
function config2026() {
    const params = Cell.fromBase64(defaultConfig).beginParse()
        .loadDictDirect(Dictionary.Keys.Int(32), Dictionary.Values.Cell());
    for (const [param, change] of [[18, storage], [21, gas], [25, message]]) {
        params.set(param, change(params.get(param)));
    }
    // The emulator does not read the tag that this one has today.
    params.delete(43);
    return beginCell().storeDictDirect(params).endCell();
}

function storage(old) {
    const prices = {
        serialize: (value, builder) => builder.storeSlice(value),
        parse: (slice) => slice.clone(),
    };
    const epochs = Dictionary.loadDirect(Dictionary.Keys.Uint(32), prices, old);
    const masterchain = [...epochs].at(-1)[1].clone().skip(8 + 32 + 64 + 64);
    epochs.set(SINCE, beginCell()
        .storeUint(0xcc, 8).storeUint(SINCE, 32)
        .storeUint(STORAGE.bit, 64).storeUint(STORAGE.cell, 64)
        .storeUint(masterchain.loadUintBig(64), 64).storeUint(masterchain.loadUintBig(64), 64)
        .endCell().beginParse());
    return beginCell().storeDictDirect(epochs).endCell();
}

function gas(old) {
    const limits = old.beginParse().skip(8 + 64 + 64 + 8 + 64);
    return beginCell()
        .storeUint(0xd1, 8).storeUint(GAS.flatLimit, 64).storeUint(GAS.flatPrice, 64)
        .storeUint(0xde, 8).storeUint(GAS.price, 64)
        .storeSlice(limits)
        .endCell();
}

function message(old) {
    const fractions = old.beginParse().skip(8 + 3 * 64);
    return beginCell()
        .storeUint(0xea, 8)
        .storeUint(MESSAGE.lump, 64).storeUint(MESSAGE.bit, 64).storeUint(MESSAGE.cell, 64)
        .storeSlice(fractions)
        .endCell();
}

module.exports = { config2026 };
