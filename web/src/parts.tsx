// Small pieces that several views share.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';
import { lut, percent, unshade } from './colour';
import type { MapName, Scale } from './colour';
import { leave } from './keys';
import { place } from './place';
import { store, use_state } from './state';
import type { Info, Layer } from './transport/transport';

export function is_dark(): boolean {
    const theme = store.get().theme;
    return theme === 'dark' || (theme === 'auto' && matchMedia('(prefers-color-scheme: dark)').matches);
}

// A map's colours with the numbers they stand for.
export function Legend({ map, scale, what, number = percent }: { map: MapName; scale: Scale; what: string; number?: (v: number) => string }) {
    const ref = useRef<HTMLCanvasElement>(null);
    const dark = is_dark();
    useEffect(() => {
        const c = ref.current!.getContext('2d')!;
        const image = c.createImageData(256, 1);
        const rgb = lut(map, dark).rgb;
        for (let i = 0; i < 256; ++i) image.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
        c.putImageData(image, 0, 0);
    }, [map, dark]);
    const ticks = [0, 0.25, 0.5, 0.75, 1];
    return (
        <figure class="legend">
            <figcaption>{what}</figcaption>
            <canvas ref={ref} width={256} height={1} role="img" aria-label={`colours from ${number(unshade(0, scale))} to ${number(scale.largest)}`} />
            <div class="ticks">
                {ticks.map((at) => <span key={at}>{at === 0 && scale.log ? '≤ ' : ''}{number(unshade(at, scale))}</span>)}
            </div>
        </figure>
    );
}

export function Choice<T extends string>({ label, value, options, change, class: name }: {
    label: string; value: T; options: readonly (readonly [T, string])[]; change: (value: T) => void; class?: string;
}) {
    // Who chose with the pointer goes on by keys, of which a list takes most; who chooses with the arrows is still at it.
    const by_arrows = useRef(false);
    return (
        <label class={name ? `control ${name}` : 'control'}>{label}
            <select value={value} onKeyDown={() => { by_arrows.current = true; }} onKeyUp={() => { by_arrows.current = false; }}
                onBlur={() => { by_arrows.current = false; }}
                onChange={(event) => {
                    change(event.currentTarget.value as T);
                    if (!by_arrows.current) leave(event.currentTarget);
                }}>
                {options.map(([name, text]) => <option key={name} value={name}>{text}</option>)}
            </select>
        </label>
    );
}

export function Switch({ label, value, change }: { label: string; value: boolean; change: (value: boolean) => void }) {
    return (
        <label class="control switch">
            <input type="checkbox" checked={value} onChange={(event) => change(event.currentTarget.checked)} />{label}
        </label>
    );
}

// A layer's name: its number, and whose it is where an encoder stands before its decoder.
export function layer_name(layers: Layer[], i: number): string {
    const role = layers[i]?.role;
    return role ? `${i} ${role}` : String(i);
}

// Which rows: mean or maximum, all layers or one, all heads or one.
export function RowsChooser({ info }: { info: Info }) {
    const state = use_state();
    return (
        <>
            <Choice label="Layer" value={String(state.layer)} options={[['-1', 'all'], ...info.layers.map((_, i) => [String(i), layer_name(info.layers, i)] as const)]}
                change={(v) => store.set({ layer: Number(v) })} />
            <Choice label="Head" value={String(state.head)} options={[['-1', 'all'], ...Array.from({ length: info.n_heads }, (_, i) => [String(i), String(i)] as const)]}
                change={(v) => store.set({ head: Number(v) })} />
            <Choice label="Rows" value={state.reduce} options={[['mean', 'mean'], ['max', 'maximum']]}
                change={(v) => store.set({ reduce: v })} />
        </>
    );
}

// Something to know, which whoever has read it can put away. `children` that change come back.
export function Note({ children, class: name, role = 'status', of }: { children: ComponentChildren; class?: string; role?: 'status' | 'alert'; of: string }) {
    const [read, set_read] = useState('');
    if (read === of) return null;
    return (
        <div class={`note ${name ?? ''}`} role={role}><p>{children}</p>
            <button type="button" class="close" aria-label="dismiss" onClick={() => set_read(of)}>×</button></div>
    );
}

// "1 token", "2 tokens"
export function counted(n: number, thing: string): string {
    return `${n} ${thing}${n === 1 ? '' : 's'}`;
}

export function Failure({ message }: { message: string }) {
    return <p class="failure" role="alert">{message}</p>;
}

export function Waiting({ what, fraction }: { what: string; fraction?: number }) {
    return (
        <p class="waiting" role="status">{what}
            {fraction !== undefined && <progress value={fraction} max={1} aria-label={what}>{Math.round(100 * fraction)} %</progress>}
        </p>
    );
}

// A canvas as large as its place, drawn again when it changes size or `inputs` do. `draw` gets CSS pixels.
export function Drawing({ draw, inputs, label, class: name, on, children }: {
    draw: (c: CanvasRenderingContext2D, width: number, height: number) => void;
    inputs: unknown[];
    label: string;
    class?: string;
    on?: { move?: (x: number, y: number) => void; click?: (x: number, y: number) => void; leave?: () => void };
    children?: ComponentChildren;
}) {
    const ref = useRef<HTMLCanvasElement>(null);
    const latest = useRef(draw);
    latest.current = draw;
    const redraw = () => {
        const canvas = ref.current;
        if (!canvas) return;
        const ratio = window.devicePixelRatio || 1;
        const { clientWidth: width, clientHeight: height } = canvas;
        if (width === 0 || height === 0) return;
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        const c = canvas.getContext('2d')!;
        c.setTransform(ratio, 0, 0, ratio, 0, 0);
        c.clearRect(0, 0, width, height);
        latest.current(c, width, height);
    };
    useEffect(redraw, [...inputs, is_dark()]);
    useEffect(() => {
        const observer = new ResizeObserver(redraw);
        observer.observe(ref.current!);
        return () => observer.disconnect();
    }, []);
    const at = (event: MouseEvent, call?: (x: number, y: number) => void) => {
        const box = ref.current!.getBoundingClientRect();
        call?.(event.clientX - box.left, event.clientY - box.top);
    };
    return (
        <div class={`drawing ${name ?? ''}`}>
            <canvas ref={ref} role="img" aria-label={label} onMouseMove={(e) => at(e, on?.move)} onClick={(e) => at(e, on?.click)}
                onMouseLeave={() => on?.leave?.()} />
            {children}
        </div>
    );
}

// A colour of the style sheet.
export function colour(name: string): string {
    return getComputedStyle(place()).getPropertyValue(`--${name}`).trim();
}
