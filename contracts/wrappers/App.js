const { SendMode, beginCell, contractAddress } = require('@ton/core');
const { code, errors } = require('./code');

class App {
    static errors = errors('app-types', 'AppError');

    constructor(address, init) {
        this.address = address;
        this.init = init;
    }

    static create({ owner }) {
        const data = beginCell().storeAddress(owner).storeUint(0, 32 + 1).endCell();
        const init = { code: code('app'), data };
        return new App(contractAddress(0, init), init);
    }

    async sendDeploy(provider, via, value) {
        await provider.internal(via, { value, sendMode: SendMode.PAY_GAS_SEPARATELY });
    }

    async sendWant(provider, via, value, { market, model, requestsPerDay, tokensPerRequest }) {
        const wanted = beginCell()
            .storeAddress(market).storeUint(model, 256)
            .storeUint(requestsPerDay, 32).storeUint(tokensPerRequest, 32)
            .endCell();
        const body = beginCell().storeUint(0x57414e54, 32).storeUint(1, 64).storeRef(wanted).endCell();
        await provider.internal(via, { value, body });
    }

    async sendDeclare(provider, via, value) {
        await send(provider, via, value, 0x4445434c);
    }

    async sendLeave(provider, via, value) {
        await send(provider, via, value, 0x4c454156);
    }

    async getState(provider) {
        const { stack } = await provider.get('state', []);
        return { owner: stack.readAddress(), declared: stack.readNumber(), wanted: stack.readCellOpt() };
    }
}

async function send(provider, via, value, op) {
    const body = beginCell().storeUint(op, 32).storeUint(1, 64).endCell();
    await provider.internal(via, { value, body });
}

module.exports = { App };
