const { SendMode, beginCell, contractAddress } = require('@ton/core');
const { code, errors } = require('./code');

class Market {
    static errors = errors('market-types', 'MarketError');

    constructor(address, init) {
        this.address = address;
        this.init = init;
    }

    // It begins in an epoch, at a price, with nothing in it.
    static create({ epoch, price, model, gpu, capacity, stake, ceiling, collateral, registry }) {
        const children = beginCell()
            .storeAddress(collateral).storeAddress(registry)
            .storeRef(code('node')).storeRef(code('channel')).storeRef(code('app'));
        const terms = beginCell()
            .storeUint(model, 256).storeBuffer(Buffer.from(gpu.padEnd(16, '\0')), 16)
            .storeUint(capacity, 32).storeUint(stake, 64).storeUint(ceiling, 64)
            .storeRef(children.endCell());
        const data = beginCell()
            .storeUint(epoch, 32).storeUint(price, 64).storeUint(0, 64)
            .storeUint(0, 32).storeUint(0, 3 * 64).storeUint(0, 32)
            .storeUint(0, 3).storeRef(terms.endCell())
            .endCell();
        const init = { code: code('market'), data };
        return new Market(contractAddress(0, init), init);
    }

    async sendDeploy(provider, via, value) {
        await provider.internal(via, { value, sendMode: SendMode.PAY_GAS_SEPARATELY });
    }

    async sendStep(provider, via, value) {
        const body = beginCell().storeUint(0x53544550, 32).storeUint(1, 64).endCell();
        await provider.internal(via, { value, body });
    }

    async getState(provider) {
        const { stack } = await provider.get('state', []);
        const names = ['epoch', 'price', 'backlog', 'workers', 'wanted', 'tokens', 'amount', 'reports'];
        const state = Object.fromEntries(names.map((name) => [name, stack.readBigNumber()]));
        stack.skip(2);
        return { ...state, last: stack.readCellOpt() };
    }
}

module.exports = { Market };
