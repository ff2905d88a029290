// What is shown, as a file: CSV of numbers, PNG of pictures. Nothing is sent anywhere.

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

export function save_csv(name: string, header: string[], rows: (string | number)[][]) {
    const lines = [header, ...rows].map((row) => row.map(field).join(','));
    download(`${name}.csv`, new Blob([lines.join('\r\n') + '\r\n'], { type: 'text/csv;charset=utf-8' }));
}

export function save_png(name: string, canvas: HTMLCanvasElement) {
    canvas.toBlob((blob) => blob && download(`${name}.png`, blob), 'image/png');
}

// What a view offers to save; the shell's buttons and keys call it, and make pictures themselves.
export interface Saves {
    csv?: () => void;
}
export const saves: { now: Saves } = { now: {} };
