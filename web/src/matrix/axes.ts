// What lies over the matrix: numbers or token texts along both axes, the pointer's cross, a selected span.
import type { Opened } from '../data';
import { colour } from '../parts';
import { label } from '../text/pieces';
import type { Camera } from './renderer';

// CSS pixels along the axes, where dragging selects.
export const gutter = 18;
export const number_gutter = 46;
const text_gutter = 96;

export function draw_axes(canvas: HTMLCanvasElement, camera: Camera, opened: Opened, hover?: { query: number; key: number },
    span?: { begin: number; end: number; axis: 'key' | 'query' }) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h]; // which empties it, and costs a frame
    const c = canvas.getContext('2d')!;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const n = opened.n;
    const to_x = (key: number) => (key - camera.x) / camera.step;
    const to_y = (query: number) => (query - camera.y) / camera.step;

    const ground = (x: number, y: number, w: number, h: number) => { // cells do not shine through
        c.fillStyle = colour('ground');
        c.fillRect(x, y, w, h);
        c.fillStyle = colour('ink');
    };
    c.font = '11px ui-monospace, monospace';
    c.textBaseline = 'middle';
    const pixels = 1 / camera.step;
    const texts = pixels >= 13; // a token is high enough for its text
    const every = texts ? 1 : round_step(70 * camera.step);
    const from = (at: number) => Math.max(0, Math.ceil(at / every) * every);
    ground(0, 0, width, gutter);
    const side = texts ? text_gutter : number_gutter;
    ground(0, gutter, side, height);
    if (span) {
        c.fillStyle = colour('accent');
        c.globalAlpha = 0.25;
        if (span.axis === 'key') c.fillRect(to_x(span.begin), 0, (span.end - span.begin) / camera.step, height);
        else c.fillRect(0, to_y(span.begin), width, (span.end - span.begin) / camera.step);
        c.globalAlpha = 1;
    }
    c.fillStyle = colour('ink');
    for (let i = from(camera.y); i < n && to_y(i) < height; i += every) {
        c.textAlign = 'right';
        const y = to_y(i) + (texts ? pixels / 2 : 0);
        if (y > gutter + 4) c.fillText(texts ? label(opened.text(i), 13) : String(i), (texts ? text_gutter : number_gutter) - 4, y);
    }
    const every_x = texts && pixels < 60 ? Math.ceil(60 / pixels) : every;
    for (let i = Math.max(0, Math.ceil(camera.x / every_x) * every_x); i < n && to_x(i) < width; i += every_x) {
        c.textAlign = 'left';
        const x = to_x(i);
        if (x > side) c.fillText(texts ? label(opened.text(i), 8) : String(i), x + 1, gutter / 2);
    }
    if (hover) {
        c.strokeStyle = colour('ink');
        c.globalAlpha = 0.6;
        c.strokeRect(to_x(hover.key), gutter, Math.max(1, 1 / camera.step), height);
        c.strokeRect(side, to_y(hover.query), width, Math.max(1, 1 / camera.step));
        c.globalAlpha = 1;
        // Both tokens by number and text, where their lines meet the axes.
        const tag = (text: string, x: number, y: number) => {
            const w = c.measureText(text).width + 8;
            const left = Math.max(0, Math.min(width - w, x));
            c.fillStyle = colour('ink');
            c.fillRect(left, y, w, gutter);
            c.fillStyle = colour('ground');
            c.textAlign = 'left';
            c.fillText(text, left + 4, y + gutter / 2);
        };
        tag(`${hover.key} ${label(opened.text(hover.key), 14)}`, to_x(hover.key) - 4, 0);
        tag(`${hover.query} ${label(opened.text(hover.query), 14)}`, 0, Math.max(gutter, Math.min(height - gutter, to_y(hover.query) + pixels / 2 - gutter / 2)));
    }
}

// 1, 2, 5, 10, 20, ... at least `least`.
function round_step(least: number): number {
    const decade = 10 ** Math.floor(Math.log10(Math.max(1, least)));
    return [1, 2, 5, 10].map((m) => m * decade).find((step) => step >= least) ?? 10 * decade;
}
