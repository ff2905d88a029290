// A recording as the views see it: opened once, its texts decoded, its rows remembered while they are of use.
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { runs_of } from './text/pieces';
import type { Run } from './text/pieces';
import { unwanted } from './transport/transport';
import type { Info, Selection, Tokens, Transport } from './transport/transport';

const key_of = (what: string, token: number, s: Selection) => `${what}${token}/${s.layer}/${s.head}/${s.reduce}`;

export class Opened {
    readonly runs: Run[];
    readonly run_of: Int32Array; // token: its run
    private rows = new Map<string, Promise<Float32Array>>();
    private row_in_hand?: Promise<Float32Array>;
    private rows_asked = 0;
    private row_that_waits = ''; // its key
    private column_in_hand?: Promise<Float32Array>;
    private columns_asked = 0;
    private column_awaited = ''; // the key of the one that is not there yet

    constructor(readonly transport: Transport, readonly id: string, readonly info: Info, readonly tokens: Tokens) {
        this.runs = runs_of(tokens.ids, tokens.pieces);
        this.run_of = new Int32Array(tokens.ids.length);
        this.runs.forEach((run, r) => this.run_of.fill(r, run.first, run.last + 1));
    }
    get n(): number {
        return this.tokens.ids.length;
    }
    // Which sequence this is; undefined where the recording has one alone, and nobody need be told.
    get sequence(): number | undefined {
        return (this.info.n_sequences ?? 1) > 1 ? this.info.sequence ?? 0 : undefined;
    }
    // For files that are saved, and headings.
    get name(): string {
        return this.sequence === undefined ? this.info.name : `${this.info.name}-sequence-${this.sequence}`;
    }
    text(token: number): string {
        return this.runs[this.run_of[token]]?.text ?? '';
    }
    // -1 counts from the end, as everywhere in attnscope.
    token(asked: number): number {
        return asked < 0 ? Math.max(0, this.n + asked) : Math.min(asked, this.n - 1);
    }
    row(token: number, s: Selection): Promise<Float32Array> {
        return this.remember('r', token, s, () => this.transport.row(this.id, token, s));
    }
    // For who runs through a text: one row at a time, and of those that wait the newest. Rows that were passed by are not asked for, so
    // that what is shown is never further behind than the row in hand and one more.
    newest_row(token: number, s: Selection): Promise<Float32Array> {
        const key = key_of('r', token, s);
        if (!this.rows.has(key)) {
            this.rows.delete(this.row_that_waits); // whoever comes back to it asks anew
            this.row_that_waits = key;
        }
        return this.remember('r', token, s, () => this.next_row(token, s));
    }
    // What will probably be asked for next: where nobody waits.
    row_ahead(token: number, s: Selection) {
        if (!this.row_in_hand && this.row_that_waits === '') this.newest_row(token, s).catch(() => undefined);
    }
    private async next_row(token: number, s: Selection): Promise<Float32Array> {
        const mine = ++this.rows_asked;
        while (this.row_in_hand) {
            await this.row_in_hand.catch(() => undefined);
            if (mine !== this.rows_asked) throw new Error(unwanted);
        }
        this.row_that_waits = '';
        this.row_in_hand = this.transport.row(this.id, token, s);
        try {
            return await this.row_in_hand;
        } finally {
            this.row_in_hand = undefined;
        }
    }
    column(token: number, s: Selection, progress?: (fraction: number) => void): Promise<Float32Array> {
        const key = key_of('c', token, s);
        if (key !== this.column_awaited && !this.rows.has(key)) {
            this.leave_columns();
            this.column_awaited = key;
        }
        const column = this.remember('c', token, s, () => this.next_column(token, s, progress));
        column.then(() => { if (this.column_awaited === key) this.column_awaited = ''; }, () => undefined);
        return column;
    }
    // Nobody looks at the column that is not there yet: its pass need not go on, and whoever asks for it again asks anew.
    leave_columns() {
        ++this.columns_asked;
        if (this.column_awaited !== '') this.rows.delete(this.column_awaited);
        this.column_awaited = '';
    }
    // One at a time, and of those that wait the newest: the first column of a long recording is a pass through all of it, and a
    // browser that waits for six of them asks for nothing else.
    private async next_column(token: number, s: Selection, progress?: (fraction: number) => void): Promise<Float32Array> {
        const mine = ++this.columns_asked;
        while (this.column_in_hand) {
            await this.column_in_hand.catch(() => undefined);
            if (mine !== this.columns_asked) throw new Error(unwanted);
        }
        const asked = this.transport.column(this.id, token, s, (fraction) => {
            progress?.(fraction);
            return mine === this.columns_asked;
        });
        this.column_in_hand = asked;
        try {
            return await asked;
        } finally {
            this.column_in_hand = undefined;
        }
    }
    // At most 64 rows: memory stays where it is however long somebody looks.
    private remember(what: string, token: number, s: Selection, ask: () => Promise<Float32Array>): Promise<Float32Array> {
        const key = key_of(what, token, s);
        let row = this.rows.get(key);
        if (row) {
            this.rows.delete(key);
        } else {
            row = ask();
            const asked = row;
            row.catch(() => { if (this.rows.get(key) === asked) this.rows.delete(key); });
        }
        this.rows.set(key, row);
        if (this.rows.size > 64) this.rows.delete(this.rows.keys().next().value!);
        return row;
    }
}

export async function open(transport: Transport, id: string): Promise<Opened> {
    const early = ahead?.transport === transport && ahead.id === id ? ahead.opened : undefined;
    ahead = undefined;
    if (early) return early;
    const [info, tokens] = await Promise.all([transport.info(id), transport.tokens(id)]);
    return new Opened(transport, id, info, tokens);
}

// What will be opened is asked for before there is a view to show it: the answer is on its way while the page is drawn.
let ahead: { transport: Transport; id: string; opened: Promise<Opened> } | undefined;
export function open_ahead(transport: Transport, id: string) {
    const opened = open(transport, id);
    opened.catch(() => undefined); // told to who opens it
    ahead = { transport, id, opened };
}

export interface Loaded<T> {
    value?: T;      // perhaps still the answer to what was asked before
    fresh: boolean; // it is the answer to these inputs: numbers under a heading that names them may be shown
    error?: string;
    loading: boolean;
}

// The newest answer to what `ask` asks for, whenever one of `inputs` changes; answers that were overtaken are dropped, or with `passing`
// shown on the way to the next, as not fresh, where only the last input has changed since: who runs through a text sees where he runs.
// The value before stays until the new one is there. `ask` may say undefined: nothing is wanted; or null: not yet.
export function use_loaded<T>(ask: () => Promise<T> | undefined | null, inputs: unknown[], passing = false): Loaded<T> {
    const [state, set] = useState<Omit<Loaded<T>, 'fresh'> & { of?: unknown[] }>({ loading: true });
    const now = useRef({ inputs, asked: 0, shown: 0 }); // the newest question, and how many there were; which one's answer is shown
    useLayoutEffect(() => () => { now.current.inputs = []; }, []);
    useLayoutEffect(() => { // asked at once, not after the next frame
        let current = true;
        const mine = ++now.current.asked;
        now.current.inputs = inputs;
        const asked = ask();
        if (asked === null) {
            set((before) => ({ value: before.value, of: before.of, loading: true }));
            return;
        }
        if (!asked) {
            set({ loading: false });
            return;
        }
        set((before) => ({ value: before.value, of: before.of, loading: true }));
        asked.then(
            (value) => {
                const { shown, inputs: newest } = now.current;
                const on_the_way = passing && mine > shown && newest.length > 0 && inputs.slice(0, -1).every((input, i) => Object.is(input, newest[i]));
                if (!current && !on_the_way) return;
                now.current.shown = mine;
                set((before) => (current ? { value, of: inputs, loading: false } : { ...before, value, of: inputs }));
            },
            (error) => current && set(error?.message === unwanted ? { loading: true } : { error: String(error?.message ?? error), loading: false }),
        );
        return () => {
            current = false;
        };
    }, inputs);
    const fresh = state.value !== undefined && state.of?.length === inputs.length && inputs.every((input, i) => Object.is(input, state.of![i]));
    return { ...state, fresh };
}

// Weights as they are coloured: without the first position, if so chosen. Colours are relative to the largest that is left; numbers stay
// the weights themselves.
export function shown(weights: Float32Array, hide_first: boolean): Float32Array {
    if (!hide_first || weights.length < 2) return weights;
    const out = weights.slice();
    out[0] = 0;
    return out;
}

// Whether colours that are on screen are of another question than the one under which they stand, and that for so long that a person
// sees it. `of` names what they would show, `there` says whether that is what they show.
export function use_stale(of: string, there: boolean): boolean {
    const painted = useRef('');
    if (there) painted.current = of;
    const behind = painted.current !== '' && painted.current !== of;
    const [late, set_late] = useState(false);
    useEffect(() => {
        if (!behind) return set_late(false);
        const timer = setTimeout(() => set_late(true), 120);
        return () => clearTimeout(timer);
    }, [behind]);
    return behind && late;
}

export function top(weights: Float32Array, k: number, from = 0): number[] {
    const best: number[] = [];
    for (let j = from; j < weights.length; ++j) {
        if (!(weights[j] > 0)) continue;
        if (best.length === k && !(weights[j] > weights[best[k - 1]])) continue;
        let at = best.length;
        while (at > 0 && weights[j] > weights[best[at - 1]]) --at;
        best.splice(at, 0, j);
        if (best.length > k) best.pop();
    }
    return best;
}

export function largest(weights: Float32Array, from = 0): number {
    let most = 0;
    for (let j = from; j < weights.length; ++j) if (weights[j] > most) most = weights[j];
    return most;
}
