// Compiles every contract. Without an argument, writes what comes out to ../compiled;
// with --check, says which of the files there differ and writes nothing.
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
    'p256-probe': { source: 'p256-probe', roots: INTEL },
};

// Code of one build, as a bag of cells, with the hash of its root cell.
async function compile(name) {
    const { source, roots } = BUILDS[name];
    const result = await runTolkCompiler({
        entrypointFileName: `${source}.tolk`,
        fsReadCallback: (file) => fs.readFileSync(path.join(HERE, 'tolk', file), 'utf8'),
        pathMappings: roots,
    });
    if (result.status !== 'ok') {
        throw new Error(`${source}.tolk: ${result.message}`);
    }
    return { boc: Buffer.from(result.codeBoc64, 'base64'), hash: result.codeHashHex.toLowerCase() };
}

async function main(check) {
    const files = new Map();
    let hashes = '';
    for (const name of Object.keys(BUILDS)) {
        const { boc, hash } = await compile(name);
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

main(process.argv[2] === '--check');
