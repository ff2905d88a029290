// From a chosen span of the answer back to the spans that it read: numbers are the weights, ribbons are as wide as their part of what is
// listed.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { percent } from '../colour';
import { use_loaded } from '../data';
import type { Opened } from '../data';
import { use_keys } from '../keys';
import { Failure, RowsChooser, Switch, Waiting, colour } from '../parts';
import { rows_fields, rows_header, rows_name, save_csv, saves } from '../save';
import { store, use_state } from '../state';
import { visible } from '../text/pieces';
import { selection_of } from './text';

export interface Span {
    begin: number;
    end: number;
    text: string;
}

// Sentences and lines: a span ends behind . ! ? or a line break, and where prompt and answer meet.
export function spans_of(opened: Opened, from: number, to: number): Span[] {
    const spans: Span[] = [];
    let begin = from;
    let text = '';
    for (const run of opened.runs) {
        if (run.first < from || run.last >= to) continue;
        text += run.text;
        const ends = /[.!?。！？]["'”’)]?\s*$|\n$/.test(run.text) || run.last + 1 - begin >= 60;
        const next = opened.runs[opened.run_of[run.last] + 1];
        const blank_next = next !== undefined && next.last < to && next.text !== '' && next.text.trim() === '';
        // Empty lines belong to the span before them.
        if ((ends && !blank_next) || run.last + 1 === to) {
            spans.push({ begin, end: run.last + 1, text });
            begin = run.last + 1;
            text = '';
        }
    }
    if (begin < to) spans.push({ begin, end: to, text }); // a character that lies in tokens on both sides of the end
    return spans;
}

// "12-20" of a link as tokens [begin, end) that have been read for; turned round and cut to what there is, as `said` has it. `first`: the
// first token that a row tells of.
function span_of(text: string, n: number, first: number): { begin: number; end: number; said: string } | undefined {
    const asked = text.match(/^(\d+)-(\d+)$/)?.slice(1).map(Number).sort((a, b) => a - b);
    if (!asked || n < 2) return undefined;
    const begin = Math.max(first, Math.min(asked[0], n - 1));
    const end = Math.max(begin + 1, Math.min(asked[1], n));
    return { begin, end, said: `${begin}-${end}` };
}

export function FlowView({ opened }: { opened: Opened }) {
    const state = use_state();
    const s = selection_of(state);
    const main = useRef<HTMLDivElement>(null);
    const ribbons = useRef<HTMLCanvasElement>(null);
    const { n_prompt } = opened.info;
    const first_answer = n_prompt < opened.n ? n_prompt : Math.max(1, Math.floor(opened.n / 2));
    const answers = useMemo(() => spans_of(opened, first_answer, opened.n), [opened]);
    const first_told = opened.info.layers.some((layer) => layer.both_ways) ? 0 : 1; // an encoder's by its own row
    const asked = span_of(state.span, opened.n, first_told);
    const chosen = asked ?? answers[0] ?? { begin: first_answer, end: opened.n };
    useLayoutEffect(() => {
        if (asked && asked.said !== state.span)
            store.mend({ span: asked.said }, `“${state.span}” is no span inside this recording, whose tokens that were read for are ${first_told} to ${opened.n - 1}: ${asked.begin} to ${asked.end - 1} is shown`);
        else if (!asked && state.span !== '') store.mend({ span: '' }, `“${state.span.slice(0, 40)}” is no span (as 12-20): the first of the answer is shown`);
    }, [state.span, opened]);
    const flow = use_loaded(() => opened.transport.flow(opened.id, s, chosen.begin, chosen.end, state.rollout),
        [opened, state.layer, state.head, state.reduce, chosen.begin, chosen.end, state.rollout]);
    // What looks both ways (an encoder) reads what lies behind the span, too.
    const reach = flow.fresh && flow.value ? flow.value.length : chosen.end;
    const sources = useMemo(() => [...spans_of(opened, 0, Math.min(first_answer, chosen.begin)),
        ...spans_of(opened, first_answer, Math.max(first_answer, chosen.begin)), ...spans_of(opened, chosen.end, reach)],
    [opened, chosen.begin, chosen.end, reach]);
    const can_roll = opened.transport.can('rollout');

    const shares = useMemo(() => {
        if (!flow.fresh || !flow.value) return undefined;
        const w = flow.value;
        const sum = (span: { begin: number; end: number }, from: number) => {
            let total = 0;
            for (let j = Math.max(span.begin, from); j < span.end && j < w.length; ++j) total += w[j];
            return total;
        };
        const from = state.hide_first ? 1 : 0;
        const each = sources.map((span) => sum(span, from));
        return { each, listed: each.reduce((a, b) => a + b, 0), own: sum(chosen, from), first: w[0] };
    }, [flow.value, flow.fresh, sources, state.hide_first]);
    const most = Math.max(...(shares?.each ?? []), 1e-9);

    const place = answers.findIndex((a) => a.begin === chosen.begin && a.end === chosen.end);
    const go = (by: number) => {
        const next = answers[Math.max(0, Math.min(answers.length - 1, place + by))];
        if (next) store.set({ span: `${next.begin}-${next.end}` });
    };
    use_keys('Flow', [
        { keys: ['ArrowDown', 'ArrowRight'], says: 'next span of the answer', run: () => go(1) },
        { keys: ['ArrowUp', 'ArrowLeft'], says: 'span before', run: () => go(-1) },
        ...(can_roll ? [{ keys: ['r'], says: 'rollout', run: () => store.set({ rollout: !store.get().rollout }) }] : []),
    ]);

    const [size, set_size] = useState(0);
    useEffect(() => {
        const observer = new ResizeObserver(() => set_size((v) => v + 1));
        observer.observe(main.current!);
        return () => observer.disconnect();
    }, []);
    useEffect(() => {
        const canvas = ribbons.current!;
        const box = canvas.getBoundingClientRect();
        const ratio = window.devicePixelRatio || 1;
        canvas.width = Math.round(box.width * ratio);
        canvas.height = Math.round(box.height * ratio);
        if (!shares || box.width === 0) return;
        const c = canvas.getContext('2d')!;
        c.scale(ratio, ratio);
        const rect = (selector: string) => main.current!.querySelector(selector)?.getBoundingClientRect();
        const to = rect('.answers .chosen');
        if (!to) return;
        const total = shares.each.reduce((a, b) => a + b, 0) || 1;
        const unit = Math.max(24, to.height) / total;
        let at = to.top - box.top;
        shares.each.forEach((share, i) => {
            const from = rect(`.sources [data-span="${i}"]`);
            const width = share * unit;
            if (!from || width < 0.3) {
                at += width;
                return;
            }
            const y0 = from.top + from.height / 2 - box.top - width / 2;
            c.beginPath();
            c.moveTo(0, y0);
            c.bezierCurveTo(box.width / 2, y0, box.width / 2, at, box.width, at);
            c.lineTo(box.width, at + width);
            c.bezierCurveTo(box.width / 2, at + width, box.width / 2, y0 + width, 0, y0 + width);
            c.fillStyle = colour('warm');
            c.globalAlpha = 0.18 + 0.6 * (share / most);
            c.fill();
            at += width;
        });
    }, [shares, size, state.theme]);

    const name = `${opened.name}-flow-of-${chosen.begin}-${chosen.end}-${state.rollout ? 'rollout' : rows_name(s)}`;
    saves.now = {
        name,
        csv: () => shares && save_csv(name, ['begin', 'end', 'share', 'text', 'of_begin', 'of_end', 'rollout', ...rows_header],
            sources.map((span, i) => [span.begin, span.end, shares.each[i], span.text, chosen.begin, chosen.end, state.rollout ? 1 : 0,
                ...rows_fields(state.rollout ? { layer: -1, head: -1, reduce: 'mean' } : s)]), opened.sequence),
    };
    return (
        <div class="flow-view">
            <div class="controls">
                {!state.rollout && <RowsChooser info={opened.info} />}
                <Switch label="Hide first position" value={state.hide_first} change={(hide_first) => store.set({ hide_first })} />
                {can_roll && <Switch label="Rollout" value={state.rollout} change={(rollout) => store.set({ rollout })} />}
                <span class="faint flow-told">{shares ? <>What tokens {chosen.begin} to {chosen.end - 1} read: {percent(shares.listed)} in the spans below,
                    {' '}{percent(shares.own)} inside the span itself{state.hide_first && <>, {percent(shares.first)} on the first position, which is left out here</>}
                    {!state.rollout && state.reduce === 'max' && (state.layer < 0 || state.head < 0) && <> (sums of maxima, which do not add up to 100 %)</>}</> : ''}</span>
            </div>
            <p class="note">{state.rollout
                ? 'Rollout (Abnar and Zuidema 2020): the mean of each layer’s heads, half and half with the residual stream, multiplied through all layers. It follows where weights point; it knows nothing of values, MLPs or norms, so it is a guess at influence, no proof of it.'
                : `${reach > chosen.end ? 'What these tokens read, which look both ways' : 'What the queries that chose these tokens read'}, averaged over them. A weight says where a head looked; it does not say what it did with what it saw.`}</p>
            {flow.error && <Failure message={flow.error} />}
            {flow.loading && !flow.fresh && <Waiting what="Computing" />}
            <div class="flow-main" ref={main}>
                <div class="sources">
                    <h3>What was read</h3>
                    {sources.map((span, i) => (
                        <div class="flow-span" key={span.begin} data-span={i}>
                            {shares && <span class="share warm-text">{percent(shares.each[i])}</span>}<bdi>{visible(span.text).slice(0, 2000)}</bdi>
                        </div>
                    ))}
                </div>
                <div class="ribbons"><canvas ref={ribbons} role="img" aria-label="Ribbons from what was read to the chosen span; the numbers stand beside the spans" /></div>
                <div class="answers">
                    <p class="faint narrow">Too narrow for ribbons: the numbers beside the spans above are what they would show.</p>
                    <h3>By which part of the answer: choose</h3>
                    {place < 0 && <div class="flow-span chosen"><bdi>{Array.from({ length: Math.min(400, chosen.end - chosen.begin) }, (_, i) => opened.run_of[chosen.begin + i])
                        .filter((r, i, all) => all.indexOf(r) === i).map((r) => visible(opened.runs[r].text)).join('')}</bdi></div>}
                    {answers.map((span, i) => (
                        <button type="button" class={`flow-span${i === place ? ' chosen' : ''}`} key={span.begin} aria-pressed={i === place}
                            onClick={() => store.set({ span: `${span.begin}-${span.end}` })}><bdi>{visible(span.text).slice(0, 2000)}</bdi></button>
                    ))}
                </div>
            </div>
        </div>
    );
}
