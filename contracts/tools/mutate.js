// Mutation testing: changes the sources in one place at a time, and says which changes
// no test notices.
//
//   node tools/mutate.js list                  every mutant, one a line
//   node tools/mutate.js check                 whether mutants.json speaks of mutants
//   node tools/mutate.js run [options] -- TEST...
//
//     --minutes N   begins no new mutant after that long (10)
//     --jobs N      mutants at the same time (2)
//     --file NAME   those of one source alone
//     --every N     each Nth of them (1)
//
// TEST is a program that fails when it notices. The contracts that it deploys keep their
// addresses and run the mutant: see tvm.js. mutants.json has the survivors that are
// accepted, each with its reason.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { BUILDS, HERE, compile } = require('./compile');

const TOLK = path.join(HERE, 'tolk');
const ACCEPTED = path.join(HERE, 'mutants.json');

// What is replaced in a statement, each place by itself.
const CHANGES = [
    [/ == /g, ' != '],
    [/ != /g, ' == '],
    [/ < /g, ' <= '],
    [/ <= /g, ' < '],
    [/ > /g, ' >= '],
    [/ >= /g, ' > '],
    [/ & /g, ' | '],
    [/ && /g, ' || '],
    [/ \+ /g, ' - '],
    [/ - /g, ' + '],
    [/\bmin\(/g, 'max('],
    [/\bmax\(/g, 'min('],
    [/\breturn true\b/g, 'return false'],
    [/\breturn false\b/g, 'return true'],
    [/\bSEND_MODE_CARRY_ALL_REMAINING_MESSAGE_VALUE\b/g, 'SEND_MODE_REGULAR'],
];
// Statements that may be forgotten, from their first word to their end.
const FORGOTTEN = /^ +(assert \(|storage\.save\(\)|storage\.\w+ = |[\w.]+\.check\(|thank\(|giveBack\(|report\(|reserveToncoins)/;

// Each with its place, and the whole of the changed source.
function mutants(file) {
    const lines = fs.readFileSync(path.join(TOLK, file), 'utf8').split('\n');
    const found = [];
    const add = (row, count, replacement, change) => {
        const text = [...lines.slice(0, row), ...replacement, ...lines.slice(row + count)].join('\n');
        found.push({ file, line: row + 1, change, text });
    };
    lines.forEach((line, row) => {
        if (/^\s*(\/\/|import|tolk|asm|@)/.test(line) || line.includes('asm "')) return;
        for (const [pattern, by] of CHANGES) {
            for (const { index, 0: what } of line.matchAll(pattern)) {
                const changed = line.slice(0, index) + by + line.slice(index + what.length);
                add(row, 1, [changed], `${line.trim()} => ${changed.trim()}`);
            }
        }
        if (FORGOTTEN.test(line)) {
            const end = lines.slice(row).findIndex((one) => one.trimEnd().endsWith(';'));
            if (end >= 0) add(row, end + 1, [], `${line.trim()} => `);
        }
    });
    return found;
}

const sources = () => fs.readdirSync(TOLK).filter((file) => file.endsWith('.tolk')).sort();
const name = ({ file, change }) => `${file}: ${change}`;
const accepted = () => JSON.parse(fs.readFileSync(ACCEPTED, 'utf8'));

// Compiles a mutant into a folder; false where it is none: it has no code of its own.
async function build(mutant, folder) {
    const read = (file) => file === mutant.file
        ? mutant.text
        : fs.readFileSync(path.join(TOLK, file), 'utf8');
    let differs = false;
    fs.mkdirSync(path.join(folder, 'compiled'), { recursive: true });
    fs.cpSync(TOLK, path.join(folder, 'tolk'), { recursive: true });
    fs.writeFileSync(path.join(folder, 'tolk', mutant.file), mutant.text);
    for (const [build, options] of Object.entries(BUILDS)) {
        const { boc } = await compile(options, read).catch(() => ({}));
        if (!boc) return false;
        fs.writeFileSync(path.join(folder, 'compiled', `${build}.boc`), boc);
        differs ||= !fs.readFileSync(path.join(HERE, 'compiled', `${build}.boc`)).equals(boc);
    }
    return differs;
}

// Whether the test notices; one that hangs has.
function notices(test, folder) {
    return new Promise((resolve) => {
        const child = spawn(test, [], {
            cwd: HERE, stdio: 'ignore', timeout: 300_000, env: { ...process.env, COCOON_MUTANT: folder },
        });
        child.on('exit', (code) => resolve(code !== 0));
        child.on('error', () => resolve(true));
    });
}

async function judge(mutant, tests) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'cocoon-mutant-'));
    try {
        if (!await build(mutant, folder)) return 'none';
        for (const test of tests) {
            if (await notices(test, folder)) return 'noticed';
        }
        return 'survived';
    } finally {
        fs.rmSync(folder, { recursive: true });
    }
}

async function run(options, tests) {
    const files = options.file ? [`${options.file}.tolk`] : sources();
    const todo = files.flatMap(mutants).filter((_, index) => index % options.every === 0);
    const end = Date.now() + options.minutes * 60_000;
    const counts = { none: 0, noticed: 0, survived: 0 };
    const reasons = accepted();
    const survivors = [];
    const all = todo.length;
    const work = async () => {
        while (todo.length > 0 && Date.now() < end) {
            const mutant = todo.shift();
            const verdict = await judge(mutant, tests);
            counts[verdict] += 1;
            if (verdict === 'survived') {
                survivors.push(mutant);
                console.log(`survived: ${name(mutant)} (line ${mutant.line})`);
            }
        }
    };
    await Promise.all(Array.from({ length: options.jobs }, work));
    const left = todo.length > 0 ? `, ${todo.length} of ${all} not tried` : '';
    console.log(`${counts.noticed} noticed, ${counts.survived} survived, ${counts.none} no change${left}`);
    const strange = survivors.filter((mutant) => !(name(mutant) in reasons));
    process.exitCode = strange.length > 0 ? 1 : 0;
}

function check() {
    const names = new Set(sources().flatMap(mutants).map(name));
    const stale = Object.keys(accepted()).filter((one) => !names.has(one));
    stale.forEach((one) => console.log(`mutants.json accepts what is no mutant: ${one}`));
    process.exitCode = stale.length > 0 ? 1 : 0;
}

const [command, ...rest] = process.argv.slice(2);
const [given, tests] = [rest.slice(0, rest.indexOf('--')), rest.slice(rest.indexOf('--') + 1)];
const options = { minutes: 10, jobs: 2, every: 1, file: '' };
for (let index = 0; index + 1 < given.length; index += 2) {
    const key = given[index].slice(2);
    options[key] = key === 'file' ? given[index + 1] : Number(given[index + 1]);
}
if (command === 'list') sources().flatMap(mutants).forEach((mutant) => console.log(name(mutant)));
else if (command === 'check') check();
else run(options, tests);
