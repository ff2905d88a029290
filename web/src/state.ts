// What is shown, kept in the URL behind "#", so that a view can be linked and the back button works.
import { useEffect, useState } from 'preact/hooks';
import { metric_names } from './transport/transport';

export type ViewName = 'text' | 'heads' | 'matrix' | 'flow' | 'health' | 'live' | 'compare';
export type Tint = 'reads' | 'readers' | 'total' | 'brightness' | 'h2o' | 'snapkv' | 'tova';
export type Theme = 'auto' | 'light' | 'dark';

export interface State {
    view: ViewName;
    source: string;   // '' : the first
    sequence: number; // of the source
    other: string;    // of Compare
    other_sequence: number; // of the other; -1: the first that is not the one shown
    token: number;    // -1: the last
    layer: number;    // -1: all
    head: number;     // -1: all
    reduce: 'mean' | 'max';
    tint: Tint;
    log: boolean;
    hide_first: boolean;
    lines: boolean;
    budget: number;   // share of tokens that stay, of the policies
    x: string;        // metrics of Heads
    y: string;
    c: string;
    span: string;     // "begin-end" of Flow
    rollout: boolean;
    camera: string;   // "x,y,tokens per pixel" of Matrix
    peaks: boolean;   // Matrix: the maximum instead of the mean of a cell
    map: string;
    theme: Theme;
}

const start: State = {
    view: 'text', source: '', sequence: 0, other: '', other_sequence: -1, token: -1, layer: -1, head: -1, reduce: 'mean', tint: 'reads', log: true, hide_first: true,
    lines: true, budget: 0.5, x: 'previous', y: 'first', c: 'entropy', span: '', rollout: false, camera: '', peaks: true, map: 'viridis',
    theme: 'auto',
};

const what_of: Record<string, string> = { other_sequence: 'sequence', x: 'metric', y: 'metric', c: 'metric', reduce: 'way to reduce rows', map: 'colour map' };
const metrics = metric_names as readonly string[];
const allowed: Partial<Record<keyof State, readonly string[]>> = {
    x: metrics, y: metrics, c: metrics, view: ['text', 'heads', 'matrix', 'flow', 'health', 'live', 'compare'],
    reduce: ['mean', 'max'],
    tint: ['reads', 'readers', 'total', 'brightness', 'h2o', 'snapkv', 'tova'],
    theme: ['auto', 'light', 'dark'],
    map: ['viridis', 'cividis', 'grey', 'warm', 'cool'],
};

// Numbers: what `text` says, or undefined where it says nothing that such a number can be.
function number_of(name: string, text: string): number | undefined {
    const v = text.trim() === '' ? NaN : Number(text);
    if (name === 'budget') return v >= 0 ? Math.max(0.02, Math.min(1, v)) : undefined;
    const least = name === 'sequence' ? 0 : name === 'token' ? -Infinity : -1; // tokens count from the end as well
    return Number.isSafeInteger(v) && v >= least ? v : undefined;
}

// Anything may stand in a link: what does not fit is left as it was.
export function parse(hash: string, odd?: (sentence: string) => void): State {
    return { ...start, ...parse_words(hash, odd) };
}

// Only what is said. `odd` is told, in a sentence each, what was said and means nothing.
export function parse_words(hash: string, odd: (sentence: string) => void = () => undefined): Partial<State> {
    const words = new URLSearchParams(hash.replace(/^#/, ''));
    const state: any = {};
    const nothing = (name: string, text: string) => odd(`“${text.length > 40 ? text.slice(0, 40) + '…' : text}” is no ${what_of[name] ?? name}`);
    for (const [name, otherwise] of Object.entries(start)) {
        const text = words.get(name);
        if (text === null) continue;
        if (typeof otherwise === 'boolean') state[name] = text === '1';
        else if (typeof otherwise === 'number') {
            const number = number_of(name, text);
            if (number === undefined) nothing(name, text);
            state[name] = number ?? otherwise;
        } else if (!allowed[name as keyof State] || allowed[name as keyof State]!.includes(text)) state[name] = text.slice(0, 200);
        else nothing(name, text);
    }
    return state;
}

export function format(state: State): string {
    const words = new URLSearchParams();
    for (const [name, otherwise] of Object.entries(start)) {
        const value = (state as any)[name];
        if (value !== otherwise) words.set(name, typeof value === 'boolean' ? (value ? '1' : '0') : String(value));
    }
    const text = words.toString();
    return text ? '#' + text : '#';
}

class Store {
    private state: State = { ...start };
    private in_address = false;
    private listeners = new Set<() => void>();
    private timer = 0;

    // The address of the page says what is shown, from now on. Not of a page that is somebody else's.
    follow_address() {
        this.in_address = true;
        this.state = parse(location.hash, this.find_odd);
        window.addEventListener('hashchange', () => {
            const before = this.odd;
            this.odd = [];
            const next = parse(location.hash, this.find_odd);
            if (before.join() !== this.odd.join()) this.tell();
            if (format(next) === format(this.state)) return;
            this.state = next;
            this.tell();
        });
    }
    get(): State {
        return this.state;
    }
    // What the last link said and means nothing, in sentences.
    odd: string[] = [];
    private find_odd = (sentence: string) => {
        this.odd = [...this.odd, sentence];
    };
    // Shows the nearest that there is, and says why.
    mend(change: Partial<State>, sentence: string) {
        this.find_odd(sentence);
        this.state = { ...this.state, ...change };
        clearTimeout(this.timer);
        if (this.in_address) history.replaceState(null, '', format(this.state)); // no step to come back to
        this.tell();
    }
    put_away_odd() {
        this.odd = [];
        this.tell();
    }
    // A new view is a step of the browser's history; anything less replaces the address.
    set(change: Partial<State>) {
        const step = change.view !== undefined && change.view !== this.state.view;
        this.state = { ...this.state, ...change };
        this.odd = []; // whoever goes on has read it
        clearTimeout(this.timer);
        if (!this.in_address) return this.tell();
        if (step) history.pushState(null, '', format(this.state));
        else {
            const before = location.hash;
            this.timer = window.setTimeout(() => { // a link that was followed meanwhile, and is not looked at yet, stays
                if (location.hash === before) history.replaceState(null, '', format(this.state));
            }, 150);
        }
        this.tell();
    }
    subscribe(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }
    private tell() {
        for (const listener of [...this.listeners]) listener();
    }
}

export const store = new Store();

export function use_state(): State {
    const [state, set] = useState(store.get());
    useEffect(() => store.subscribe(() => set(store.get())), []);
    return state;
}

export function use_odd(): string[] {
    const [odd, set] = useState(store.odd);
    useEffect(() => store.subscribe(() => set(store.odd)), []);
    return odd;
}
