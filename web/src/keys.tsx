// Every key, in one list that "?" shows. A view adds its own while it is on screen.
import { useEffect } from 'preact/hooks';
import { hears, is_whole_page, place } from './place';

export interface Key {
    keys: string[];      // as KeyboardEvent.key; "Shift+x" for the other meaning of x
    says: string;
    run: () => void;
    when?: () => boolean; // only then; otherwise the key means what it means elsewhere
}

const groups = new Map<string, Key[]>();

export function use_keys(group: string, keys: Key[]) {
    useEffect(() => {
        groups.set(group, keys);
        return () => {
            if (groups.get(group) === keys) groups.delete(group);
        };
    });
}

// Those that count everywhere first: what a view adds goes before them, whichever was drawn last.
export const everywhere = 'Everywhere';
function in_order(): [string, Key[]][] {
    return [...groups].sort(([a], [b]) => Number(b === everywhere) - Number(a === everywhere));
}

// As they count now: a key that a view takes for itself is not listed with its other meaning.
export function all_keys(): [string, Key[]][] {
    const taken = new Set<string>();
    const out: [string, Key[]][] = [];
    for (const [group, keys] of in_order().reverse()) {
        const left = keys.map((key) => ({ ...key, keys: key.keys.filter((k) => !taken.has(k)) })).filter((key) => key.keys.length > 0);
        for (const key of keys) if (!key.when) key.keys.forEach((k) => taken.add(k));
        if (left.length > 0) out.push([group, left]);
    }
    return out.reverse();
}

function typing(target: EventTarget | undefined): boolean {
    const element = target as HTMLElement | undefined;
    return !!element?.closest?.('input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]');
}

export function listen(): () => void {
    const heard = (event: KeyboardEvent) => {
        const target = event.composedPath()[0]; // inside a shadow tree, too
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        if (typing(target)) {
            const field = target as HTMLElement;
            if (event.key === 'Escape') leave(field);
            if (event.key !== '?' || !field.matches('select')) return; // which knows no "?"
        }
        if ((target as HTMLElement)?.matches?.('input[type=range]') && event.key.startsWith('Arrow')) return;
        const shifted = `Shift+${event.key}`;
        for (const [, keys] of in_order().reverse()) {
            const of = (name: string) => keys.find((k) => k.keys.includes(name) && (!k.when || k.when()));
            const key = (event.shiftKey ? of(shifted) : undefined) ?? of(event.key);
            if (!key) continue;
            event.preventDefault();
            event.stopPropagation(); // a notebook has keys of its own
            key.run();
            // What had the focus may be gone with its view; as a part of another page the keys would go with it.
            if (!is_whole_page()) requestAnimationFrame(() => place().matches(':focus-within') || place().focus({ preventScroll: true }));
            return;
        }
    };
    const by = hears();
    by.addEventListener('keydown', heard as (event: Event) => void);
    return () => by.removeEventListener('keydown', heard as (event: Event) => void);
}

// Keys count again, and the next Tab goes on from there.
export function leave(field: HTMLElement) {
    field.blur();
    if (!is_whole_page()) place().focus({ preventScroll: true });
}

export const signs: Record<string, string> = {
    ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', 'Shift+ArrowLeft': '⇧←', 'Shift+ArrowRight': '⇧→',
    'Shift+ArrowUp': '⇧↑', 'Shift+ArrowDown': '⇧↓', Escape: 'Esc', Home: 'Home', End: 'End',
};
