// Where the page lives: the whole document, or an element of somebody else's (a notebook's cell), whose style, keys and address are not
// ours.
let element: HTMLElement = document.documentElement;
let root: ParentNode = document;

export function live_in(host: HTMLElement, inside: ParentNode) {
    element = host;
    root = inside;
}

// Carries the theme, and the style sheet's colours.
export function place(): HTMLElement {
    return element;
}

export function find<T extends Element>(selector: string): T | null {
    return root.querySelector<T>(selector);
}

// Who hears keys: of a page the window, of a part of a page that part.
export function hears(): EventTarget {
    return element === document.documentElement ? window : element;
}

export function is_whole_page(): boolean {
    return element === document.documentElement;
}
