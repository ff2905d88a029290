// Asks for the key of a server that wants one.
import { useState } from 'preact/hooks';
import { Failure } from './parts';
import type { Key } from './transport/transport';

export function KeyForm({ access }: { access: Key }) {
    const [secret, set_secret] = useState('');
    return (
        <form class="key-form" onSubmit={(event) => { event.preventDefault(); access.give(secret.trim()); }}>
            <h2>This server asks for a key</h2>
            <p>It is one of those that it was started with (<code>--api-key</code>). The page keeps it as long as this tab is open.</p>
            <label class="control">Key <input type="password" autocomplete="off" autofocus value={secret} onInput={(event) => set_secret(event.currentTarget.value)} /></label>
            <button type="submit" disabled={secret.trim() === ''}>Open</button>
            {access.given() && <Failure message="That key is none of this server’s." />}
        </form>
    );
}
