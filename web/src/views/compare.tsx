// Two recordings, or two sequences of one, that begin with the same tokens, side by side: which heads differ, and what the selected token reads in each.
import { useEffect, useRef, useState } from 'preact/hooks';
import { comparable, most_looked_at } from '../comparable';
import { exact, lut, percent, shade, text_decades } from '../colour';
import { largest, open, shown, use_loaded, use_stale } from '../data';
import type { Opened } from '../data';
import { Choice, Failure, Waiting, counted, is_dark, layer_name } from '../parts';
import { save_csv, saves } from '../save';
import { store, use_state } from '../state';
import { TextPane } from '../text/pane';
import { SequenceChoice, source_line, use_sequences } from '../sequences';
import { sequence_id } from '../transport/transport';
import type { Source } from '../transport/transport';
import { selection_of } from './text';

// `source`: of which `opened` is a sequence. `said`: the other one, where somebody chose it; it may be `source` as well, where that has
// several sequences. Where nobody did, one that can be compared is offered.
export function CompareView({ opened, source, said: other_said, sources }: { opened: Opened; source: Source; said?: Source; sources: Source[] }) {
    const state = use_state();
    const others = sources.filter((s) => s.kind === 'recording' && !s.gone && !s.warm_up && s.id !== source.id);
    const names = others.map((s) => s.id).join('\n');
    const before = useRef<Source>(); // stays when recordings come
    const found = use_loaded(() => other_said ? undefined : comparable(opened, others, before.current), [opened, names, other_said?.id]);
    const known = found.value?.of === opened.id ? found.value : undefined;
    before.current = known?.source;
    const offered = known && (known.source ?? (opened.sequence !== undefined ? source : undefined));
    const other = other_said ?? offered;
    const none = !other_said && known !== undefined && !offered;
    const [fraction, set_fraction] = useState(0);
    const same = other?.id === source.id;
    const shown_here = opened.sequence ?? 0;
    const said = state.other_sequence;
    const sequence = said >= 0 && !(same && said === shown_here) ? said : same && shown_here === 0 ? 1 : 0;
    const wanted = other && sequence_id(other.id, sequence);
    const second = use_loaded(() => wanted && wanted !== opened.id ? open(opened.transport, wanted) : undefined, [opened, wanted]);
    const b = second.value && second.value.id === wanted ? second.value : undefined;
    const sequences = use_sequences(opened.transport, other, b, second.error !== undefined, sequence);
    const difference = use_loaded(() => b ? opened.transport.compare(opened.id, b.id, set_fraction) : undefined, [opened, b]);
    const d = difference.fresh ? difference.value : undefined;
    const common = d?.n_tokens ?? Infinity;
    const part = b !== undefined && (common < opened.n || common < b.n);
    useEffect(() => { // of what both say something is shown first
        if (d && opened.token(store.get().token) >= d.n_tokens) store.set({ token: d.n_tokens - 1 });
    }, [d]);
    const order = d ? Array.from(d.distance, (_, i) => i).filter((i) => Number.isFinite(d.distance[i])).sort((i, j) => d.distance[j] - d.distance[i]) : [];
    const equal = d !== undefined && order.length > 0 && d.distance[order[0]] === 0;
    saves.now = {
        name: `${opened.name}-against-${b?.name ?? ''}`,
        csv: () => d && save_csv(`${opened.name}-against-${b!.name}-heads`, ['layer', 'head', 'distance'],
            order.map((i) => [Math.floor(i / d.n_head), i % d.n_head, d.distance[i]])),
    };
    return (
        <div class="compare-view">
            <div class="controls">
                <Choice label="Against" value={other?.id ?? ''} change={(id) => store.set({ other: id, other_sequence: -1 })}
                    options={sources.filter((s) => s.kind === 'recording' && (s.id !== source.id || opened.sequence !== undefined)).map((s) => [s.id, source_line(s)] as const)} class="recording" />
                <SequenceChoice label="Its sequence" value={sequence} all={sequences.list} but={same ? shown_here : -1}
                    change={(chosen) => store.set({ other: other!.id, other_sequence: chosen })} />
                {equal && <strong class="equal">Nothing differs: every head has the same rows in both.</strong>}
                {d && <span class="faint">{part ? `The same up to token ${common - 1} (${counted(common, 'token')}); from there they part.` : `${counted(common, 'token')}, the same in both.`} Distance: half the sum of |a − b| over a row (0: the same, 1: nothing in common), mean over {part ? 'those tokens' : 'tokens'}</span>}
            </div>
            {none && <Failure message={nothing_to_compare(others.length)} />}
            {(second.error || difference.error) && <Failure message={(second.error ?? difference.error)!} />}
            {!d && !difference.error && !second.error && !none && <Waiting what="Comparing every row" fraction={fraction} />}
            <div class="compare-main">
                <div>
                    {d && <table class="differences">
                        <thead><tr><th>layer</th><th>head</th><th>distance</th></tr></thead>
                        <tbody>{order.map((i) => (
                            <tr key={i} class={state.layer === Math.floor(i / d.n_head) && state.head === i % d.n_head ? 'chosen' : ''}
                                onClick={() => store.set({ layer: Math.floor(i / d.n_head), head: i % d.n_head })}>
                                <td class="number">{layer_name(opened.info.layers, Math.floor(i / d.n_head))}</td><td class="number">{i % d.n_head}</td>
                                <td class="number"><button type="button" aria-pressed={state.layer === Math.floor(i / d.n_head) && state.head === i % d.n_head}>{percent(d.distance[i])}</button></td>
                            </tr>
                        ))}</tbody>
                    </table>}
                </div>
                <Side opened={opened} common={common} />
                {b ? <Side opened={b} common={common} /> : <div />}
            </div>
        </div>
    );
}

function nothing_to_compare(n: number): string {
    const which = n === 1 ? 'The other recording is' : n > most_looked_at ? `The first ${most_looked_at} other recordings are` : 'All other recordings are';
    return `${which} of a model of another shape, or begin${n === 1 ? 's' : ''} with another token: there is nothing to compare.`;
}

// Tokens from `common` on are of this recording alone: no tint, faint.
function Side({ opened, common }: { opened: Opened; common: number }) {
    const state = use_state();
    const place = useRef<HTMLDivElement>(null);
    const pane = useRef<TextPane>();
    const token = opened.token(state.token);
    const row = use_loaded(() => opened.row(token, selection_of(state)), [opened, token, state.layer, state.head, state.reduce]);
    useEffect(() => {
        pane.current = new TextPane(place.current!, { hover: () => undefined, select: (t) => store.set({ token: t }) });
        pane.current.set(opened.runs, (t) => opened.tokens.generated[t] === 1);
        return () => {
            pane.current!.end();
            if (place.current) place.current.textContent = '';
        };
    }, [opened]);
    const stale = use_stale(`${state.layer}/${state.head}/${state.reduce}`, row.fresh);
    useEffect(() => {
        if (!row.value) return;
        const w = shown(row.value, state.hide_first);
        const scale = { largest: largest(w), log: state.log, decades: text_decades };
        const shades = new Float32Array(opened.n);
        for (let j = 0; j < w.length && j < opened.n && j < common; ++j) shades[j] = shade(w[j], scale);
        pane.current!.paint({ shades, lut: lut('warm', is_dark()), apart: common,
            title: (j) => `${j}: ${j < common ? `${percent(row.value![j] ?? NaN)} (${exact(row.value![j] ?? NaN)})` : 'of this recording alone'}` });
        pane.current!.mark(token, false);
    }, [row.value, state.hide_first, state.log, state.theme, opened, common]);
    return (
        <div class="compare-side">
            <h2><bdi>{opened.name}</bdi></h2>
            {row.error && <Failure message={row.error} />}
            {token >= common && <p class="faint">Token {token} is of this recording alone: what it reads cannot be compared.</p>}
            <div ref={place} data-stale={stale ? '' : undefined} role="region" aria-label={`Text of ${opened.name}`} tabIndex={0} />
        </div>
    );
}
