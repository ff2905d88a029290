// Answers from the file that the page lies in: an exported HTML file, opened from a disk, with nobody to ask.
// The file's packing is described in docs/view.md.
import { bytes_of_base64 } from './base64';
import { packed_head } from './packed';
import type { Packed } from './packed';
import { TransportError, metric_names, tile_size } from './transport';
import type {
    Difference, Health, HeadDetail, HeadMetrics, Info, LiveEvent, Metric, Policy, Scores, Selection, Source, Tile, Tokens, Transport,
} from './transport';

// What the file holds, if there is one.
export function embedded(): Document | undefined {
    return document.getElementById('attnscope-file') ? document : undefined;
}

async function inflate(bytes: Uint8Array): Promise<ArrayBuffer> {
    const stream = new Blob([bytes as BlobPart]).stream().pipeThrough(new DecompressionStream('deflate'));
    return new Response(stream).arrayBuffer();
}

export class FileTransport implements Transport {
    readonly kind = 'file';
    private body: any;
    private mean?: Promise<Float32Array>;       // lower triangle of the mean over all rows, exact
    private heads_held = new Map<number, Promise<Packed>>();

    constructor(private document: Document) {}
    can(): boolean {
        return false;
    }
    private async part(name: string): Promise<ArrayBuffer> {
        const element = this.document.getElementById(`attnscope-${name}`);
        if (!element) throw new TransportError('This part was not exported into the file.');
        return inflate(bytes_of_base64(element.textContent!));
    }
    // Always asked for first.
    async sources(): Promise<Source[]> {
        this.body = JSON.parse(new TextDecoder().decode(await this.part('file')));
        return [{ id: '0', name: this.body.info.name, kind: 'recording' }];
    }
    async info(): Promise<Info> {
        return this.body.info;
    }
    async tokens(): Promise<Tokens> {
        const t = this.body.tokens;
        const pieces = new Map<number, Uint8Array>();
        for (const [token, text] of Object.entries(t.pieces)) pieces.set(Number(token), bytes_of_base64(text as string));
        return { ids: Int32Array.from(t.ids), positions: Int32Array.from(t.positions), generated: Uint8Array.from(t.generated),
            verdicts: Uint32Array.from(t.verdicts), pieces };
    }
    private get n(): number {
        return this.body.info.n_tokens;
    }
    private means(): Promise<Float32Array> {
        this.mean ??= this.part('mean').then((bytes) => new Float32Array(bytes));
        return this.mean;
    }
    private packed(layer: number, head: number): Promise<Packed> {
        const i = layer * this.body.info.n_heads + head;
        let found = this.heads_held.get(i);
        if (!found) {
            found = this.part(`head-${i}`).then((bytes) => packed_head(bytes, this.n, this.body.packing));
            this.heads_held.set(i, found);
            if (this.heads_held.size > 64) this.heads_held.delete(this.heads_held.keys().next().value!);
        }
        return found;
    }
    private chosen(s: Selection): [number, number][] {
        const out: [number, number][] = [];
        for (let l = 0; l < this.body.info.layers.length; ++l) {
            if (s.layer >= 0 && l !== s.layer) continue;
            for (let h = 0; h < this.body.info.layers[l].n_head; ++h) if (s.head < 0 || h === s.head) out.push([l, h]);
        }
        return out;
    }
    // Weight of every pair, (query, key) row after row of the lower triangle: exact for the mean of everything.
    private async triangle(s: Selection): Promise<Float32Array> {
        if (s.layer < 0 && s.head < 0 && s.reduce === 'mean') return this.means();
        const chosen = this.chosen(s);
        const out = new Float32Array((this.n * (this.n + 1)) / 2);
        for (const [l, h] of chosen) {
            const one = await this.packed(l, h);
            for (let q = 0, at = 0; q < this.n; ++q) {
                for (let k = 0; k <= q; ++k, ++at) {
                    const w = one.weight(q, k);
                    if (s.reduce === 'max') out[at] = Math.max(out[at], w);
                    else out[at] += w / chosen.length;
                }
            }
        }
        return out;
    }
    private held?: { key: string; value: Promise<Float32Array> };
    private remembered(s: Selection): Promise<Float32Array> {
        const key = `${s.layer}/${s.head}/${s.reduce}`;
        if (this.held?.key !== key) this.held = { key, value: this.triangle(s) };
        return this.held.value;
    }
    // False: the token was recorded without its queries, and what stands in its place is nothing.
    private has_row(token: number): boolean {
        return this.body.has_rows?.[token] !== 0;
    }
    async row(_: string, token: number, s: Selection): Promise<Float32Array> {
        if (!this.has_row(token)) throw new TransportError(`Token ${token} was recorded without its queries.`);
        const t = await this.remembered(s);
        const at = (token * (token + 1)) / 2;
        return t.slice(at, at + token + 1);
    }
    async column(_: string, token: number, s: Selection): Promise<Float32Array> {
        const t = await this.remembered(s);
        return Float32Array.from({ length: this.n - token },
            (_v, i) => (this.has_row(token + i) ? t[((token + i) * (token + i + 1)) / 2 + token] : NaN));
    }
    async scores(): Promise<Scores> {
        if (this.body.scores.n_rows === 0) throw new TransportError('There are no scores: no row that they would be of was recorded.');
        const floats = (name: string) => Float32Array.from(this.body.scores[name]);
        return { total: floats('total'), mean: floats('mean'), window_mean: floats('window_mean'), last: floats('last'),
            brightness: floats('brightness'), n_rows: this.body.scores.n_rows };
    }
    // The policies of prune.h, one token a chunk.
    async prune(_: string, _s: Selection, policy: Policy, budget: number): Promise<Uint8Array> {
        const all = await this.scores();
        const recent = policy === 'h2o' ? Math.floor(budget / 2) : policy === 'snapkv' ? Math.min(this.body.scores.window_rows, budget) : 0;
        let score: ArrayLike<number> = policy === 'brightness' ? all.brightness : policy === 'h2o' ? all.total : policy === 'tova' ? all.last : all.window_mean;
        if (policy === 'snapkv') score = smoothed(score);
        const kept = new Uint8Array(this.n).fill(1);
        const leaving = Array.from({ length: this.n }, (_v, i) => i).filter((i) => i < this.n - recent).sort((a, b) => score[a] - score[b] || a - b);
        for (const token of leaving.slice(0, Math.max(0, this.n - budget))) kept[token] = 0;
        return kept;
    }
    async heads(): Promise<HeadMetrics> {
        const values = {} as Record<Metric, Float32Array>;
        for (const name of metric_names) values[name] = Float32Array.from(this.body.heads.values[name], (v: number | null) => v ?? NaN);
        return { ...this.body.heads, values };
    }
    async head(_: string, layer: number, head: number): Promise<HeadDetail> {
        const detail = this.body.details[layer * this.body.info.n_heads + head];
        if (!detail) throw new TransportError('There is no such head.');
        return detail;
    }
    async tile(_: string, s: Selection, level: number, x: number, y: number): Promise<Tile> {
        const t = await this.remembered(s);
        const cells = new Uint16Array(2 * tile_size * tile_size);
        const side = 2 ** level;
        for (let r = 0; r < tile_size; ++r) {
            for (let c = 0; c < tile_size; ++c) {
                let [sum, most] = [0, 0];
                for (let q = (y * tile_size + r) * side; q < (y * tile_size + r + 1) * side && q < this.n; ++q) {
                    for (let k = (x * tile_size + c) * side; k < (x * tile_size + c + 1) * side && k <= q; ++k) {
                        const w = t[(q * (q + 1)) / 2 + k];
                        sum += w;
                        if (w > most) most = w;
                    }
                }
                cells[2 * (r * tile_size + c)] = half(sum / (side * side));
                cells[2 * (r * tile_size + c) + 1] = half(most);
            }
        }
        return { cells };
    }
    async health(): Promise<Health> {
        return this.body.health;
    }
    async flow(_: string, s: Selection, begin: number, end: number): Promise<Float32Array> {
        const t = await this.remembered(s);
        const out = new Float32Array(end);
        const rows = Array.from({ length: end - begin }, (_v, i) => begin - 1 + i).filter((i) => this.has_row(i));
        if (rows.length === 0) throw new TransportError('None of these tokens was chosen by a row that was recorded.');
        for (const i of rows) {
            for (let k = 0; k <= i; ++k) out[k] += t[(i * (i + 1)) / 2 + k] / rows.length;
        }
        return out;
    }
    async compare(): Promise<Difference> {
        throw new TransportError('An exported file holds one recording.');
    }
    async *generate(): AsyncIterable<LiveEvent> {
        throw new TransportError('An exported file has no model.');
    }
    async stop(): Promise<void> {}
    async busy(): Promise<undefined> {
        return undefined;
    }
}

// SnapKV's mean over 5 neighbours, zeros beyond the ends.
function smoothed(score: ArrayLike<number>): Float32Array {
    return Float32Array.from({ length: score.length }, (_, i) => {
        let sum = 0;
        for (let j = i - 2; j <= i + 2; ++j) sum += score[j] ?? 0;
        return sum / 5;
    });
}

const one = new Float32Array(1);
const bits = new Uint32Array(one.buffer);

// A weight (0 to 1, or a little more) as IEEE binary16, truncated below its last bit: enough for a colour.
export function half(value: number): number {
    one[0] = value;
    const b = bits[0];
    const exponent = ((b >> 23) & 0xff) - 112;
    if (exponent >= 31) return 0x7bff;
    if (exponent > 0) return (exponent << 10) | ((b >> 13) & 0x3ff);
    if (exponent < -10) return 0;
    return ((b & 0x7fffff) | 0x800000) >> (14 - exponent);
}
