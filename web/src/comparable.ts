// Which other recording is offered beside the one that is shown. Of another shape, or with another first token, none can be compared.
import type { Opened } from './data';
import type { Info, Source } from './transport/transport';

export const most_looked_at = 32; // each is opened for it

const alike = (a: Info, b: Info) => a.layers.length === b.layers.length && a.n_heads === b.n_heads;

export interface Comparable {
    of: string;      // Opened.id
    source?: Source; // none of those that were looked at
}

// The first that can be compared, `before` where that can.
export async function comparable(opened: Opened, others: Source[], before?: Source): Promise<Comparable> {
    const again = others.filter((s) => s.id === before?.id);
    for (const source of [...again, ...others.slice(0, most_looked_at)]) {
        try {
            if (!alike(await opened.transport.info(source.id), opened.info)) continue;
            const { ids } = await opened.transport.tokens(source.id);
            if (ids.length > 0 && ids[0] === opened.tokens.ids[0]) return { of: opened.id, source };
        } catch {
            // damaged, or gone meanwhile: another one
        }
    }
    return { of: opened.id };
}
