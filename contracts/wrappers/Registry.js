const { Dictionary, SendMode, beginCell, contractAddress } = require('@ton/core');
const { sign } = require('@ton/crypto');
const { code, errors } = require('./code');

const UINT256 = Dictionary.Values.BigUint(256);

const BUILD = {
    serialize: (build, builder) => builder
        .storeUint(build.manifest, 256).storeUint(build.version, 32)
        .storeUint(build.roles, 8).storeUint(build.until, 40),
    parse: (slice) => ({
        manifest: slice.loadUintBig(256),
        version: slice.loadUint(32),
        roles: slice.loadUint(8),
        until: slice.loadUintBig(40),
    }),
};

const CONFIGURATION = {
    serialize: (configuration, builder) => builder
        .storeUint(configuration.model, 256).storeUint(configuration.until, 40),
    parse: (slice) => ({ model: slice.loadUintBig(256), until: slice.loadUintBig(40) }),
};

const FOREVER = (1n << 40n) - 1n;

// What builders decide.
const change = {
    putBuild: (key, build) => {
        const builder = beginCell().storeUint(0x42554c44, 32).storeUint(key, 256);
        BUILD.serialize(build, builder);
        return builder.endCell();
    },
    putConfiguration: (key, configuration) => {
        const builder = beginCell().storeUint(0x434f4e46, 32).storeUint(key, 256);
        CONFIGURATION.serialize(configuration, builder);
        return builder.endCell();
    },
    endBuild: (key, until) => beginCell()
        .storeUint(0x454e4442, 32).storeUint(key, 256).storeUint(until, 40).endCell(),
    cancel: (turn) => beginCell().storeUint(0x434e434c, 32).storeUint(turn, 32).endCell(),
};

class Registry {
    static errors = errors('registry-types', 'RegistryError');

    constructor(address, init) {
        this.address = address;
        this.init = init;
    }

    // Builders are Ed25519 key pairs.
    static create({ collateral, builders, threshold, delay, lifetime }) {
        const keys = Dictionary.empty(Dictionary.Keys.Uint(8), UINT256);
        builders.forEach(({ publicKey }, number) => {
            keys.set(number, BigInt(`0x${publicKey.toString('hex')}`));
        });
        const governance = beginCell().storeUint(threshold, 8).storeUint(delay, 32).storeDict(keys);
        const data = beginCell()
            .storeAddress(collateral).storeUint(0, 32).storeRef(governance.endCell())
            .storeUint(0, 8).storeUint(0, 32).storeUint(0, 32).storeUint(lifetime, 32)
            .storeRef(beginCell().storeUint(0, 3).endCell())
            .storeUint(0, 1)
            .endCell();
        const init = { code: code('registry'), data };
        return new Registry(contractAddress(0, init), init);
    }

    async sendDeploy(provider, via, value) {
        await provider.internal(via, { value, sendMode: SendMode.PAY_GAS_SEPARATELY });
    }

    // An order and who signs it: { number: key pair }.
    async sendDecide(provider, via, value, { turn, validUntil = FOREVER, change, signers, globalId = -239 }) {
        const order = beginCell()
            .storeUint(0x4f524431, 32).storeInt(globalId, 32).storeAddress(this.address)
            .storeUint(turn, 32).storeUint(validUntil, 40).storeRef(change)
            .endCell();
        const signatures = Dictionary.empty(Dictionary.Keys.Uint(8), Dictionary.Values.Buffer(64));
        for (const [number, { secretKey }] of Object.entries(signers)) {
            signatures.set(Number(number), sign(order.hash(), secretKey));
        }
        await provider.internal(via, {
            value,
            body: beginCell()
                .storeUint(0x44454331, 32).storeUint(1, 64).storeRef(order).storeDict(signatures)
                .endCell(),
        });
    }

    async sendApply(provider, via, value, turn) {
        const body = beginCell().storeUint(0x4150504c, 32).storeUint(1, 64).storeUint(turn, 32);
        await provider.internal(via, { value, body: body.endCell() });
    }

    async getState(provider) {
        const { stack } = await provider.get('state', []);
        const state = { collateral: stack.readAddress(), turn: stack.readNumber() };
        stack.skip(5);
        const published = stack.readCell().beginParse();
        const key = Dictionary.Keys.BigUint(256);
        state.builds = published.loadDict(key, BUILD);
        state.configurations = published.loadDict(key, CONFIGURATION);
        return state;
    }
}

module.exports = { FOREVER, Registry, change };
