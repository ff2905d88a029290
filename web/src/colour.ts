// Colour maps that stay in order for colour-blind readers: one hue, or viridis and cividis, with lightness that goes one way. Anchors
// are ColorBrewer's YlOrBr and Blues and Matplotlib's maps; between anchors, linear in sRGB. On light paper viridis and cividis end in
// white, so that next to nothing looks like nothing: their light ends are mixed with it (75%, 45%, 15%).

export type MapName = 'warm' | 'cool' | 'viridis' | 'cividis' | 'grey';

const light: Record<MapName, string[]> = {
    warm: ['#ffffff', '#fff7bc', '#fee391', '#fec44f', '#fe9929', '#ec7014', '#cc4c02', '#8c2d04'],
    cool: ['#ffffff', '#deebf7', '#c6dbef', '#9ecae1', '#6baed6', '#4292c6', '#2171b5', '#08459b'],
    viridis: ['#ffffff', '#e7f6ce', '#9cddaf', '#41af99', '#277f8e', '#365c8d', '#46327e', '#440154'],
    cividis: ['#ffffff', '#f4f0d9', '#cec9b3', '#91908c', '#575d6d', '#35456c', '#0d3268', '#00224e'],
    grey: ['#ffffff', '#d9d9d9', '#969696', '#525252', '#000000'],
};
const dark: Record<MapName, string[]> = {
    warm: ['#14161a', '#3d2410', '#6b3308', '#a34a06', '#d96f10', '#fe9929', '#fec44f', '#fff3b0'],
    cool: ['#14161a', '#10263f', '#124272', '#1c64a6', '#3a8bcb', '#6baed6', '#9ecae1', '#e3f0fb'],
    viridis: ['#440154', '#46327e', '#365c8d', '#277f8e', '#1fa187', '#4ac16d', '#a0da39', '#fde725'],
    cividis: ['#00224e', '#0d3268', '#35456c', '#575d6d', '#7d7c78', '#a69d75', '#d3c164', '#fee838'],
    grey: ['#14161a', '#404040', '#808080', '#c0c0c0', '#ffffff'],
};

export interface Lut {
    rgb: Uint8Array;      // (256, 3)
    css: string[];        // 256
    ink: string[];        // text that can be read on it
}

function channels(hex: string): number[] {
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

const made = new Map<string, Lut>();

export function lut(name: MapName, is_dark: boolean): Lut {
    const key = `${name}${is_dark}`;
    let found = made.get(key);
    if (found) return found;
    const anchors = (is_dark ? dark : light)[name].map(channels);
    const rgb = new Uint8Array(256 * 3);
    const css: string[] = [];
    const ink: string[] = [];
    for (let i = 0; i < 256; ++i) {
        const at = (i / 255) * (anchors.length - 1);
        const low = Math.min(Math.floor(at), anchors.length - 2);
        const c = [0, 1, 2].map((k) => Math.round(anchors[low][k] + (anchors[low + 1][k] - anchors[low][k]) * (at - low)));
        rgb.set(c, 3 * i);
        css.push(`rgb(${c[0]},${c[1]},${c[2]})`);
        ink.push(luminance(c) > 0.22 ? '#101114' : '#ffffff');
    }
    found = { rgb, css, ink };
    made.set(key, found);
    return found;
}

// Relative luminance as WCAG 2 defines it; 0.22 leaves at least 4:1 with either ink.
function luminance(c: number[]): number {
    const [r, g, b] = c.map((v) => {
        const s = v / 255;
        return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// From a weight to 0..1 of a map. Log: so many decades below the largest.
export interface Scale {
    largest: number;
    log: boolean;
    decades: number;
}
export const text_decades = 2;   // of a text: with more, everything that is read a little looks alike
export const matrix_decades = 4; // as `attnscope show --log`

export function shade(weight: number, scale: Scale): number {
    if (!(scale.largest > 0) || !(weight > 0)) return 0;
    const x = weight / scale.largest;
    return Math.min(1, scale.log ? Math.max(0, 1 + Math.log10(x) / scale.decades) : x);
}
export function unshade(at: number, scale: Scale): number {
    return scale.log ? scale.largest * 10 ** ((at - 1) * scale.decades) : scale.largest * at;
}

// As `attnscope show --values` prints a weight: enough digits to tell any two apart.
export function exact(weight: number): string {
    return Number.isFinite(weight) ? String(Number(weight.toPrecision(9))) : '–';
}

export function percent(weight: number): string {
    if (!Number.isFinite(weight)) return '–';
    const p = 100 * weight;
    if (p === 0) return '0 %';
    if (p >= 10) return `${p.toFixed(1)} %`;
    if (p >= 0.01) return `${p.toFixed(3)} %`;
    return `${p.toExponential(1)} %`;
}
