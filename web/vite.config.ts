import { defineConfig } from 'vite';

// One script and one style sheet under names that do not change: the binary embeds them, and an exported HTML file holds
// them inline. Nothing is fetched later.
export default defineConfig({
    base: './',
    esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
    build: {
        target: 'es2022',
        outDir: process.env.ATTNSCOPE_WEB_OUT ?? 'dist',
        emptyOutDir: true,
        cssCodeSplit: false,
        modulePreload: false,
        assetsInlineLimit: 0,
        rollupOptions: {
            output: {
                inlineDynamicImports: true,
                entryFileNames: 'viewer.js',
                assetFileNames: 'viewer[extname]',
            },
        },
    },
});
