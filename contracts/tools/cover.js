// Which lines of the sources the tests reach.
//
//   node tools/cover.js FOLDER JOBS TEST...
//
// TEST is a test program; the suite in jest is run too. FOLDER gets twins.json, what each
// test reached, and all of it in reached.json, which mutate.js reads.
//
// A place is where the compiler begins instructions of another line: a branch within a line
// has its own, and so has a helper wherever it is inlined. A line is reached if one of its
// places is. unreached.json has the places that no test reaches, each with the reason;
// another one is an error, and so is a reason for what is reached.

const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { HERE } = require('./compile');
const { each, passes, testsOf } = require('./tests');
const { twins } = require('./twins');

const UNREACHED = path.join(HERE, 'unreached.json');

async function cover(folder, jobs, programs) {
    fs.rmSync(folder, { recursive: true, force: true });
    fs.mkdirSync(folder, { recursive: true });
    const made = await twins(folder);
    fs.writeFileSync(path.join(folder, 'twins.json'), JSON.stringify(made));

    const tests = testsOf(programs);
    const jest = path.join(folder, 'jest');
    execFileSync('npx', ['jest'], { cwd: HERE, stdio: 'pipe', env: { ...process.env, COCOON_REACHED: jest } });
    await each([...tests.keys()], jobs, async (number) => {
        const file = path.join(folder, `${number}`);
        const test = tests[number];
        const { passed, seconds } = await passes(test, { COCOON_REACHED: file });
        if (!passed) throw new Error(`${test.name} does not pass`);
        Object.assign(test, { seconds, reached: read(file) });
    });
    fs.writeFileSync(path.join(folder, 'reached.json'), JSON.stringify({ tests, jest: read(jest) }));
    return show(made, new Set([...tests.flatMap(({ reached }) => reached), ...read(jest)]));
}

const read = (file) => fs.existsSync(file) ? fs.readFileSync(file, 'utf8').trim().split('\n') : [];

// Of each contract its places, of each source its lines; the test build of Collateral is one
// contract with the other.
function show(made, reached) {
    const contracts = new Map();
    const files = new Map();
    const unreached = new Map();
    for (const [build, { places }] of Object.entries(made)) {
        if (['p256-probe', 'collateral-test'].includes(build)) continue;
        const counts = { reached: 0, all: 0 };
        places.forEach((place, number) => {
            if (!place) return;
            const is = [build, `${build}-test`].some((one) => reached.has(`${one} ${number}`));
            const [file, line] = place.split(':');
            const lines = files.get(file) ?? new Map();
            files.set(file, lines.set(line, lines.get(line) || is));
            counts.all += 1;
            counts.reached += is;
            if (!is) unreached.set(nameOf(build, file, line), place);
        });
        contracts.set(build, counts);
    }
    for (const [build, { reached, all }] of contracts) console.log(`${build}: ${reached} of ${all} places`);
    for (const [file, lines] of [...files].sort()) {
        const count = [...lines.values()].filter(Boolean).length;
        console.log(`${file}: ${count} of ${lines.size} lines`);
    }
    const strays = [...reached].filter((line) => line.endsWith('strays'));
    const reasons = JSON.parse(fs.readFileSync(UNREACHED, 'utf8'));
    const wrong = [
        ...strays.map((stray) => `a twin ends otherwise: ${stray}`),
        ...[...unreached].filter(([name]) => !(name in reasons)).map(([name, place]) => `no test reaches ${name} (${place})`),
        ...Object.keys(reasons).filter((name) => !unreached.has(name)).map((name) => `is reached: ${name}`),
    ];
    wrong.forEach((line) => console.log(line));
    return wrong.length === 0;
}

// By what is written there, which does not change with the lines above it.
function nameOf(build, file, line) {
    const text = fs.readFileSync(path.join(HERE, 'tolk', file), 'utf8').split('\n')[line - 1];
    return `${build}, ${file}: ${text.trim()}`;
}

const [folder, jobs, ...programs] = process.argv.slice(2);
cover(path.resolve(folder), Number(jobs), programs).then((done) => { process.exitCode = done ? 0 : 1; });
