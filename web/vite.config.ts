import { defineConfig } from 'vite';

// Two builds, each one script under a name that does not change. The page: viewer.js and viewer.css, which the binary embeds and an
// exported HTML file holds inline. The widget (`--mode widget`): widget.js, an ES module with its style inside, which another page
// imports. Nothing is fetched later.
export default defineConfig(({ mode }) => ({
    base: './',
    esbuild: { jsx: 'automatic' as const, jsxImportSource: 'preact', legalComments: 'none' as const },
    build: {
        target: 'es2022',
        outDir: process.env.ATTNSCOPE_WEB_OUT ?? 'dist',
        emptyOutDir: mode !== 'widget',
        cssCodeSplit: false,
        modulePreload: false as const,
        assetsInlineLimit: 0,
        ...(mode === 'widget' ? { lib: { entry: 'src/mount.tsx', formats: ['es' as const], fileName: () => 'widget.js' } } : {}),
        rollupOptions: {
            output: {
                inlineDynamicImports: true,
                entryFileNames: mode === 'widget' ? 'widget.js' : 'viewer.js',
                assetFileNames: 'viewer[extname]',
            },
        },
    },
    // A library's build leaves this to whoever imports it; a browser has no such thing.
    define: { 'process.env.NODE_ENV': '"production"' },
}));
