// What the views ask for, whoever answers: a server, the file that the page lies in, or the host of a widget.
// Views know this interface only. Everything is asked for when it is shown, never before.
//
// `id` is that of a source, or of one of its sequences: sequence_id() below.
// Words: a *token* is an index 0, 1, 2, ... into the recording; a row is what one token reads, a column who reads it.

export type SourceKind = 'recording' | 'capture';

export interface Source {
    id: string;
    name: string;
    kind: SourceKind;
    of_server?: boolean; // recorded by the server, for whichever client asked
    gone?: boolean;      // its file is no longer there
    words?: string;      // by which a person knows it: with which the user's last turn begins, or the text
    warm_up?: boolean;   // it holds what a program decoded before anybody asked, and nothing else
}

export interface Layer {
    index?: number;  // the recording's number, its place in the list: what a selection means
    layer: number;   // the model's number: an encoder and its decoder count each for themselves
    n_head: number;  // 0 where the layer has no attention
    n_head_kv: number;
    role?: string;   // of an encoder with a decoder: 'encoder', 'decoder' or 'cross'; '' and none: all tokens have rows here
    both_ways?: boolean; // its tokens see later ones, too (an encoder's): those before a token may read it
    absent: string;  // why there is nothing, in words
}

export interface Info {
    name: string;
    kind: SourceKind;
    model: string;
    architecture: string;
    created: string;
    writer: string;
    engine: string;
    complete: boolean; // closed properly; false: still being written, or its writer died
    notice: string;    // what cannot be seen and why
    n_tokens: number;
    n_prompt: number;
    n_heads: number;   // of the layer with most
    layers: Layer[];
    weights: string;   // how exact the weights of this transport are, in words; empty: exact
    sequence?: number;    // which one this is; none: 0
    n_sequences?: number; // that its recording has; none: 1
    n_recorded?: number;  // tokens of all of them, each once
}

// A line of text of a recording. It may go on from another's beginning, its parent's.
export interface Sequence {
    id: number;
    parent: number;   // -1: none
    n_shared: number; // tokens that are the parent's
    n_tokens: number; // those among them
    label: string;    // what the program that was captured calls it; may be empty
    words: string;    // of its own part: with which the user's last turn begins, or the text
}

// Questions name a source by its id, which means its sequence 0, or another sequence of it by this.
export function sequence_id(source: string, sequence: number): string {
    return sequence > 0 ? `${source}#${sequence}` : source;
}
export function of_sequence_id(id: string): { source: string; sequence: number } {
    const [, source, sequence] = id.match(/^(.*)#(\d+)$/s) ?? [id, id, '0'];
    return { source, sequence: Number(sequence) };
}

export interface Tokens {
    ids: Int32Array;
    positions: Int32Array;
    generated: Uint8Array;        // 1: generated, 0: prompt
    verdicts: Uint32Array;        // bits, 0: nothing wrong
    pieces: Map<number, Uint8Array>; // bytes of a token id: not always whole characters
}

// Which rows count. -1: all of them.
export interface Selection {
    layer: number;
    head: number;
    reduce: 'mean' | 'max';
}

export const metric_names = ['self', 'previous', 'first', 'local', 'entropy', 'distance', 'distance_variance', 'induction',
    'retrieval'] as const;
export type Metric = typeof metric_names[number];

export interface HeadMetrics {
    n_layer: number;
    n_head: number;
    n_rows: number;                         // rows that were averaged, per head
    values: Record<Metric, Float32Array>;   // (n_layer, n_head); NaN where there is no such head
    kinds: string[];                        // (n_layer, n_head): name of the kind, or ''
    rules: Record<string, string>;          // kind: the rule that names it
}

export interface HeadDetail {
    strongest: { query: number; key: number; weight: number }[];
    queries: { token: number; weight: number }[]; // vocabulary ids, by the mean of their rows' largest weight
    keys: { token: number; weight: number }[];    // by what they receive
    distance: number[];                           // share of the weight at distance [2^(i-1), 2^i), the first: 0
    skips_first: boolean;                         // `strongest`, `keys`: the first position was left out
}

export interface Scores { // NaN of tokens that no selected layer can look at
    total: Float32Array;
    mean: Float32Array;
    window_mean: Float32Array;
    last: Float32Array;
    brightness: Float32Array;
    n_rows: number;
}

export type Policy = 'brightness' | 'h2o' | 'snapkv' | 'tova';

// 256 x 256 cells, (query, key), each the mean and the maximum of 2^level x 2^level weights.
export interface Tile {
    cells: Uint16Array; // half floats: mean, max, mean, max, ...; empty where all of them are 0
}
export const tile_size = 256;

export interface HealthFrame {
    index: number;
    verdict: string;     // "ok", or what is wrong
    ratio: number;       // worst error over its tolerance; -1: no witness
}
export interface CaptureFrame {
    number: number;
    kind: string;        // "probabilities", "scores", ...
    min: number;
    max: number;
    sum: number;
    distinct_layers: number;
    n_layer: number;
    keep: string;
    repeat: number;      // the token whose data this repeats; -1: none
}
export interface Health {
    good: boolean;
    summary: string;
    frames: HealthFrame[];               // of a recording
    witnessed: { layer: number; head: number; ratio: number; n: number }[];
    capture: CaptureFrame[];             // of somebody else's capture
    findings: { cause: string; text: string[]; keep: string; fix: string; undecided?: string }[];
    damage: string;
}

export interface Difference {
    n_layer: number;
    n_head: number;
    n_tokens: number;
    distance: Float32Array; // (n_layer, n_head): mean over tokens of half the sum of |a - b|
}

export interface Generation {
    prompt: string;
    chat: boolean;
    max_tokens: number;
    temperature: number;
    record: boolean;      // only where the transport can
    name: string;         // by which stop() finds it
}
export interface LiveEvent {
    type: 'prompt' | 'token' | 'done';
    token?: number;
    text?: string;
    row?: Float32Array;   // what the query that chose this token read
    verdict?: string;
    finish?: string;
    recording?: string;   // the source that holds this answer, once it is done
    sequence?: number;    // and which one of it; none: 0
    pieces?: { id: number; text: string }[]; // of the prompt
}

// Told how far an answer is. What returns false wants it no more: the answer is then an Error `unwanted`.
export type Told = (fraction: number) => boolean | void;
export const unwanted = 'nobody waits for this any more';

export type Ability = 'live' | 'record' | 'compare' | 'rollout';

// Of a server that asks who may look.
export interface Key {
    refused: boolean;             // the newest question was refused for want of one, or of the right one
    given: () => boolean;         // somebody gave one
    give: (secret: string) => void;
    changed?: () => void;         // is called when one was given
}

export interface Transport {
    readonly kind: 'server' | 'file' | 'widget';
    readonly key?: Key;
    // False: needs a computation that this transport has nobody for (an exported file has no live view).
    can(what: Ability): boolean;
    sources(): Promise<Source[]>;
    sequences?(id: string): Promise<Sequence[]>; // of a source, by number; asked for where `n_sequences` is more than 1
    info(id: string): Promise<Info>;
    tokens(id: string): Promise<Tokens>;
    row(id: string, token: number, selection: Selection): Promise<Float32Array>;
    // Element i: the weight that token `token` + i gives to `token`; NaN where it has no such row.
    // The first of a selection may be a pass through the recording.
    column(id: string, token: number, selection: Selection, progress?: Told): Promise<Float32Array>;
    scores(id: string, selection: Selection): Promise<Scores>;
    prune(id: string, selection: Selection, policy: Policy, budget: number): Promise<Uint8Array>; // 1: stays
    heads(id: string, progress: (fraction: number) => void): Promise<HeadMetrics>;
    head(id: string, layer: number, head: number): Promise<HeadDetail>;
    tile(id: string, selection: Selection, level: number, x: number, y: number, progress?: Told): Promise<Tile>;
    health(id: string): Promise<Health>;
    // The mean of the rows that chose tokens [begin, end), or of their own where they look both ways (an encoder's), summed over each
    // source token: those before `end`, and those behind it where the rows see them. With `rollout`, through all layers.
    flow(id: string, selection: Selection, begin: number, end: number, rollout: boolean): Promise<Float32Array>;
    compare(a: string, b: string, progress: (fraction: number) => void): Promise<Difference>;
    generate(request: Generation, signal: AbortSignal): AsyncIterable<LiveEvent>;
    stop(name: string): Promise<void>; // a generation, which then ends in order: its recording is closed
    // Whether the model writes, for whomever; undefined: nobody knows.
    busy(): Promise<boolean | undefined>;
}

// A refusal with a sentence for the reader.
export class TransportError extends Error {
    constructor(message: string, readonly status = 0) {
        super(message);
    }
}
