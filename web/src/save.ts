// What is shown, as a file: CSV of numbers, PNG of pictures. Nothing is sent anywhere.
import type { Selection } from './transport/transport';

function download(name: string, blob: Blob) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A field that begins like a formula would be run by a spreadsheet: token texts come from strangers.
function field(value: string | number): string {
    if (typeof value === 'number') return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

// `sequence`: of the recording, where it has several: a column more.
export function save_csv(name: string, header: string[], rows: (string | number)[][], sequence?: number) {
    const all = sequence === undefined ? [header, ...rows] : [[...header, 'sequence'], ...rows.map((row) => [...row, sequence])];
    const lines = all.map((row) => row.map(field).join(','));
    download(`${name}.csv`, new Blob([lines.join('\r\n') + '\r\n'], { type: 'text/csv;charset=utf-8' }));
}

export function save_png(name: string, canvas: HTMLCanvasElement) {
    canvas.toBlob((blob) => blob && download(`${name}.png`, blob), 'image/png');
}

// Which rows: as part of a file's name, and as fields of its lines.
export function rows_name(s: Selection): string {
    return [...(s.layer >= 0 ? [`layer-${s.layer}`] : []), ...(s.head >= 0 ? [`head-${s.head}`] : []), ...(s.layer >= 0 && s.head >= 0 ? [] : [s.reduce])].join('-');
}
export const rows_header = ['layer', 'head', 'reduce'];
export function rows_fields(s: Selection): (string | number)[] {
    return [s.layer >= 0 ? s.layer : 'all', s.head >= 0 ? s.head : 'all', s.layer >= 0 && s.head >= 0 ? '' : s.reduce];
}

// What a view offers to save; the shell's buttons and keys call it, and make pictures themselves.
export interface Saves {
    csv?: () => void;
    name?: string; // of the picture, without its ending
}
export const saves: { now: Saves } = { now: {} };
