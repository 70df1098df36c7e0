// Twins of the contracts, which say where in the sources they are: see follow.js.
//
// The compiler's assembly says in a comment which line the instructions after it come
// from. For a twin, the assembler's word for comments puts instructions there that say
// which of them it is, and leave all else as it was. So a twin is made of the same sources
// by the same compiler, and its places are known.

const fs = require('node:fs');
const path = require('node:path');
const library = require('@ton/tolk-js/dist/stdlib.tolk.js');
const { BUILDS, compile } = require('./compile');

const ASM = '@fiftlib/Asm.fif';
// In front of instructions, a comment begins with the number of a line. FE20 is DUMP s0,
// 30 is DROP.
const SAYING = `
Asm definitions
variable places  0 places !
{ $>B 8 B>u@ dup 48 >= swap 57 <= and } : numbered?
{ 0 word numbered? { places @ 1+ dup places ! INT x{FE20} @addop x{30} @addop } if
  0 'nop } :: //
Fift definitions
`;

// What it is a twin of, its code, and file and line of its places, which begin at 1.
async function twin(options, read) {
    const { hash, fift, sources } = await compile(options, read);
    const plain = library[ASM];
    library[ASM] += SAYING;
    const { boc } = await compile(options, read).finally(() => { library[ASM] = plain; });
    return { of: hash, code: boc.toString('base64'), places: places(fift, sources) };
}

// Of every build, into a folder.
async function twins(folder) {
    const made = {};
    for (const [build, options] of Object.entries(BUILDS)) {
        made[build] = await twin(options);
        keep(folder, build, made[build]);
    }
    return made;
}

// For follow.js, by the hash of what it is a twin of.
function keep(folder, build, { of, code }) {
    fs.writeFileSync(path.join(folder, `${of}.twin`), JSON.stringify({ build, code }));
}

function places(fift, sources) {
    let begun;
    const found = [null];
    for (const [, line, text] of fift.matchAll(/\/\/ (?:(\d+): )?(.*)$/gm)) {
        begun = /^(\S+\.tolk):\d+$/.exec(text)?.[1] ?? begun;
        if (!line) continue;
        const file = fileOf(sources, Number(line), text, begun);
        found.push(file.startsWith('@stdlib/') ? null : `${file}:${line}`);
    }
    return found;
}

// Which source has this in this line, as all of it or else within it; where several have,
// the one in which the function begins.
function fileOf(sources, line, text, begun) {
    const all = [...Object.entries(library), ...sources.map(({ filename, contents }) => [filename, contents])];
    const lines = all.map(([file, contents]) => [file, contents.split('\n')[line - 1] ?? '']);
    const whole = lines.filter(([, found]) => found.trim().replace(/[;,{ ]+$/, '') === text);
    const files = (whole.length > 0 ? whole : lines.filter(([, found]) => found.includes(text)))
        .map(([file]) => file);
    if (files.length > 1 && files.includes(begun)) return begun;
    if (files.length !== 1) throw new Error(`${files.length} sources have in line ${line}: ${text}`);
    return files[0];
}

module.exports = { keep, twin, twins };
