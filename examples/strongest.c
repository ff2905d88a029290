/* Prints, for each token of a recording, the position that it looked at most (the first one aside).
 *   example_strongest sky.attn */
#include <attnscope/attnscope.h>

#include <stdio.h>

int main(int argc, char** argv) {
    attnscope_recording* recording = NULL;
    attnscope_recording_info info = {.struct_size = sizeof info};
    if (argc != 2 || attnscope_recording_open(argv[1], &recording) || attnscope_recording_get_info(recording, &info)) {
        return fprintf(stderr, "error: %s\n",
                       argc == 2 ? attnscope_error_message() : "usage: example_strongest FILE.attn"),
               1;
    }
    for (int64_t i = 1; i < info.n_frames; ++i) {
        int64_t column;
        float weight;
        if (attnscope_recording_strongest(recording, i, 1, &column, &weight)) continue; /* its rows were not kept */
        printf("%6lld looked at %6lld (%.1f%%)\n", (long long)i, (long long)column, 100.0 * (double)weight);
    }
    attnscope_recording_free(recording);
    return 0;
}
