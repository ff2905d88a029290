// One head's, one layer's or the mean's weights as a picture, query down, key across, zoomed like a map.
import { useEffect, useRef, useState } from 'preact/hooks';
import { exact, matrix_decades, percent } from '../colour';
import type { MapName } from '../colour';
import type { Opened } from '../data';
import { use_keys } from '../keys';
import { MatrixRenderer } from '../matrix/renderer';
import type { Camera } from '../matrix/renderer';
import { draw_axes, gutter, number_gutter } from '../matrix/axes';
import { Choice, Failure, Legend, RowsChooser, Switch, Waiting, colour, is_dark } from '../parts';
import { rows_fields, rows_header, rows_name, save_csv, saves } from '../save';
import { store, use_state } from '../state';
import { label } from '../text/pieces';
import { selection_of } from './text';

function parse_camera(text: string): Camera | undefined {
    const [x, y, step] = text.split(',').map(Number);
    return Number.isFinite(x) && Number.isFinite(y) && step > 0 && step < 1e6 ? { x, y, step } : undefined;
}

export function MatrixView({ opened }: { opened: Opened }) {
    const state = use_state();
    const place = useRef<HTMLDivElement>(null);
    const picture = useRef<HTMLCanvasElement>(null);
    const over = useRef<HTMLCanvasElement>(null);
    const renderer = useRef<MatrixRenderer>();
    const [failure, set_failure] = useState('');
    const [no_row, set_no_row] = useState('');
    const [pass, set_pass] = useState(1); // of the picture: how far it is
    const [hover, set_hover] = useState<{ query: number; key: number; weight?: number }>();
    const cell_now = useRef<{ query: number; key: number }>(); // ahead of what is drawn: keys come faster than frames
    const go_to = (next?: { query: number; key: number }) => {
        cell_now.current = next;
        set_hover(next);
    };
    const [span, set_span] = useState<{ begin: number; end: number; axis: 'key' | 'query' }>();
    const s = selection_of(state);
    const n = opened.n;

    const fitted = (): Camera => {
        const box = picture.current!;
        const [width, height] = [box.clientWidth - number_gutter, box.clientHeight - gutter];
        const step = Math.max(n / Math.max(1, width), n / Math.max(1, height), 1 / 12);
        return { x: -number_gutter * step, y: -gutter * step, step };
    };
    // Some of the picture stays in sight, whatever a link says.
    const clamped = (c: Camera): Camera => {
        const box = picture.current!;
        const step = Math.max(1 / 48, Math.min(c.step, 2 * fitted().step));
        const clamp = (at: number, size: number) => Math.max(-0.5 * size, Math.min(at, n - 0.5 * size));
        return { x: clamp(c.x, box.clientWidth * step), y: clamp(c.y, box.clientHeight * step), step };
    };
    const camera = () => {
        const said = parse_camera(store.get().camera);
        return said ? clamped(said) : fitted();
    };
    const move = (to: Camera) => {
        const c = clamped(to);
        store.set({ camera: [c.x, c.y, c.step].map((v) => +v.toPrecision(9)).join(',') });
    };
    const zoom = (factor: number, px?: number, py?: number) => {
        const box = picture.current!;
        const c = camera();
        // By keys: about the middle of what is in sight of the picture, and no point of the future, where there is nothing to see.
        const middle = (at: number, size: number) => (Math.max(0, at) + Math.min(n, at + size * c.step)) / 2;
        const query = middle(c.y, box.clientHeight);
        const key = Math.max(c.x, Math.min(middle(c.x, box.clientWidth), query));
        const [ax, ay] = [px ?? (key - c.x) / c.step, py ?? (query - c.y) / c.step];
        const step = Math.max(1 / 48, Math.min(c.step * factor, 2 * fitted().step));
        move({ x: c.x + ax * (c.step - step), y: c.y + ay * (c.step - step), step });
    };
    const pan = (dx: number, dy: number) => {
        const c = camera();
        const box = picture.current!;
        move({ ...c, x: c.x + dx * box.clientWidth * c.step, y: c.y + dy * box.clientHeight * c.step });
    };
    // By keys, once Tab has reached the picture: a cell, which stays in sight.
    const focused = () => picture.current?.matches(':focus') ?? false;
    const step_to = (query: number, key: number) => {
        const next = { query: Math.max(0, Math.min(n - 1, query)), key: Math.max(0, Math.min(n - 1, key)) };
        const c = camera();
        const box = picture.current!;
        const within = (at: number, from: number, size: number, edge: number) => // a third further in where it would lie outside
            at < from + edge * c.step ? at - (edge + (size - edge) / 3) * c.step : at + 1 > from + size * c.step ? at + 1 - (2 / 3) * size * c.step : from;
        const [x, y] = [within(next.key, c.x, box.clientWidth, number_gutter), within(next.query, c.y, box.clientHeight, gutter)];
        if (x !== c.x || y !== c.y) move({ ...c, x, y });
        go_to(next);
    };
    const step_by = (dq: number, dk: number) => {
        const from = cell_now.current ?? { query: opened.token(store.get().token), key: opened.token(store.get().token) };
        step_to(from.query + dq, from.key + dk);
    };
    const cell = (arrow: string, says: string, dq: number, dk: number) => [
        { keys: [`Arrow${arrow}`], says: `${says}, on the picture (Tab goes there)`, run: () => step_by(dq, dk), when: focused },
        { keys: [`Shift+Arrow${arrow}`], says: `10 further, on the picture`, run: () => step_by(10 * dq, 10 * dk), when: focused },
    ];
    use_keys('Matrix', [
        ...cell('Left', 'key before', 0, -1), ...cell('Right', 'next key', 0, 1), ...cell('Up', 'query before', -1, 0), ...cell('Down', 'next query', 1, 0),
        { keys: ['Enter'], says: 'select the query, on the picture', run: () => cell_now.current && store.set({ token: cell_now.current.query }), when: focused },
        { keys: ['+', '=', 'Shift++'], says: 'closer', run: () => zoom(0.5) }, { keys: ['-'], says: 'further', run: () => zoom(2) },
        { keys: ['0'], says: 'all of it', run: () => move(fitted()) },
        { keys: ['ArrowLeft'], says: 'all to the left, elsewhere', run: () => pan(-0.2, 0) }, { keys: ['ArrowRight'], says: 'all to the right, elsewhere', run: () => pan(0.2, 0) },
        { keys: ['ArrowUp'], says: 'all up, elsewhere', run: () => pan(0, -0.2) }, { keys: ['ArrowDown'], says: 'all down, elsewhere', run: () => pan(0, 0.2) },
        { keys: ['x'], says: 'mean or maximum of a cell', run: () => store.set({ peaks: !store.get().peaks }) },
    ]);

    useEffect(() => {
        try {
            const made = new MatrixRenderer(picture.current!, n,
                (level, x, y, wanted) => opened.transport.tile(opened.id, selection_of(store.get()), level, x, y, (fraction) => {
                    if (!wanted()) return false;
                    set_pass(fraction);
                    return true;
                }).then((tile) => {
                    if (wanted()) set_pass(1);
                    return tile;
                }), set_failure);
            renderer.current = made;
            (window as any).attnscope_matrix = made; // for measuring: frames drawn, whether all is there
            return () => made.end();
        } catch (error) {
            set_failure(String((error as Error).message));
            return undefined;
        }
    }, [opened]);
    useEffect(() => {
        renderer.current?.forget();
        set_failure('');
        set_no_row('');
        set_hover((at) => at && { query: at.query, key: at.key }); // its weight was of other rows
    }, [state.layer, state.head, state.reduce]);
    const scale = { largest: 1, log: state.log, decades: matrix_decades };
    const draw = () => {
        renderer.current?.show(camera(), { largest: 1, log: state.log, peaks: state.peaks, map: state.map as MapName, dark: is_dark(), ground: colour('ground') });
        draw_axes(over.current!, camera(), opened, hover, span);
    };
    useEffect(draw);
    useEffect(() => {
        const observer = new ResizeObserver(draw);
        observer.observe(place.current!);
        return () => observer.disconnect();
    }, [opened]);

    // The exact weight comes from the row, not from the tile. A token that has no row there is no failure of the picture: it is said while
    // the pointer is on it.
    useEffect(() => {
        if (!hover) set_no_row('');
        if (!hover || hover.weight !== undefined) return;
        let current = true;
        const timer = setTimeout(() => opened.row(hover.query, s).then(
            (row) => {
                if (!current) return;
                set_no_row('');
                set_hover((now) => (now?.query === hover.query && now.key === hover.key ? { ...now, weight: row[now.key] ?? 0 } : now));
            },
            (error) => current && set_no_row(String(error.message))), 30);
        return () => {
            current = false;
            clearTimeout(timer);
        };
    }, [hover, state.layer, state.head, state.reduce]);

    const at = (event: { clientX: number; clientY: number }) => {
        const box = picture.current!.getBoundingClientRect();
        const c = camera();
        return { px: event.clientX - box.left, py: event.clientY - box.top,
            key: Math.floor(c.x + (event.clientX - box.left) * c.step), query: Math.floor(c.y + (event.clientY - box.top) * c.step) };
    };
    const inside = (i: number) => Math.max(0, Math.min(n - 1, i));
    const pressed = (event: PointerEvent) => {
        const from = at(event);
        const start = camera();
        const canvas = picture.current!;
        const axis = from.py < gutter ? 'key' : from.px < gutter ? 'query' : event.shiftKey ? 'key' : undefined;
        let moved = false;
        canvas.setPointerCapture(event.pointerId);
        const dragged = (e: PointerEvent) => {
            const to = at(e);
            moved ||= Math.hypot(to.px - from.px, to.py - from.py) > 3;
            if (axis) set_span({ axis, begin: inside(Math.min(from[axis], to[axis])), end: inside(Math.max(from[axis], to[axis])) + 1 });
            else move({ ...start, x: start.x - (to.px - from.px) * start.step, y: start.y - (to.py - from.py) * start.step });
        };
        const released = () => {
            canvas.removeEventListener('pointermove', dragged);
            canvas.removeEventListener('pointerup', released);
            if (!moved) store.set({ token: inside(from.query) });
        };
        canvas.addEventListener('pointermove', dragged);
        canvas.addEventListener('pointerup', released);
    };
    const hovered = (event: MouseEvent) => {
        const { key, query } = at(event);
        const next = key >= 0 && key < n && query >= 0 && query < n ? { key, query } : undefined;
        if (next?.key !== hover?.key || next?.query !== hover?.query) go_to(next);
    };
    useEffect(() => { // not passive: the page must not scroll
        const wheel = (event: WheelEvent) => {
            event.preventDefault();
            const box = picture.current!.getBoundingClientRect();
            zoom(2 ** (Math.max(-100, Math.min(100, event.deltaY)) / 100), event.clientX - box.left, event.clientY - box.top);
        };
        const canvas = picture.current!;
        canvas.addEventListener('wheel', wheel, { passive: false });
        return () => canvas.removeEventListener('wheel', wheel);
    }, [opened]);

    saves.now = {
        name: `${opened.name}-matrix-${rows_name(s)}`,
        // The exact row under the pointer, or of the selected token.
        csv: () => {
            const query = hover?.query ?? opened.token(state.token);
            void opened.row(query, s).then((row) => save_csv(`${opened.name}-token-${query}-${rows_name(s)}`, ['token', 'text', 'of', ...rows_header, 'weight'],
                Array.from(row, (w, j) => [j, opened.text(j), query, ...rows_fields(s), w]), opened.sequence), (error) => set_failure(String(error.message)));
        },
    };
    return (
        <div class="matrix-view">
            <div class="controls">
                <RowsChooser info={opened.info} />
                <Choice label="Cell" value={state.peaks ? 'max' : 'mean'} options={[['max', 'its maximum'], ['mean', 'its mean']]}
                    change={(v) => store.set({ peaks: v === 'max' })} />
                <Choice label="Map" value={state.map as MapName} options={[['viridis', 'viridis'], ['cividis', 'cividis'], ['grey', 'grey']]}
                    change={(map) => store.set({ map })} />
                <Switch label="Log scale" value={state.log} change={(log) => store.set({ log })} />
                <button type="button" onClick={() => move(fitted())}>all of it</button>
                {span && <>
                    <span class="faint">{span.axis} {span.begin} to {span.end - 1}</span>
                    <button type="button" onClick={() => store.set({ view: 'flow', span: `${Math.max(1, span.begin)}-${Math.max(2, span.end)}` })}>where it read from</button>
                    <button type="button" onClick={() => store.set({ view: 'text', token: span.begin })}>in the text</button>
                </>}
            </div>
            {(failure || no_row) && <Failure message={failure || no_row} />}
            {pass < 1 && !failure && <Waiting what="One pass through the recording, for the picture of these rows" fraction={pass} />}
            <div class="matrix-main" ref={place}>
                <canvas ref={picture} role="application" tabIndex={0}
                    aria-label="Weights, query down and key across; arrows move from cell to cell, the line below tells the weight"
                    onFocus={(event) => { if (event.currentTarget.matches(':focus-visible') && !hover) step_by(0, 0); }}
                    onPointerDown={pressed} onMouseMove={hovered}
                    onMouseLeave={(event) => { if (!event.currentTarget.matches(':focus-visible')) go_to(); }} />
                <canvas ref={over} class="over" aria-hidden="true" />
            </div>
            <div class="matrix-foot">
                <p class="matrix-hover" aria-live="polite">
                    {hover ? <>
                        query {hover.query} <strong><bdi>{label(opened.text(hover.query))}</bdi></strong> reads key {hover.key}{' '}
                        <strong><bdi>{label(opened.text(hover.key))}</bdi></strong>: <output>{hover.weight === undefined ? '…' : percent(hover.weight)}</output>
                        {hover.weight !== undefined && <small class="faint exact"> {exact(hover.weight)}</small>}
                    </> : <span class="faint hint">wheel or + − zooms, drag moves, drag on an axis (or with Shift) selects a span, click selects the query</span>}
                </p>
                <Legend map={state.map as MapName} scale={scale} what={`${state.peaks ? 'largest' : 'mean'} weight of a cell; ${is_dark()
                    ? 'black: not seen' : `white: not seen${state.log ? ', or below the scale' : ''}`} (the future, beyond a window)`} />
            </div>
        </div>
    );
}
