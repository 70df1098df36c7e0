const { SendMode, beginCell, contractAddress } = require('@ton/core');
const { sign } = require('@ton/crypto');
const { code, errors } = require('./code');

// As network.tolk says of the main one, which the sandbox is.
const MAINNET = -239;

class Channel {
    static errors = errors('channel-types', 'ChannelError');

    constructor(address, init) {
        this.address = address;
        this.init = init;
    }

    // The first state holds the reserve for storage.
    static create({ payer, payee, market, key, fee, until, delay }) {
        const rest = beginCell()
            .storeAddress(payer).storeAddress(market).storeUint(until, 32).storeUint(delay, 32);
        const data = beginCell()
            .storeUint(0, 64).storeUint(10_000_000n, 64).storeUint(until, 32).storeAddress(payee)
            .storeBuffer(key, 32).storeUint(fee, 16).storeRef(rest.endCell()).storeUint(0, 64 + 64)
            .endCell();
        const init = { code: code('channel'), data };
        return new Channel(contractAddress(0, init), init);
    }

    async sendDeploy(provider, via, value) {
        await provider.internal(via, { value, sendMode: SendMode.PAY_GAS_SEPARATELY });
    }

    async sendTopUp(provider, via, value) {
        const body = beginCell().storeUint(0x544f5055, 32).storeUint(1, 64).endCell();
        await provider.internal(via, { value, body });
    }

    async sendClaim(provider, via, value, voucher) {
        await provider.internal(via, { value, body: this.signed(0x434c4149, voucher) });
    }

    async sendReport(provider, via, value, voucher) {
        await provider.internal(via, { value, body: this.signed(0x5245504f, voucher) });
    }

    // With a voucher that the payer's secret key signs.
    signed(op, { secretKey, amount, tokens, cap, epoch, globalId = MAINNET }) {
        const voucher = beginCell()
            .storeUint(0x564f5543, 32).storeInt(globalId, 32).storeAddress(this.address)
            .storeUint(epoch, 32).storeUint(cap, 64).storeUint(amount, 64).storeUint(tokens, 64)
            .storeUint(0, 256)
            .endCell();
        return beginCell()
            .storeUint(op, 32).storeUint(1, 64)
            .storeBuffer(sign(voucher.hash(), secretKey)).storeRef(voucher)
            .endCell();
    }

    async sendClose(provider, via, value) {
        const body = beginCell().storeUint(0x434c4f53, 32).storeUint(1, 64).endCell();
        await provider.internal(via, { value, body });
    }

    async getState(provider) {
        const { stack } = await provider.get('state', []);
        const state = { paid: stack.readBigNumber(), held: stack.readBigNumber(), ends: stack.readNumber() };
        stack.skip(4);
        return { ...state, reported: stack.readBigNumber(), tokens: stack.readBigNumber() };
    }
}

module.exports = { Channel };
