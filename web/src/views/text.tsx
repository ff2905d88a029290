// The whole conversation, each token tinted by what it gets. Hover or keys move the selected token.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { exact, lut, percent, shade, text_decades } from '../colour';
import type { MapName, Scale } from '../colour';
import { largest, shown, top, use_loaded, use_stale } from '../data';
import type { Opened } from '../data';
import { Choice, Drawing, Failure, Legend, RowsChooser, Switch, Waiting, colour, is_dark } from '../parts';
import { rows_fields, rows_header, rows_name, save_csv, saves } from '../save';
import { store, use_state } from '../state';
import type { Tint } from '../state';
import { label } from '../text/pieces';
import { TextPane } from '../text/pane';
import type { Line } from '../text/pane';
import type { Policy, Selection } from '../transport/transport';

export const tints: readonly (readonly [Tint, string])[] = [
    ['reads', 'what the selected token reads'], ['readers', 'who reads the selected token'], ['total', 'total over the generation'],
    ['brightness', 'brightness (Halo Weave)'], ['h2o', 'H2O'], ['snapkv', 'SnapKV'], ['tova', 'TOVA'],
];
const policies: Tint[] = ['brightness', 'h2o', 'snapkv', 'tova'];
const n_lines = 8;

export function selection_of(state: { layer: number; head: number; reduce: 'mean' | 'max' }): Selection {
    return { layer: state.layer, head: state.head, reduce: state.reduce };
}

export function TextView({ opened }: { opened: Opened }) {
    const state = use_state();
    const place = useRef<HTMLDivElement>(null);
    const pane = useRef<TextPane>();
    const [hover, set_hover] = useState(-1);
    const [pass, set_pass] = useState(0); // of the first column: how far it is
    const selected = opened.token(state.token);
    const focus = hover >= 0 ? hover : selected;
    const s = selection_of(state);
    const rows_key = [opened, state.layer, state.head, state.reduce];
    const by_policy = policies.includes(state.tint);

    const row = use_loaded(() => opened.newest_row(focus, s).then((weights) => ({ token: focus, weights })), [...rows_key, focus], true);
    const row_there = row.fresh || row.error !== undefined;
    // After the row: the first column of a long recording is a pass through it, and what is read comes first.
    const column = use_loaded(() => (!row_there ? null : opened.column(focus, s, set_pass).then((weights) => ({ token: focus, weights }))),
        [...rows_key, focus, row_there]);
    useEffect(() => set_hover(-1), [state.token]); // keys move on from where a resting pointer was
    // The next token in the direction of the last step is asked for ahead, so that stepping does not wait.
    const before = useRef(focus);
    const direction = useRef(-1);
    if (before.current !== focus) {
        direction.current = focus > before.current ? 1 : -1;
        before.current = focus;
    }
    useEffect(() => {
        if (!row.fresh || hover >= 0) return;
        const next = focus + direction.current;
        if (next >= 0 && next < opened.n) opened.row_ahead(next, s);
    }, [...rows_key, focus, row.fresh, hover]);
    const scores = use_loaded(() => state.tint === 'total' || by_policy ? opened.transport.scores(opened.id, s) : undefined,
        [...rows_key, state.tint === 'total' || by_policy]);
    const budget = Math.max(1, Math.round(state.budget * opened.n));
    const kept = use_loaded(() => by_policy ? opened.transport.prune(opened.id, s, state.tint as Policy, budget) : undefined,
        [...rows_key, state.tint, budget]);

    // What is made by hand is there in the same frame as the rest.
    useLayoutEffect(() => {
        pane.current = new TextPane(place.current!, { hover: set_hover, select: (token) => store.set({ token }) });
        return () => {
            pane.current!.end();
            opened.leave_columns();
        };
    }, []);
    useLayoutEffect(() => pane.current!.set(opened.runs, (token) => opened.tokens.generated[token] === 1), [opened]);

    const all_weights = useMemo(() => { // the first position among them
        if (state.tint === 'reads') return row.value?.weights;
        if (state.tint === 'readers') {
            if (!column.value) return undefined;
            const { token, weights } = column.value;
            const all = new Float32Array(opened.n);
            all.set(weights.subarray(0, opened.n - token), token);
            // A column begins with its token: in an encoder those before it read it as well, and how much is not asked.
            if (opened.info.layers.some((layer) => layer.both_ways)) all.fill(NaN, 0, token);
            return all;
        }
        if (!scores.value) return undefined;
        const of: Record<string, Float32Array> = {
            total: scores.value.total, brightness: scores.value.brightness, h2o: scores.value.total, snapkv: scores.value.window_mean,
            tova: scores.value.last,
        };
        const all = new Float32Array(opened.n);
        all.set(of[state.tint].subarray(0, opened.n));
        return all;
    }, [state.tint, row.value, column.value, scores.value, opened]);
    const weights = useMemo(() => all_weights && (state.tint === 'readers' ? all_weights : shown(all_weights, state.hide_first)),
        [all_weights, state.tint, state.hide_first]);

    const fresh = weights && (state.tint === 'reads' ? row.fresh : state.tint === 'readers' ? column.fresh : scores.fresh);

    const stale = use_stale(`${state.tint}/${state.layer}/${state.head}/${state.reduce}`, !!fresh);

    // Sums over many rows are no shares of one.
    const sums = state.tint === 'brightness' || state.tint === 'total' || state.tint === 'h2o';
    const unit = (w: number, digits: number) => (sums ? String(Number(w.toPrecision(digits))) : percent(w));
    const scale: Scale = { largest: weights ? largest(weights) : 0, log: state.log, decades: text_decades };
    const map: MapName = state.tint === 'readers' ? 'cool' : 'warm';
    useLayoutEffect(() => {
        if (!weights) return;
        const shades = new Float32Array(opened.n);
        for (let j = 0; j < weights.length && j < opened.n; ++j) shades[j] = shade(weights[j], scale);
        pane.current!.paint({ shades, lut: lut(map, is_dark()), kept: by_policy ? kept.value : undefined,
            title: (j) => `${j}: ${j >= weights.length ? 'later' : sums ? exact(all_weights![j]) : `${percent(all_weights![j])} (${exact(all_weights![j])})`}` });
    }, [weights, state.log, state.theme, kept.value, by_policy, opened]);
    useLayoutEffect(() => pane.current!.mark(focus, hover < 0), [focus, hover, opened]);

    // Numbers stand under the token whose they are, until those of the next are there.
    const read = row.value;
    const later = column.fresh ? column.value : undefined;
    const reads = useMemo(() => (read ? top(read.weights, n_lines, state.hide_first ? 1 : 0) : []), [read, state.hide_first]);
    const readers = useMemo(() => (later ? top(later.weights, n_lines, 1).map((i) => i + later.token) : []), [later]);
    useLayoutEffect(() => {
        const lines: Line[] = [];
        if (state.lines && read && row.fresh) {
            const most = Math.max(...reads.map((j) => read.weights[j]), 1e-9);
            for (const j of reads) lines.push({ from: read.token, to: j, strength: read.weights[j] / most, colour: colour('warm') });
        }
        if (state.lines && later) {
            const most = Math.max(...readers.map((i) => later.weights[i - later.token]), 1e-9);
            for (const i of readers) {
                lines.push({ from: i, to: later.token, strength: later.weights[i - later.token] / most, colour: colour('cool') });
            }
        }
        pane.current!.draw(lines);
    }, [read, row.fresh, later, state.lines, state.hide_first, state.theme]);

    const of_token = state.tint === 'reads' || state.tint === 'readers';
    const name = `${opened.name}${of_token ? `-token-${focus}` : ''}${state.tint === 'reads' ? '' : `-${state.tint}`}-${rows_name(s)}`;
    saves.now = {
        name,
        csv: () => all_weights && fresh && save_csv(name, ['token', 'position', 'id', 'text', 'tint', 'of', ...rows_header, 'value'],
            Array.from(all_weights, (w, j) => [j, opened.tokens.positions[j], opened.tokens.ids[j], opened.text(j), state.tint, of_token ? focus : '',
                ...rows_fields(s), w]), opened.sequence),
    };

    const error = row.error ?? column.error ?? scores.error ?? kept.error;
    return (
        <div class="text-view">
            <div class="controls">
                <Choice label="Tint" value={state.tint} options={tints} change={(tint) => store.set({ tint })} />
                <RowsChooser info={opened.info} />
                <Switch label="Log scale" value={state.log} change={(log) => store.set({ log })} />
                <Switch label="Hide first position" value={state.hide_first} change={(hide_first) => store.set({ hide_first })} />
                <Switch label="Lines" value={state.lines} change={(lines) => store.set({ lines })} />
                {by_policy && <label class="control">Budget
                    <input type="range" min={0.02} max={1} step={0.01} value={state.budget} aria-valuetext={`${budget} tokens`}
                        onInput={(event) => store.set({ budget: Number(event.currentTarget.value) })} />
                    <output>{budget} of {opened.n} tokens stay</output></label>}
            </div>
            {error && <Failure message={error} />}
            <div class="text-main">
                <div ref={place} class="text-place" tabIndex={0} role="region" aria-label="Text, tinted by attention" data-stale={stale ? '' : undefined} data-ready={fresh ? focus : ''} data-shown={row.value?.token} />
                <aside class="side" aria-label="Selected token">
                    <Inspector opened={opened} token={read?.token ?? focus} reads={reads} readers={readers} column={later?.weights} pass={pass}
                        row={row.fresh || read?.token !== focus ? read?.weights : undefined} />
                    {stale && <p class="waiting computing" role="status">computing {tints.find(([t]) => t === state.tint)![1]} …</p>}
                    {weights && !stale && <Legend map={map} scale={scale} number={(w) => unit(w, 3)} what={tints.find(([t]) => t === state.tint)![1] + (sums ? ' (sum of weights)' : '')} />}
                </aside>
            </div>
        </div>
    );
}

function Inspector({ opened, token, reads, readers, row, column, pass }: {
    opened: Opened; token: number; reads: number[]; readers: number[]; row?: Float32Array; column?: Float32Array; pass: number;
}) {
    const t = opened.tokens;
    const table = (tokens: number[], weight: (token: number) => number, what: string, none: string) => (
        <table class={what}>
            <tbody>
                {tokens.length === 0 && <tr><td class="none">{none}</td></tr>}
                {tokens.map((j) => (
                    <tr key={j}>
                        <td class="number">{percent(weight(j))}</td>
                        <td class="number faint">{j}</td>
                        <td class="piece"><button type="button" onClick={() => store.set({ token: j })}><bdi>{label(opened.text(j))}</bdi></button></td>
                    </tr>
                ))}
            </tbody>
        </table>
    );
    return (
        <>
            <h2><bdi>{label(opened.text(token))}</bdi></h2>
            <p class="faint">token {token} · position {t.positions[token]} · id {t.ids[token]} · {t.generated[token] ? 'generated' : 'prompt'}
                {t.verdicts[token] !== 0 && <strong class="bad"> · not proven good: see Health</strong>}</p>
            <h3 class="warm">Reads</h3>
            {row && table(reads, (j) => row[j] ?? NaN, 'reads', 'nothing')}
            {row && <p class="faint">first position: <span class="first-share">{percent(row[0])}</span></p>}
            <h3 class="cool">Read later by</h3>
            {!column && <Waiting what="One pass through the recording" fraction={pass} />}
            {column && table(readers, (i) => column[i - token] ?? NaN, 'readers', 'nobody yet')}
            {column && column.length > 1 && <>
                <h3>Attention over time</h3>
                <Drawing class="spark" label={`Attention that token ${token} gets from each later token`} inputs={[column]}
                    draw={(c, width, height) => sparkline(c, width, height, column.subarray(1))} />
            </>}
        </>
    );
}

export function sparkline(c: CanvasRenderingContext2D, width: number, height: number, values: Float32Array) {
    const most = largest(values);
    c.font = '11px system-ui';
    c.fillStyle = colour('faint');
    c.fillText(percent(most), 0, 10);
    if (values.length === 0 || most === 0) return;
    const bottom = height - 2;
    c.beginPath();
    for (let px = 0; px < width; ++px) { // the largest of what falls into a pixel: spikes stay
        const from = Math.floor((px / width) * values.length);
        const to = Math.max(from + 1, Math.floor(((px + 1) / width) * values.length));
        let v = 0;
        for (let i = from; i < to && i < values.length; ++i) if (values[i] > v) v = values[i]; // no row: no number
        const y = bottom - (v / most) * (bottom - 14);
        if (px === 0) c.moveTo(px, y);
        else c.lineTo(px, y);
    }
    c.strokeStyle = colour('cool');
    c.lineWidth = 1.5;
    c.stroke();
}
