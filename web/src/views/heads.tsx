// All heads at once: a scatter over any two metrics, and the grid of layers and heads. One click and everything follows.
import { useState } from 'preact/hooks';
import { lut, percent } from '../colour';
import { use_loaded } from '../data';
import type { Opened } from '../data';
import { use_keys } from '../keys';
import { Choice, Drawing, Failure, Waiting, colour, is_dark, layer_name } from '../parts';
import { find } from '../place';
import { save_csv, saves } from '../save';
import { store, use_state } from '../state';
import { label } from '../text/pieces';
import { metric_names } from '../transport/transport';
import type { HeadDetail, HeadMetrics, Layer, Metric } from '../transport/transport';

export const metric_texts: Record<Metric, string> = {
    self: 'self', previous: 'previous token', first: 'first position', local: 'local (last 8)', entropy: 'entropy (nats)',
    distance: 'distance (tokens)', distance_variance: 'variance of the distance', induction: 'induction', retrieval: 'retrieval (copied token)',
};
const options = metric_names.map((m) => [m, metric_texts[m]] as const);
const margin = { left: 72, right: 14, top: 12, bottom: 40 };

// A scale over the finite values; metrics in tokens, which spread over decades, are drawn by their square roots.
function axis(values: Float32Array, metric: Metric) {
    let low = Infinity;
    let high = -Infinity;
    for (const v of values) {
        if (!Number.isFinite(v)) continue;
        low = Math.min(low, v);
        high = Math.max(high, v);
    }
    if (!(high > low)) high = low + 1;
    const bend = metric === 'distance' || metric === 'distance_variance' ? Math.sqrt : (v: number) => v;
    const [a, b] = [bend(Math.max(0, low)), bend(Math.max(0, high))];
    return { low, high, at: (v: number) => (bend(Math.max(0, v)) - a) / (b - a || 1) };
}

export function number_text(v: number, metric: Metric): string {
    if (!Number.isFinite(v)) return '–';
    return metric === 'entropy' || metric.startsWith('distance') ? v.toPrecision(4) : percent(v);
}

// The numbers of one axis, all with as many decimals as tell its ends apart.
function axis_text(a: { low: number; high: number }, metric: Metric): (v: number) => string {
    const shares = !(metric === 'entropy' || metric.startsWith('distance'));
    const range = (a.high - a.low) * (shares ? 100 : 1);
    const digits = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(Math.max(range, 1e-9)))));
    return (v) => (shares ? `${(100 * v).toFixed(digits)} %` : v.toFixed(digits));
}

export function HeadsView({ opened }: { opened: Opened }) {
    const state = use_state();
    const [fraction, set_fraction] = useState(0);
    const loaded = use_loaded(() => opened.transport.heads(opened.id, set_fraction), [opened]);
    const m = loaded.value;
    const layer = Math.min(Math.max(0, state.layer), (m?.n_layer ?? 1) - 1);
    const head = Math.min(Math.max(0, state.head), (m?.n_head ?? 1) - 1);
    const move = (dl: number, dh: number) => m && store.set({
        layer: Math.max(0, Math.min(m.n_layer - 1, layer + dl)), head: Math.max(0, Math.min(m.n_head - 1, head + dh)),
    });
    use_keys('Heads', [
        { keys: ['ArrowUp'], says: 'layer above', run: () => move(1, 0) }, { keys: ['ArrowDown'], says: 'layer below', run: () => move(-1, 0) },
        { keys: ['ArrowLeft'], says: 'head to the left', run: () => move(0, -1) },
        { keys: ['ArrowRight'], says: 'head to the right', run: () => move(0, 1) },
        { keys: ['Enter'], says: 'its matrix', run: () => store.set({ view: 'matrix', layer, head, camera: '' }) },
    ]);
    if (loaded.error) return <Failure message={loaded.error} />;
    if (!m) return <Waiting what="One pass through the recording, for all heads" fraction={fraction} />;
    const { layers } = opened.info;
    const metric = (name: string): Metric => metric_names.find((k) => k === name) ?? 'previous';
    const [x, y, c] = [metric(state.x), metric(state.y), metric(state.c)];
    saves.now = {
        name: `${opened.name}-heads-${x}-${y}-${c}`,
        csv: () => save_csv(`${opened.name}-heads`, ['layer', 'head', 'kind', ...metric_names],
            Array.from({ length: m.n_layer * m.n_head }, (_, i) => [Math.floor(i / m.n_head), i % m.n_head, m.kinds[i],
                ...metric_names.map((name) => m.values[name][i])]), opened.sequence),
    };
    const select = (i: number) => i >= 0 && store.set({ layer: Math.floor(i / m.n_head), head: i % m.n_head });
    return (
        <div class="heads-view">
            <div class="controls">
                <Choice label="Across" value={x} options={options} change={(v) => store.set({ x: v })} />
                <Choice label="Up" value={y} options={options} change={(v) => store.set({ y: v })} />
                <Choice label="Colour" value={c} options={options} change={(v) => store.set({ c: v })} />
                <span class="faint">{m.n_layer * m.n_head} heads, each over {layers.some((l) => l.role) ? 'up to ' : ''}{m.n_rows} rows</span>
            </div>
            <div class="heads-main">
                <Scatter m={m} layers={layers} x={x} y={y} c={c} chosen={layer * m.n_head + head} select={select} />
                <Grid m={m} layers={layers} c={c} chosen={layer * m.n_head + head} select={select} />
                <aside class="side" aria-label="Selected head">
                    <Head opened={opened} m={m} layer={layer} head={head} />
                </aside>
            </div>
        </div>
    );
}

function Scatter({ m, layers, x, y, c, chosen, select }: {
    m: HeadMetrics; layers: Layer[]; x: Metric; y: Metric; c: Metric; chosen: number; select: (i: number) => void;
}) {
    const [near, set_near] = useState(-1);
    const [ax, ay, ac] = [axis(m.values[x], x), axis(m.values[y], y), axis(m.values[c], c)];
    const place = (i: number, width: number, height: number) => ({
        px: margin.left + ax.at(m.values[x][i]) * (width - margin.left - margin.right),
        py: height - margin.bottom - ay.at(m.values[y][i]) * (height - margin.top - margin.bottom),
    });
    const nearest = (px: number, py: number) => {
        const canvas = find<HTMLCanvasElement>('.scatter canvas')!;
        let best = -1;
        let distance = 18 * 18;
        for (let i = 0; i < m.values[x].length; ++i) {
            const p = place(i, canvas.clientWidth, canvas.clientHeight);
            const d = (p.px - px) ** 2 + (p.py - py) ** 2;
            if (d < distance) [best, distance] = [i, d];
        }
        return best;
    };
    const draw = (d: CanvasRenderingContext2D, width: number, height: number) => {
        frame(d, width, height, ax, ay, x, y);
        const map = lut('viridis', is_dark());
        for (let i = 0; i < m.values[x].length; ++i) {
            if (!Number.isFinite(m.values[x][i]) || !Number.isFinite(m.values[y][i])) continue;
            const { px, py } = place(i, width, height);
            d.beginPath();
            d.arc(px, py, i === chosen ? 8 : i === near ? 7 : 5, 0, 7);
            d.fillStyle = map.css[Math.round(255 * Math.max(0, Math.min(1, ac.at(m.values[c][i]) || 0)))];
            d.fill();
            d.lineWidth = i === chosen ? 3 : 1;
            d.strokeStyle = i === chosen || i === near ? colour('ink') : colour('edge');
            d.stroke();
        }
    };
    return (
        <Drawing class="scatter" label={`${metric_texts[y]} over ${metric_texts[x]} for every head; the grid beside it and the table have the numbers`}
            inputs={[m, x, y, c, chosen, near]} draw={draw}
            on={{ move: (px, py) => set_near(nearest(px, py)), leave: () => set_near(-1), click: (px, py) => select(nearest(px, py)) }}>
            <HeadTip m={m} layers={layers} i={near} shown={[x, y, c]} />
        </Drawing>
    );
}

function frame(d: CanvasRenderingContext2D, width: number, height: number, ax: ReturnType<typeof axis>, ay: ReturnType<typeof axis>,
    x: Metric, y: Metric) {
    d.strokeStyle = colour('edge');
    d.strokeRect(margin.left + 0.5, margin.top + 0.5, width - margin.left - margin.right, height - margin.top - margin.bottom);
    d.fillStyle = colour('faint');
    d.font = '12px system-ui';
    d.textAlign = 'center';
    const [text_x, text_y] = [axis_text(ax, x), axis_text(ay, y)];
    const room = width - margin.left - margin.right;
    const widest = Math.max(d.measureText(text_x(ax.low)).width, d.measureText(text_x(ax.high)).width) + 10;
    let free = -Infinity; // from here on nothing is written yet
    for (const f of [0, 0.25, 0.5, 0.75, 1]) {
        const vx = ax.low + f * (ax.high - ax.low);
        const vy = ay.low + f * (ay.high - ay.low);
        d.textAlign = f === 0 ? 'left' : f === 1 ? 'right' : 'center';
        const px = margin.left + ax.at(vx) * room;
        const left = f === 0 ? px : f === 1 ? px - widest : px - widest / 2;
        if (left >= free && (f === 1 || left + widest <= width - margin.right - widest)) {
            d.fillText(text_x(vx), px, height - margin.bottom + 16);
            free = left + widest;
        }
        d.textAlign = 'right';
        d.fillText(text_y(vy), margin.left - 5, height - margin.bottom + 4 - ay.at(vy) * (height - margin.top - margin.bottom));
    }
    d.textAlign = 'center';
    d.fillStyle = colour('ink');
    d.fillText(metric_texts[x], (width + margin.left) / 2, height - 6);
    d.save();
    d.translate(11, height / 2);
    d.rotate(-Math.PI / 2);
    d.fillText(metric_texts[y], 0, 0);
    d.restore();
}

function HeadTip({ m, layers, i, shown }: { m: HeadMetrics; layers: Layer[]; i: number; shown: Metric[] }) {
    if (i < 0) return null;
    return (
        <p class="tip">layer {layer_name(layers, Math.floor(i / m.n_head))}, head {i % m.n_head}{m.kinds[i] && <strong> · {m.kinds[i]}</strong>}
            {[...new Set(shown)].map((k) => <span key={k}> · {metric_texts[k]} {number_text(m.values[k][i], k)}</span>)}</p>
    );
}

function Grid({ m, layers, c, chosen, select }: { m: HeadMetrics; layers: Layer[]; c: Metric; chosen: number; select: (i: number) => void }) {
    const [near, set_near] = useState(-1);
    const ac = axis(m.values[c], c);
    const left = layers.some((l) => l.role) ? 84 : 36; // room for the layers' names
    const cell = (width: number, height: number) => ({ w: (width - left - 8) / m.n_head, h: (height - 40) / m.n_layer });
    const at = (px: number, py: number) => {
        const canvas = find<HTMLCanvasElement>('.grid canvas')!;
        const { w, h } = cell(canvas.clientWidth, canvas.clientHeight);
        const head = Math.floor((px - left) / w);
        const layer = m.n_layer - 1 - Math.floor((py - 8) / h);
        return head >= 0 && head < m.n_head && layer >= 0 && layer < m.n_layer ? layer * m.n_head + head : -1;
    };
    return (
        <Drawing class="grid" label={`${metric_texts[c]} of every layer and head`} inputs={[m, c, chosen, near]}
            on={{ move: (px, py) => set_near(at(px, py)), leave: () => set_near(-1), click: (px, py) => select(at(px, py)) }}
            draw={(d, width, height) => {
                const { w, h } = cell(width, height);
                const map = lut('viridis', is_dark());
                d.font = '11px system-ui';
                const gap = Math.min(w, h) > 6 ? 1 : 0;
                for (let i = 0; i < m.n_layer * m.n_head; ++i) {
                    const [layer, head] = [Math.floor(i / m.n_head), i % m.n_head];
                    const [px, py] = [left + head * w, 8 + (m.n_layer - 1 - layer) * h];
                    const v = m.values[c][i];
                    d.fillStyle = Number.isFinite(v) ? map.css[Math.round(255 * Math.max(0, Math.min(1, ac.at(v))))] : colour('raised');
                    d.fillRect(px, py, w - gap, h - gap);
                    if (i === chosen || i === near) {
                        d.strokeStyle = colour('ink');
                        d.lineWidth = i === chosen ? 3 : 1.5;
                        d.strokeRect(px, py, w - gap, h - gap);
                    }
                    d.fillStyle = colour('faint');
                    const every = Math.ceil(14 / h);
                    if (head === 0 && layer % every === 0) {
                        d.textAlign = 'right';
                        d.fillText(layer_name(layers, layer), left - 5, py + h / 2 + 4);
                    }
                    if (layer === 0 && head % Math.ceil(16 / w) === 0) {
                        d.textAlign = 'center';
                        d.fillText(String(head), px + w / 2, height - 19);
                    }
                }
                d.textAlign = 'center';
                d.fillStyle = colour('ink');
                d.fillText(`layer (up) and head (across), coloured by ${metric_texts[c]}: ${number_text(ac.low, c)} to ${number_text(ac.high, c)}`,
                    width / 2, height - 4, width - 8);
            }}>
            <HeadTip m={m} layers={layers} i={near} shown={[c]} />
        </Drawing>
    );
}

function Head({ opened, m, layer, head }: { opened: Opened; m: HeadMetrics; layer: number; head: number }) {
    const i = layer * m.n_head + head;
    const detail = use_loaded(() => opened.transport.head(opened.id, layer, head), [opened, layer, head]);
    return (
        <>
            <h2>Layer {layer_name(opened.info.layers, layer)}, head {head}</h2>
            {m.kinds[i] ? <p><strong>{m.kinds[i]}</strong><span class="faint">: {m.rules[m.kinds[i]]}</span></p>
                : <p class="faint">no rule names its kind</p>}
            <p><button type="button" onClick={() => store.set({ view: 'matrix', layer, head, camera: '' })}>its matrix</button>
                <button type="button" onClick={() => store.set({ view: 'text', layer, head })}>its text</button></p>
            <table class="metrics"><tbody>
                {metric_names.map((k) => <tr key={k}><td>{metric_texts[k]}</td><td class="number">{number_text(m.values[k][i], k)}</td></tr>)}
            </tbody></table>
            {detail.error && <Failure message={detail.error} />}
            {!detail.fresh && !detail.error && <Waiting what="One pass through its rows" />}
            {detail.fresh && detail.value && <Detail opened={opened} d={detail.value} layer={layer} head={head} />}
        </>
    );
}

function Detail({ opened, d, layer, head }: { opened: Opened; d: HeadDetail; layer: number; head: number }) {
    const piece = (id: number) => {
        const bytes = opened.tokens.pieces.get(id);
        return label(bytes ? new TextDecoder().decode(bytes) : `⟨${id}⟩`, 18);
    };
    const tops = (list: HeadDetail['keys']) => (
        <table><tbody>{list.map((t) => <tr key={t.token}><td class="number">{percent(t.weight)}</td><td class="piece"><bdi>{piece(t.token)}</bdi></td></tr>)}</tbody></table>
    );
    return (
        <>
            {d.distance.length === 0 ? <p class="faint">Cross attention looks into another text: no key is near or far.</p> : <>
            <h3>Distance to the key</h3>
            <Drawing class="spark" label="Share of the weight by distance" inputs={[d]} draw={(c, width, height) => {
                const most = Math.max(...d.distance, 1e-9);
                const w = width / d.distance.length;
                c.font = '10px system-ui';
                c.textAlign = 'center';
                d.distance.forEach((v, b) => {
                    c.fillStyle = colour('warm');
                    c.fillRect(b * w + 1, height - 14 - (v / most) * (height - 26), w - 2, (v / most) * (height - 26));
                    c.fillStyle = colour('faint');
                    c.fillText(b === 0 ? '0' : b === 1 ? '1' : `${2 ** (b - 1)}+`, b * w + w / 2, height - 3, w);
                });
                c.textAlign = 'left';
                c.fillText(percent(most), 0, 9);
            }} /></>}
            <h3 class="warm">Strongest{d.skips_first ? ' (without the first position)' : ''}</h3>
            <table class="strongest"><tbody>
                {d.strongest.map((s) => (
                    <tr key={`${s.query}-${s.key}`}>
                        <td class="number">{percent(s.weight)}</td>
                        <td class="piece"><button type="button" onClick={() => store.set({ view: 'text', token: s.query, layer, head })}>
                            <bdi>{label(opened.text(s.query), 14)}</bdi></button></td>
                        <td>→</td>
                        <td class="piece"><bdi>{label(opened.text(s.key), 14)}</bdi></td>
                    </tr>
                ))}
            </tbody></table>
            <h3>Queries that look hardest</h3>{tops(d.queries)}
            <h3>Keys that are looked at most</h3>{tops(d.keys)}
        </>
    );
}
