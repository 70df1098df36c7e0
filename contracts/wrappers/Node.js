const { SendMode, TupleBuilder, beginCell, contractAddress } = require('@ton/core');
const { code, errors } = require('./code');

class Node {
    static errors = { ...errors('evidence', 'Evidence'), ...errors('node-types', 'NodeError') };

    constructor(address, init) {
        this.address = address;
        this.init = init;
    }

    static create({ owner, collateral, registry }) {
        const data = beginCell()
            .storeAddress(owner).storeAddress(collateral).storeAddress(registry)
            .storeUint(0, 32).storeUint(0, 32).storeUint(0, 32).storeUint(0, 2)
            .endCell();
        const init = { code: code('node'), data };
        return new Node(contractAddress(0, init), init);
    }

    async sendDeploy(provider, via, value) {
        await provider.internal(via, { value, sendMode: SendMode.PAY_GAS_SEPARATELY });
    }

    async sendAttest(provider, via, value, body) {
        await provider.internal(via, { value, body });
    }

    async sendOffer(provider, via, value, { gpu, memoryGib, hoursPerWeek, ask, market }) {
        const host = beginCell()
            .storeBuffer(Buffer.from(gpu.padEnd(16, '\0')), 16).storeUint(memoryGib, 32)
            .storeUint(hoursPerWeek, 8).storeCoins(ask).storeAddress(market)
            .endCell();
        const body = beginCell().storeUint(0x4f464652, 32).storeUint(1, 64).storeRef(host).endCell();
        await provider.internal(via, { value, body });
    }

    async sendPresent(provider, via, value) {
        await send(provider, via, value, 0x50525354);
    }

    async sendLeave(provider, via, value) {
        await send(provider, via, value, 0x4c454156);
    }

    async sendWithdraw(provider, via, value) {
        await send(provider, via, value, 0x57495448);
    }

    async getState(provider) {
        const { stack } = await provider.get('state', []);
        return {
            owner: stack.readAddress(),
            collateral: stack.readAddress(),
            registry: stack.readAddress(),
            seqno: stack.readNumber(),
            leavesAt: stack.readNumber(),
            presented: stack.readNumber(),
            attestation: stack.readCellOpt(),
            host: stack.readCellOpt(),
        };
    }

    // What would be asked of Collateral for a TD with this REPORTDATA.
    async getAppraise(provider, attest, reportData) {
        const stack = new TupleBuilder();
        stack.writeCell(attest);
        stack.writeSlice(beginCell().storeBuffer(reportData).endCell());
        return (await provider.get('appraise', stack.build())).stack.readCell();
    }
}

async function send(provider, via, value, op) {
    const body = beginCell().storeUint(op, 32).storeUint(1, 64).endCell();
    await provider.internal(via, { value, body });
}

module.exports = { Node };
