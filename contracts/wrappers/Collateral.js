const { Dictionary, SendMode, beginCell, contractAddress } = require('@ton/core');
const { code, errors } = require('./code');

class Collateral {
    static errors = { ...errors('evidence', 'Evidence'), ...errors('collateral-types', 'CollateralError') };

    constructor(address, init) {
        this.address = address;
        this.init = init;
    }

    // Under Intel's root, or under the one that anyone can sign with.
    static create(name = 'collateral') {
        const authorities = beginCell().storeUint(0, 3).endCell();
        const init = { code: code(name), data: beginCell().storeRef(authorities).storeUint(0, 2).endCell() };
        return new Collateral(contractAddress(0, init), init);
    }

    async sendDeploy(provider, via, value) {
        await provider.internal(via, { value, sendMode: SendMode.PAY_GAS_SEPARATELY });
    }

    async sendPost(provider, via, value, body) {
        await provider.internal(via, { value, body });
    }

    async getState(provider) {
        const { stack } = await provider.get('state', []);
        stack.skip(1);
        const qeIdentity = stack.readCellOpt();
        const infos = stack.readCellOpt();
        const families = infos
            ? Dictionary.loadDirect(Dictionary.Keys.BigUint(48), Dictionary.Values.Cell(), infos).keys()
            : [];
        return { qeIdentity, families };
    }
}

module.exports = { Collateral };
