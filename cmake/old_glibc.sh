#!/bin/sh
# Libraries to link with in the place of this machine's glibc, so that what is linked asks for functions under the versions that they
# had first, which every later glibc still has: COMPILER VERSION FOLDER. Their functions do nothing: they are never loaded.
set -eu
compiler=$1 version=$2 folder=$3
rm -rf "$folder"
mkdir -p "$folder"
stub() {
    name=$1
    shift
    {
        echo '.section .note.GNU-stack,"",%progbits'
        echo '.text'
        for function in "$@"; do
            printf '.globl %s\n.type %s, %%function\n%s: .byte 0\n' "$function" "$function" "$function"
        done
    } >"$folder/$name.s"
    printf '%s { global: *; };\n' "$version" >"$folder/$name.map"
    "$compiler" -shared -nostdlib "-Wl,-soname,$name" "-Wl,--version-script=$folder/$name.map" -o "$folder/$name" "$folder/$name.s"
}
stub libdl.so.2 dlopen dlsym dlclose
stub libpthread.so.0 pthread_create pthread_join pthread_once pthread_key_create pthread_key_delete __pthread_key_create \
    pthread_getspecific pthread_setspecific pthread_mutex_trylock pthread_detach pthread_sigmask
stub libm.so.6 exp log pow expf logf powf sqrt sqrtf tanhf
touch "$folder/made"
