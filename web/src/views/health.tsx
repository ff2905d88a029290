// How far to trust what is shown: verdicts and witnesses of a recording along time; of somebody else's capture, what is
// wrong with it, as `attnscope diagnose` finds it.
import { useState } from 'preact/hooks';
import { use_loaded } from '../data';
import type { Opened } from '../data';
import { Drawing, Failure, Waiting, colour } from '../parts';
import { find } from '../place';
import { save_csv, saves } from '../save';
import { store } from '../state';
import type { CaptureFrame, Health, Source, Transport } from '../transport/transport';

// `id`: of the source, or of one of its sequences.
export function HealthView({ transport, source, id, opened }: { transport: Transport; source: Source; id: string; opened?: Opened }) {
    const loaded = use_loaded(() => transport.health(id), [transport, id]);
    if (loaded.error) return <Failure message={loaded.error} />;
    if (!loaded.value) return <Waiting what="Looking at every token" />;
    const h = loaded.value;
    const name = `${opened?.name ?? source.name}-health`;
    const capture = h.capture.length > 0;
    const causes = h.findings.filter((f) => f.keep || f.fix).map((f) => f.cause); // the whole of it stands below the pictures
    saves.now = {
        csv: () => capture
            ? save_csv(name, ['token', 'kind', 'min', 'max', 'sum', 'distinct_layers', 'keep'],
                h.capture.map((f) => [f.number, f.kind, f.min, f.max, f.sum, f.distinct_layers, f.keep]))
            : save_csv(name, ['token', 'verdict', 'error_over_tolerance'], h.frames.map((f) => [f.index, f.verdict, f.ratio]), opened?.sequence),
    };
    return (
        <div class="health-view">
            <div class="health-body">
                <p class={`verdict ${h.good ? 'good' : 'bad'}`}>{h.good ? '✓ ' : '✗ '}{capture && causes.length > 0 ? causes.join('; ') : h.summary}</p>
                {h.damage && <Failure message={h.damage} />}
                {capture && <CaptureHealth frames={h.capture} />}
                {h.findings.map((f) => (
                    <section key={f.cause}>
                        <h3>{f.cause}</h3>
                        <ul>{f.text.map((line) => <li key={line}><bdi>{line}</bdi></li>)}</ul>
                        {f.keep && <p>Keep: {f.keep}</p>}
                        {f.undecided && <p class="undecided">Undecided: <bdi>{f.undecided}</bdi></p>}
                        {f.fix && <p class="faint">{f.fix}</p>}
                    </section>
                ))}
                {!capture && <RecordingHealth h={h} opened={opened} />}
            </div>
        </div>
    );
}

function RecordingHealth({ h, opened }: { h: Health; opened?: Opened }) {
    const bad = h.frames.filter((f) => f.verdict !== 'ok');
    return (
        <>
            <h3>Error of each token’s worst witness, as a share of its tolerance (dots; log scale), and verdicts (band)</h3>
            <Drawing label="Witness errors along the recording" inputs={[h]} draw={(c, width, height) => draw_witnesses(c, width, height, h)}
                on={{ click: (px) => {
                    const canvas = find<HTMLCanvasElement>('.health-body canvas')!;
                    const f = h.frames[Math.floor(((px - 50) / (canvas.clientWidth - 60)) * h.frames.length)];
                    if (f && opened) store.set({ view: 'text', token: f.index });
                } }} />
            {opened && <>
                <h3>Heads that a witness reached, by their worst error over its tolerance</h3>
                <Drawing class="small" label="Witnessed heads" inputs={[h]} draw={(c, width, height) => {
                    const [n_layer, n_head] = [opened.info.layers.length, opened.info.n_heads];
                    const [w, hh] = [Math.min(24, width / n_layer), Math.min(20, (height - 4) / n_head)];
                    c.fillStyle = colour('raised');
                    for (let l = 0; l < n_layer; ++l) for (let i = 0; i < n_head; ++i) c.fillRect(l * w, i * hh, w - 1, hh - 1);
                    for (const at of h.witnessed) {
                        c.fillStyle = at.ratio > 1 ? colour('bad') : colour('cool');
                        c.globalAlpha = 0.35 + 0.65 * Math.min(1, at.ratio);
                        c.fillRect(at.layer * w, at.head * hh, w - 1, hh - 1);
                    }
                    c.globalAlpha = 1;
                }} />
                <p class="faint">{h.witnessed.length} of {opened.info.layers.reduce((sum, l) => sum + l.n_head, 0)} heads have a witness, of {h.witnessed.reduce((sum, w) => sum + w.n, 0)} witnesses in all; layers across, heads down</p>
            </>}
            <h3>{bad.length === 0 ? 'No token has anything wrong' : `${bad.length} tokens have something wrong`}</h3>
            <table><tbody>{bad.slice(0, 200).map((f) => (
                <tr key={f.index}><td class="number"><button type="button" onClick={() => store.set({ view: 'text', token: f.index })}>{f.index}</button></td>
                    <td class="bad">{f.verdict}</td></tr>
            ))}</tbody></table>
        </>
    );
}

function draw_witnesses(c: CanvasRenderingContext2D, width: number, height: number, h: Health) {
    const n = h.frames.length || 1;
    const x = (i: number) => 50 + ((i + 0.5) / n) * (width - 60);
    const y = (ratio: number) => 12 + (1 - (Math.log10(Math.max(1e-4, Math.min(10, ratio))) + 4) / 5) * (height - 50);
    c.font = '11px system-ui';
    c.textAlign = 'right';
    for (const r of [0.001, 0.01, 0.1, 1]) {
        c.strokeStyle = r === 1 ? colour('bad') : colour('edge');
        c.beginPath();
        c.moveTo(50, y(r));
        c.lineTo(width - 10, y(r));
        c.stroke();
        c.fillStyle = colour('faint');
        c.fillText(`${100 * r} %`, 45, y(r) + 4);
    }
    const w = Math.max(1, (width - 60) / n);
    for (const f of h.frames) {
        c.fillStyle = f.verdict === 'ok' ? colour('good') : colour('bad');
        c.fillRect(x(f.index) - w / 2, height - 28, w, 12);
        if (f.ratio < 0) continue;
        c.fillStyle = f.ratio > 1 ? colour('bad') : colour('cool');
        c.beginPath();
        c.arc(x(f.index), y(f.ratio), 2.5, 0, 7);
        c.fill();
    }
    c.fillStyle = colour('faint');
    c.textAlign = 'left';
    c.fillText('0', 50, height - 3);
    c.textAlign = 'right';
    c.fillText(`token ${n - 1}`, width - 10, height - 3);
}

const most_of = (frames: CaptureFrame[], of: (f: CaptureFrame) => number) => frames.reduce((most, f) => Math.max(most, of(f)), -Infinity);

// NaN and infinities come as null.
const number = (v: number | null, digits: number) => (v === null || !Number.isFinite(v) ? 'no number' : v.toPrecision(digits));

// What cannot be attention stands out by more than its colour: it is drawn below the line as well.
const sound = (kind: string) => kind === 'probabilities';

function CaptureHealth({ frames }: { frames: CaptureFrame[] }) {
    const [near, set_near] = useState(-1);
    const n = frames.length;
    const pick = (px: number) => {
        const canvas = find<HTMLCanvasElement>('.health-body canvas')!;
        const i = Math.floor(((px - 62) / (canvas.clientWidth - 72)) * n);
        set_near(i >= 0 && i < n ? i : -1);
    };
    const at = near >= 0 ? frames[near] : undefined;
    const repeats = frames.filter((f) => f.repeat >= 0).length;
    const kinds = [...new Set(frames.map((f) => f.kind))];
    return (
        <>
            <h3>Smallest and largest value of each token (bars; symmetric log scale)</h3>
            <Drawing label="Smallest and largest value of each token" inputs={[frames, near]} on={{ move: pick, leave: () => set_near(-1) }}
                draw={(c, width, height) => draw_values(c, width, height, frames, near)} />
            <p>{at ? <>token {at.number}: <strong class={sound(at.kind) ? 'good' : 'bad'}>{at.kind}</strong>, {number(at.min, 4)} to {number(at.max, 4)},
                sum {number(at.sum, 6)}, {at.distinct_layers} of {at.n_layer} layers differ{at.repeat >= 0 && <strong class="bad">, the numbers of token {frames[at.repeat]?.number} again</strong>}; keep: {at.keep}</>
                : <span class="faint">{kinds.map((k) => `${frames.filter((f) => f.kind === k).length} ${k}`).join(', ')}; hover a token</span>}</p>
            <h3>Sum of all weights of a token: the number of rows, if they are weights (symmetric log scale)</h3>
            <Drawing class="small" label="Sum of each token" inputs={[frames, near]} draw={(c, width, height) => draw_sums(c, width, height, frames, near)} />
            <h3>Layers that differ from one another (of {most_of(frames, (f) => f.n_layer)}): the rest, grey, are copies</h3>
            <Drawing class="small" label="Distinct layers of each token" inputs={[frames, near]} draw={(c, width, height) => {
                const most = Math.max(1, most_of(frames, (f) => f.n_layer));
                strip(c, width, height, frames, near, (f) => f.distinct_layers / most, (f) => f.distinct_layers < f.n_layer, String(most));
            }} />
            {repeats > 0 && <>
                <h3 class="repeats">{repeats === 1 ? 'One token has' : `${repeats} tokens have`} the numbers of an earlier one again (arcs lead to it)</h3>
                <Drawing class="small" label={`Tokens that repeat an earlier one: ${repeats}`} inputs={[frames, near]} on={{ move: pick, leave: () => set_near(-1) }}
                    draw={(c, width, height) => draw_repeats(c, width, height, frames, near)} />
            </>}
        </>
    );
}

const signed_log = (v: number) => (Number.isFinite(v) ? Math.sign(v) * Math.log10(1 + Math.abs(v)) : 0);

function draw_values(c: CanvasRenderingContext2D, width: number, height: number, frames: CaptureFrame[], near: number) {
    const n = frames.length;
    let [low, high] = [0, signed_log(1)];
    for (const f of frames) {
        low = Math.min(low, signed_log(f.min));
        high = Math.max(high, signed_log(f.max));
    }
    const y = (v: number) => 10 + (1 - (signed_log(v) - low) / (high - low)) * (height - 34);
    c.font = '11px system-ui';
    c.textAlign = 'right';
    for (const v of [-1000, -100, -10, 0, 1, 10, 100, 1000]) {
        if (signed_log(v) < low || signed_log(v) > high) continue;
        c.strokeStyle = colour('edge');
        c.beginPath();
        c.moveTo(62, y(v));
        c.lineTo(width - 10, y(v));
        c.stroke();
        c.fillStyle = colour('faint');
        c.fillText(String(v), 56, y(v) + 4);
    }
    const w = (width - 72) / n;
    frames.forEach((f, i) => {
        c.fillStyle = sound(f.kind) ? colour('cool') : colour('warm');
        if (i === near) c.fillStyle = colour('ink');
        const [a, b] = [y(f.max), y(f.min)];
        c.fillRect(62 + i * w, a, Math.max(0.7, w * 0.9), Math.max(2, b - a));
    });
    c.fillStyle = colour('cool');
    c.textAlign = 'left';
    c.fillText('■ probabilities', 62, height - 4);
    c.fillStyle = colour('warm');
    c.fillText('■ anything else', 170, height - 4);
    c.fillStyle = colour('faint');
    c.textAlign = 'right';
    c.fillText(`token ${n - 1}`, width - 10, height - 4);
}

function draw_sums(c: CanvasRenderingContext2D, width: number, height: number, frames: CaptureFrame[], near: number) {
    const values = frames.map((f) => signed_log(f.sum));
    const [low, high] = [values.reduce((a, b) => Math.min(a, b), 0), values.reduce((a, b) => Math.max(a, b), 1)];
    const y = (v: number) => 8 + (1 - (v - low) / (high - low)) * (height - 16);
    const w = (width - 72) / frames.length;
    c.font = '11px system-ui';
    c.textAlign = 'right';
    c.fillStyle = colour('faint');
    const most = most_of(frames, (f) => f.sum);
    const least = -most_of(frames, (f) => -f.sum);
    c.fillText(number(most, 3), 56, y(signed_log(most)) + 4);
    if (least < 0) c.fillText(least.toExponential(1), 56, y(signed_log(least)));
    c.strokeStyle = colour('edge');
    c.strokeRect(62, y(0), width - 72, 0.5);
    frames.forEach((f, i) => {
        c.fillStyle = i === near ? colour('ink') : sound(f.kind) ? colour('cool') : colour('warm');
        const at = y(values[i]);
        c.fillRect(62 + i * w, Math.min(at, y(0)), Math.max(0.7, w * 0.9), Math.max(1, Math.abs(at - y(0))));
    });
}

function draw_repeats(c: CanvasRenderingContext2D, width: number, height: number, frames: CaptureFrame[], near: number) {
    const w = (width - 72) / frames.length;
    const ground = height - 8;
    c.strokeStyle = colour('edge');
    c.strokeRect(62, ground, width - 72, 0.5);
    frames.forEach((f, i) => {
        if (f.repeat < 0) return;
        const from = 62 + (f.repeat + 0.5) * w;
        const to = 62 + (i + 0.5) * w;
        c.strokeStyle = i === near ? colour('ink') : colour('bad');
        c.lineWidth = i === near ? 2 : 1;
        c.beginPath();
        c.ellipse((from + to) / 2, ground, Math.max(0.5, (to - from) / 2), Math.min(height - 16, 8 + (to - from) / 4), 0, Math.PI, 2 * Math.PI);
        c.stroke();
        c.fillStyle = c.strokeStyle;
        c.fillRect(to - Math.max(1, w / 2), ground, Math.max(2, w), 6);
    });
}

function strip(c: CanvasRenderingContext2D, width: number, height: number, frames: CaptureFrame[], near: number,
    share: (f: CaptureFrame) => number, wrong: (f: CaptureFrame) => boolean, most: string) {
    const w = (width - 72) / frames.length;
    c.font = '11px system-ui';
    c.textAlign = 'right';
    c.fillStyle = colour('faint');
    c.fillText(most, 56, 14);
    c.fillText('0', 56, height - 4);
    frames.forEach((f, i) => {
        const h = Math.max(3, share(f) * (height - 12));
        c.fillStyle = colour('edge'); // as many as there should be
        if (wrong(f)) c.fillRect(62 + i * w, 8, Math.max(0.7, w * 0.9), height - 12 - h);
        c.fillStyle = i === near ? colour('ink') : wrong(f) ? colour('warm') : colour('cool');
        c.fillRect(62 + i * w, height - 4 - h, Math.max(0.7, w * 0.9), h);
    });
}
