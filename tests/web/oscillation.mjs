// The oscillation that docs/oscillation.md begins with, made again after the figures that are known of it, as a capture that
// `attnscope diagnose` and `attnscope view` read: 387 tokens of 28 layers x 28 heads, 182 flips between weights (sum 784) and raw
// scores (-230 to 190, sum about -881,000), every layer a copy of one. Columns are fewer than there were: 64.
//   node oscillation.mjs OUT.npy
import { closeSync, openSync, writeSync } from 'node:fs';

const [n, layers, heads, width, flips] = [387, 28, 28, 64, 182];
let seed = 20251;
const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;

const borders = Array.from({ length: n - 1 }, (_, i) => i + 1);
for (let i = borders.length - 1; i > 0; --i) {
    const j = Math.floor(random() * (i + 1));
    [borders[i], borders[j]] = [borders[j], borders[i]];
}
const flip_at = new Set(borders.slice(0, flips));

const file = openSync(process.argv[2], 'w');
const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${n}, ${layers}, ${heads}, ${width}), }`.padEnd(118 - 1) + '\n';
writeSync(file, Buffer.concat([Buffer.from('\x93NUMPY\x01\x00', 'latin1'), Buffer.from([118, 0]), Buffer.from(header, 'latin1')]));
const one = new Float32Array(heads * width); // the layer that is left
for (let token = 0, raw = false; token < n; ++token) {
    if (flip_at.has(token)) raw = !raw;
    for (let h = 0; h < heads; ++h) {
        const row = one.subarray(h * width, (h + 1) * width);
        if (raw) {
            for (let j = 0; j < width; ++j) {
                const normal = Math.sqrt(-2 * Math.log(random() + 1e-12)) * Math.cos(2 * Math.PI * random());
                row[j] = Math.max(-230, Math.min(190, -17.56 + 62 * normal));
            }
        } else {
            let sum = 0;
            for (let j = 0; j < width; ++j) sum += row[j] = j === 0 ? 20 * random() : random() ** 8;
            for (let j = 0; j < width; ++j) row[j] /= sum;
        }
    }
    for (let layer = 0; layer < layers; ++layer) writeSync(file, Buffer.from(one.buffer));
}
closeSync(file);
