// Every key, in one list that "?" shows. A view adds its own while it is on screen.
import { useEffect } from 'preact/hooks';

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

function typing(target: EventTarget | null): boolean {
    const element = target as HTMLElement | null;
    return !!element?.closest?.('input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]');
}

export function listen(): () => void {
    const heard = (event: KeyboardEvent) => {
        if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
        if ((event.target as HTMLElement)?.matches?.('input[type=range]') && event.key.startsWith('Arrow')) return;
        const shifted = `Shift+${event.key}`;
        for (const [, keys] of [...groups].reverse()) {
            const key = keys.find((k) => k.keys.includes(event.shiftKey && k.keys.includes(shifted) ? shifted : event.key));
            if (!key) continue;
            event.preventDefault();
            key.run();
            return;
        }
    };
    window.addEventListener('keydown', heard);
    return () => window.removeEventListener('keydown', heard);
}

export const signs: Record<string, string> = {
    ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', 'Shift+ArrowLeft': '⇧←', 'Shift+ArrowRight': '⇧→', Escape: 'Esc', Home: 'Home', End: 'End',
};
