// Mutation testing: changes the sources in one place at a time, and says which changes
// no test notices.
//
//   node tools/mutate.js list                     every mutant, one a line
//   node tools/mutate.js check                    whether mutants.json speaks of mutants
//   node tools/mutate.js run FOLDER [options]
//
//     --minutes N   begins no new mutant after that long (600)
//     --jobs N      mutants at the same time (2)
//     --file NAME   those of one source alone
//     --every N     each Nth of them (1)
//
// FOLDER is what cover.js has filled: a mutant is shown to the tests that come to its line,
// those first that are quick and have noticed others, until one fails. The contracts that
// they deploy keep their addresses and run the mutant: see tvm.js. mutants.json has the
// survivors that are accepted, each with its reason.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { BUILDS, HERE, compile } = require('./compile');
const { each, passes } = require('./tests');

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
    const seen = {};
    const add = (row, count, replacement, change) => {
        const text = [...lines.slice(0, row), ...replacement, ...lines.slice(row + count)].join('\n');
        seen[change] = (seen[change] ?? 0) + 1;
        const again = seen[change] > 1 ? ` (${seen[change]})` : '';
        found.push({ file, line: row + 1, text, name: `${file}: ${change}${again}` });
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
const accepted = () => JSON.parse(fs.readFileSync(ACCEPTED, 'utf8'));

// Compiles a mutant into a folder; false where it is none: it has no code of its own.
async function build(mutant, folder) {
    const read = (file) => file === mutant.file
        ? mutant.text
        : fs.readFileSync(path.join(TOLK, file), 'utf8');
    fs.mkdirSync(path.join(folder, 'compiled'));
    fs.cpSync(TOLK, path.join(folder, 'tolk'), { recursive: true });
    fs.writeFileSync(path.join(folder, 'tolk', mutant.file), mutant.text);
    let differs = false;
    for (const [build, options] of mutant.builds) {
        const { boc } = await compile(options, read).catch(() => ({}));
        if (!boc) return false;
        fs.writeFileSync(path.join(folder, 'compiled', `${build}.boc`), boc);
        differs ||= !fs.readFileSync(path.join(HERE, 'compiled', `${build}.boc`)).equals(boc);
    }
    return differs;
}

async function judge(mutant, tests) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'cocoon-mutant-'));
    try {
        if (!await build(mutant, folder)) return 'no change';
        const promise = (test) => test.seconds / (1 + test.noticed);
        for (const test of [...tests].sort((one, other) => promise(one) - promise(other))) {
            const { passed, hung } = await passes(test, { COCOON_MUTANT: folder });
            if (passed) continue;
            test.noticed += 1;
            return hung ? 'hung' : 'noticed';
        }
        return 'survived';
    } finally {
        fs.rmSync(folder, { recursive: true });
    }
}

// Tests with the lines they come to, and the lines that there are. That the gas is another,
// or that two TVMs agree, says nothing of a mutant.
function readReached(folder) {
    const read = (name) => JSON.parse(fs.readFileSync(path.join(folder, name), 'utf8'));
    const twins = read('twins.json');
    const place = (line) => {
        const [build, number] = line.split(' ');
        return twins[build].places[number];
    };
    const tests = read('reached.json').tests
        .filter(({ program }) => !/^(gas|differential)-/.test(path.basename(program)))
        .map((test) => ({ ...test, noticed: 0, lines: new Set(test.reached.map(place)) }));
    return { tests, lines: new Set(Object.values(twins).flatMap(({ places }) => places)) };
}

// Where the compiler says nothing of a line, those that come to its function; where it is
// in none, all that run a contract with it.
function candidates({ file, line }, { tests, lines }) {
    if (lines.has(`${file}:${line}`)) return tests.filter((test) => test.lines.has(`${file}:${line}`));
    const source = fs.readFileSync(path.join(TOLK, file), 'utf8').split('\n');
    const begins = source.slice(0, line).findLastIndex((text) => /^(get )?fun /.test(text)) + 1;
    const ends = source.findIndex((text, row) => row >= begins && text === '}') + 1;
    const within = Array.from({ length: Math.max(ends - begins, 0) }, (_, index) => `${file}:${begins + index}`);
    const near = tests.filter((test) => within.some((place) => test.lines.has(place)));
    return begins > 0 && line < ends && near.length > 0 ? near : tests.filter((test) => test.lines.size > 0);
}

// Of each source, the builds that it is part of.
async function buildsOf() {
    const of = {};
    for (const [build, options] of Object.entries(BUILDS)) {
        const { sources } = await compile(options);
        for (const { filename } of sources) (of[filename] ??= []).push([build, options]);
    }
    return of;
}

// Those that do not notice that a contract was put in its place as a mutant is.
async function judges(tests, jobs) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'cocoon-mutant-'));
    fs.cpSync(TOLK, path.join(folder, 'tolk'), { recursive: true });
    fs.cpSync(path.join(HERE, 'compiled'), path.join(folder, 'compiled'), { recursive: true });
    const found = [];
    await each(tests.filter(({ reached }) => reached.length > 0), jobs, async (test) => {
        const { passed } = await passes(test, { COCOON_MUTANT: folder });
        if (passed) found.push(test);
        else console.log(`is no judge: ${test.name}`);
    });
    fs.rmSync(folder, { recursive: true });
    return found;
}

async function run(folder, options) {
    const reached = readReached(folder);
    reached.tests = await judges(reached.tests, options.jobs);
    const builds = await buildsOf();
    const files = options.file ? [`${options.file}.tolk`] : sources();
    const todo = files.flatMap(mutants).filter((_, index) => index % options.every === 0);
    const counts = { noticed: 0, hung: 0, survived: 0, 'no change': 0 };
    const survivors = [];
    const left = await each(todo, options.jobs, async (mutant) => {
        const verdict = await judge({ ...mutant, builds: builds[mutant.file] }, candidates(mutant, reached));
        counts[verdict] += 1;
        if (verdict === 'survived') {
            survivors.push(mutant.name);
            console.log(`survived: ${mutant.name} (line ${mutant.line})`);
        }
    }, Date.now() + options.minutes * 60_000);
    console.log([...Object.entries(counts), ['not tried', left]].map(([what, count]) => `${count} ${what}`).join(', '));
    const reasons = accepted();
    process.exitCode = survivors.every((name) => name in reasons) ? 0 : 1;
}

function check() {
    const names = new Set(sources().flatMap(mutants).map(({ name }) => name));
    const stale = Object.keys(accepted()).filter((one) => !names.has(one));
    stale.forEach((one) => console.log(`mutants.json accepts what is no mutant: ${one}`));
    process.exitCode = stale.length > 0 ? 1 : 0;
}

const [command, folder, ...given] = process.argv.slice(2);
const options = { minutes: 600, jobs: 2, every: 1, file: '' };
for (let index = 0; index + 1 < given.length; index += 2) {
    const key = given[index].slice(2);
    options[key] = key === 'file' ? given[index + 1] : Number(given[index + 1]);
}
if (command === 'list') sources().flatMap(mutants).forEach(({ name }) => console.log(name));
else if (command === 'check') check();
else run(path.resolve(folder), options);
