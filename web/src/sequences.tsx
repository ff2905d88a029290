// The sequences of a recording: what there is to choose from.
import { useState } from 'preact/hooks';
import { use_loaded } from './data';
import type { Opened } from './data';
import { Choice, counted } from './parts';
import { label } from './text/pieces';
import { of_sequence_id } from './transport/transport';
import type { Info, Sequence, Source, Transport } from './transport/transport';

export interface Sequences {
    list?: Sequence[];  // none: the recording has one, or nobody knows yet
    fresh: boolean;     // that is what there is now
    unknown: boolean;   // whether there are several will be known in a moment
    look: (now: Info) => void; // what the recording was seen to have meanwhile
}

// Those of a source, of which `opened` is one; `failed`: it could not be opened. Asked again as soon as the recording was seen to have
// more, and when another is `wanted`, which may have come since. The list stays while the next one of its sequences is opened.
export function use_sequences(transport: Transport, source: Source | undefined, opened: Opened | undefined, failed: boolean, wanted: number): Sequences {
    const [seen, set_seen] = useState<{ of: string; info: Info }>();
    const id = source?.kind === 'recording' && transport.sequences ? source.id : '';
    const newest = seen && opened && seen.of === id && (seen.info.n_recorded ?? 0) >= (opened.info.n_recorded ?? 0) ? seen.info : opened?.info;
    const n = newest ? newest.n_sequences ?? 1 : failed ? 0 : undefined;
    const loaded = use_loaded(() => {
        if (!id || n === 1) return undefined;
        return n === undefined ? null : transport.sequences!(id).then((list) => ({ id, list }));
    }, [transport, id, n, newest?.n_recorded, wanted]);
    const there = loaded.value?.id === id ? loaded.value.list : undefined;
    const unknown = id !== '' && n !== 1 && !(there && loaded.fresh) && !loaded.error;
    return { list: there, fresh: there !== undefined && loaded.fresh, unknown, look: (info) => set_seen({ of: id, info }) };
}

// Waits until a recording that is being written holds a sequence, or for some seconds.
export async function wait_for_sequence(transport: Transport, source: string, sequence: number) {
    for (let tries = 0; sequence > 0 && transport.sequences && tries < 20; ++tries) {
        const list = await transport.sequences(source).catch(() => []);
        if (list.length > sequence) return;
        await new Promise((next) => setTimeout(next, 150));
    }
}

// In a line: its number, whose beginning it has, how it goes on, how long it is.
function line_of(s: Sequence): string {
    const [called, words] = [label(s.label, 20), label(s.words.trimStart(), 36)];
    const said = (text: string) => (text.trim() === '' ? '' : `${isolated(text)}, `);
    return `${s.id}${s.parent >= 0 ? ` (from ${s.parent}, token ${s.n_shared})` : ''}: ${said(called)}${said(words)}${counted(s.n_tokens, 'token')}`;
}

// Whichever way it is written.
const isolated = (text: string) => `\u2068${text}\u2069`;

// A recording in a list. Names of a server's are long, and tell by their numbers alone: its words stand first.
export function source_line(s: Source): string {
    const words = s.warm_up ? 'the program’s warm-up' : label((s.words ?? '').trim(), 36);
    if (words === '') return s.name;
    return s.name.length <= 24 ? `${s.name}: ${isolated(words)}` : `${isolated(words)} (${s.name})`;
}

export function SequenceChoice({ label: name, value, all, but = -1, change }: {
    label: string; value: number; all?: Sequence[]; but?: number; change: (sequence: number) => void;
}) {
    if (!all || all.length < 2) return null;
    return <Choice label={name} value={String(value)} class="sequence" change={(id) => change(Number(id))}
        options={all.filter((s) => s.id !== but).map((s) => [String(s.id), line_of(s)] as const)} />;
}

// What is shown of another recording, or of another sequence, has no place in this one. Layers and heads are the model's: those of another
// sequence stay.
export const from_its_end = { token: -1, span: '', camera: '' };

export function name_of(source: Source, id: string): string {
    const { sequence } = of_sequence_id(id);
    return sequence > 0 ? `${source.name}, sequence ${sequence}` : source.name;
}
