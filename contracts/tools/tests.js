// Test programs of Rust, one test of them at a time.

const { execFileSync, spawn } = require('node:child_process');
const { HERE } = require('./compile');

// What they print of themselves, as { program, name }.
function testsOf(programs) {
    return programs.flatMap((program) => execFileSync(program, ['--list', '--format', 'terse'], { encoding: 'utf8' })
        .split('\n')
        .filter((line) => line.endsWith(': test'))
        .map((line) => ({ program, name: line.slice(0, -': test'.length) })));
}

// Whether one passes, and how long it takes; one that hangs does not.
function passes({ program, name }, env) {
    const begun = Date.now();
    return new Promise((resolve) => {
        const child = spawn(program, ['--exact', name], {
            cwd: HERE, stdio: 'ignore', timeout: 300_000, env: { ...process.env, ...env },
        });
        const end = (code, signal) => resolve({
            passed: code === 0, hung: signal !== null, seconds: (Date.now() - begun) / 1000,
        });
        child.on('exit', end);
        child.on('error', () => end(1, null));
    });
}

// Does the work for each, `jobs` at a time, as long as there is time.
async function each(todo, jobs, work, end = Infinity) {
    const left = [...todo];
    const worker = async () => {
        while (left.length > 0 && Date.now() < end) await work(left.shift());
    };
    await Promise.all(Array.from({ length: jobs }, worker));
    return left.length;
}

module.exports = { each, passes, testsOf };
