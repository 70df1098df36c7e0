// Compiles every contract. Without an argument, writes what comes out to ../compiled;
// with --check, says which of the files there differ and writes nothing; with --root and
// a key's coordinate in hex, prints Collateral under that root, in base64, for tests.
//
// The root of trust is a file of its own, so that a test build differs from the
// production build in that file alone, and its code hash shows it.

const fs = require('node:fs');
const path = require('node:path');
const { runTolkCompiler } = require('@ton/tolk-js');

const HERE = path.join(__dirname, '..');
const INTEL = { '@root': 'roots/intel' };
const TEST = { '@root': 'roots/test' };

const BUILDS = {
    app: { source: 'app', roots: INTEL },
    channel: { source: 'channel', roots: INTEL },
    collateral: { source: 'collateral', roots: INTEL },
    'collateral-test': { source: 'collateral', roots: TEST },
    market: { source: 'market', roots: INTEL },
    node: { source: 'node', roots: INTEL },
    'p256-probe': { source: 'p256-probe', roots: INTEL },
    registry: { source: 'registry', roots: INTEL },
};

// Code of one build, as a bag of cells, with the hash of its root cell; and the assembly
// that it was made from, which says of each line where it begins.
async function compile({ source, roots }, read = readSource) {
    const result = await runTolkCompiler({
        entrypointFileName: `${source}.tolk`,
        fsReadCallback: read,
        pathMappings: roots,
        withSrcLineComments: true,
    });
    if (result.status !== 'ok') {
        throw new Error(`${source}.tolk: ${result.message}`);
    }
    return {
        boc: Buffer.from(result.codeBoc64, 'base64'),
        hash: result.codeHashHex.toLowerCase(),
        fift: result.fiftCode,
        sources: result.sourcesSnapshot,
    };
}

// Those of a mutant, where one is tested: see mutate.js.
function readSource(file) {
    return fs.readFileSync(path.join(process.env.COCOON_MUTANT ?? HERE, 'tolk', file), 'utf8');
}

async function underRoot(key) {
    const read = (file) =>
        file === 'roots/test/key.tolk' ? `tolk 1.3\nconst ROOT_KEY = 0x${key}\n` : readSource(file);
    const { boc } = await compile(BUILDS['collateral-test'], read);
    if (process.env.COCOON_REACHED) {
        const { keep, twin } = require('./twins');
        const folder = path.dirname(process.env.COCOON_REACHED);
        keep(folder, 'collateral-test', await twin(BUILDS['collateral-test'], read));
    }
    console.log(boc.toString('base64'));
}

async function all(check) {
    const files = new Map();
    let hashes = '';
    for (const name of Object.keys(BUILDS)) {
        const { boc, hash } = await compile(BUILDS[name]);
        files.set(`${name}.boc`, boc);
        hashes += `${hash}  ${name}\n`;
    }
    files.set('HASHES', Buffer.from(hashes));
    let stale = false;
    for (const [file, bytes] of files) {
        const at = path.join(HERE, 'compiled', file);
        if (fs.existsSync(at) && fs.readFileSync(at).equals(bytes)) continue;
        console.log(`${file} ${check ? 'is not what its source compiles to' : 'written'}`);
        stale = true;
        if (!check) fs.writeFileSync(at, bytes);
    }
    process.exitCode = check && stale ? 1 : 0;
}

if (require.main === module) {
    const [option, key] = process.argv.slice(2);
    if (option === '--root') underRoot(key);
    else all(option === '--check');
}

module.exports = { BUILDS, HERE, compile };
