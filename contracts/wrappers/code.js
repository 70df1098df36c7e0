// Compiled code, and names of exit codes as the sources have them.

const fs = require('node:fs');
const path = require('node:path');
const { Cell } = require('@ton/core');

const HERE = path.join(__dirname, '..');

function code(name) {
    return Cell.fromBoc(fs.readFileSync(path.join(HERE, 'compiled', `${name}.boc`)))[0];
}

// An enum of a source as { name: code }.
function errors(file, name) {
    const source = fs.readFileSync(path.join(HERE, 'tolk', `${file}.tolk`), 'utf8');
    const body = source.split(`enum ${name} {`)[1].split('}')[0];
    const rows = [...body.matchAll(/^\s*(\w+) = (\w+)$/gm)];
    return Object.fromEntries(rows.map(([, key, value]) => [key, Number(value)]));
}

module.exports = { code, errors };
