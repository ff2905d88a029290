// Every key, in one list that "?" shows. A view adds its own while it is on screen.
import { useEffect } from 'preact/hooks';
import { hears, is_whole_page, place } from './place';

export interface Key {
    keys: string[];      // as KeyboardEvent.key; "Shift+x" for the other meaning of x
    says: string;
    run: () => void;
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

export function all_keys(): [string, Key[]][] {
    return [...groups];
}

function typing(target: EventTarget | undefined): boolean {
    const element = target as HTMLElement | undefined;
    return !!element?.closest?.('input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]');
}

export function listen(): () => void {
    const heard = (event: KeyboardEvent) => {
        const target = event.composedPath()[0]; // inside a shadow tree, too
        if (event.ctrlKey || event.metaKey || event.altKey || typing(target)) return;
        if ((target as HTMLElement)?.matches?.('input[type=range]') && event.key.startsWith('Arrow')) return;
        const shifted = `Shift+${event.key}`;
        for (const [, keys] of [...groups].reverse()) {
            const of = (name: string) => keys.find((k) => k.keys.includes(name));
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

export const signs: Record<string, string> = {
    ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', 'Shift+ArrowLeft': '⇧←', 'Shift+ArrowRight': '⇧→', Escape: 'Esc', Home: 'Home', End: 'End',
};
