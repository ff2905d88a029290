// The questions of a view as paths and words, and the answers' bytes as what they mean. Who carries them is another matter: HTTP, or
// the messages of a notebook.
import { bytes_of_base64 } from './base64';
import { TransportError, metric_names, of_sequence_id, unwanted } from './transport';
import type {
    Ability, Difference, Generation, Health, HeadDetail, HeadMetrics, Info, LiveEvent, Metric, Policy, Scores, Selection, Sequence, Source, Tile, Told,
    Tokens, Transport,
} from './transport';

export type Query = Record<string, string | number>;

function with_selection(query: Query, s: Selection): Query {
    if (s.layer >= 0) query.layer = s.layer;
    if (s.head >= 0) query.head = s.head;
    if (s.reduce !== 'mean') query.reduce = s.reduce;
    return query;
}

function of(id: string, query: Query = {}): Query {
    const { source, sequence } = of_sequence_id(id);
    return { r: source, ...(sequence > 0 ? { s: sequence } : {}), ...query };
}

// A character that is cut at the end of the bytes is left out.
function text_of(base64: string): string {
    return new TextDecoder().decode(bytes_of_base64(base64), { stream: true });
}

export abstract class ApiTransport implements Transport {
    abstract readonly kind: 'server' | 'widget';
    protected has_live = false;
    protected has_records = false;

    // The answer to what the server's /view/api/PATH?WORDS answers, refusals included.
    protected abstract ask(path: string, words: URLSearchParams): Promise<Response>;
    abstract generate(request: Generation, signal: AbortSignal): AsyncIterable<LiveEvent>;
    async stop(_name: string): Promise<void> {}
    async busy(): Promise<boolean | undefined> {
        return undefined;
    }

    can(what: Ability): boolean {
        return what === 'live' ? this.has_live : what === 'record' ? this.has_records : true;
    }
    private async get(path: string, query: Query): Promise<Response> {
        const words = new URLSearchParams();
        for (const [name, value] of Object.entries(query)) words.set(name, String(value));
        const answer = await this.ask(path, words);
        if (answer.ok) return answer;
        throw new TransportError(await sentence_of(answer), answer.status);
    }
    private async json(path: string, query: Query): Promise<any> {
        return (await this.get(path, query)).json();
    }
    private async floats(path: string, query: Query): Promise<Float32Array> {
        return new Float32Array(await (await this.get(path, query)).arrayBuffer());
    }
    // Something that takes long is answered with 202 and how far it is until it is there.
    private async waited(path: string, query: Query, progress?: Told): Promise<Response> {
        for (let wait = 50; ; wait = Math.min(500, wait * 2)) {
            const answer = await this.get(path, query);
            if (answer.status !== 202) return answer;
            if (progress?.((await answer.json()).progress ?? 0) === false) throw new Error(unwanted);
            await new Promise((next) => setTimeout(next, wait));
        }
    }

    async sources(): Promise<Source[]> {
        const body = await this.json('sources', {});
        this.has_live = body.live === true;
        this.has_records = body.records === true;
        return body.sources.map((s: Source) => ({ ...s, words: text_of(s.words ?? '') }));
    }
    async sequences(id: string): Promise<Sequence[]> {
        const { sequences } = await this.json('sequences', { r: of_sequence_id(id).source });
        return sequences.map((s: Sequence) => ({ ...s, words: text_of(s.words) }));
    }
    async info(id: string): Promise<Info> {
        return this.json('info', of(id));
    }
    async tokens(id: string): Promise<Tokens> {
        const body = await this.json('tokens', of(id));
        const pieces = new Map<number, Uint8Array>();
        for (const [token, text] of Object.entries(body.pieces)) pieces.set(Number(token), bytes_of_base64(text as string));
        return {
            ids: Int32Array.from(body.ids), positions: Int32Array.from(body.positions), generated: Uint8Array.from(body.generated),
            verdicts: Uint32Array.from(body.verdicts), pieces,
        };
    }
    row(id: string, token: number, s: Selection) {
        return this.floats('row', with_selection(of(id, { t: token }), s));
    }
    async column(id: string, token: number, s: Selection, progress?: Told) {
        const answer = await this.waited('column', with_selection(of(id, { t: token }), s), progress);
        return new Float32Array(await answer.arrayBuffer());
    }
    async scores(id: string, s: Selection): Promise<Scores> {
        const body = await this.json('scores', with_selection(of(id), s));
        const floats = (name: string) => Float32Array.from(body[name], (v: number | null) => v ?? NaN);
        return {
            total: floats('total'), mean: floats('mean'), window_mean: floats('window_mean'), last: floats('last'),
            brightness: floats('brightness'), n_rows: body.n_rows,
        };
    }
    async prune(id: string, s: Selection, policy: Policy, budget: number): Promise<Uint8Array> {
        const body = await this.json('prune', with_selection(of(id, { policy, budget }), s));
        const kept = new Uint8Array(body.n_tokens);
        for (const token of body.kept) kept[token] = 1;
        return kept;
    }
    async heads(id: string, progress: (fraction: number) => void): Promise<HeadMetrics> {
        const body = await (await this.waited('heads', of(id), progress)).json();
        const values = {} as Record<Metric, Float32Array>;
        for (const name of metric_names) values[name] = Float32Array.from(body.values[name], (v: number | null) => v ?? NaN);
        return { ...body, values };
    }
    head(id: string, layer: number, head: number): Promise<HeadDetail> {
        return this.json('head', of(id, { layer, head }));
    }
    async tile(id: string, s: Selection, level: number, x: number, y: number, progress?: Told): Promise<Tile> {
        const answer = await this.waited('tile', with_selection(of(id, { level, x, y }), s), progress);
        return { cells: new Uint16Array(await answer.arrayBuffer()) };
    }
    health(id: string): Promise<Health> {
        return this.json('health', of(id));
    }
    flow(id: string, s: Selection, begin: number, end: number, rollout: boolean) {
        return rollout ? this.floats('rollout', of(id, { begin, end })) : this.floats('flow', with_selection(of(id, { begin, end }), s));
    }
    async compare(a: string, b: string, progress: (fraction: number) => void): Promise<Difference> {
        const [x, y] = [of_sequence_id(a), of_sequence_id(b)];
        const query = { a: x.source, ...(x.sequence > 0 ? { sa: x.sequence } : {}), b: y.source, ...(y.sequence > 0 ? { sb: y.sequence } : {}) };
        const body = await (await this.waited('compare', query, progress)).json();
        return { ...body, distance: Float32Array.from(body.distance, (v: number | null) => v ?? NaN) };
    }
}

export async function sentence_of(answer: Response): Promise<string> {
    try {
        const body = await answer.json();
        return body.error?.message ?? body.detail?.msg ?? `The server answered ${answer.status}.`;
    } catch {
        return `The server answered ${answer.status}.`;
    }
}
