/* Generates with a model, records, reads the recording again and verifies it: from_c MODEL.gguf RECORDING.attn */
#include <attnscope/attnscope.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int expect(int holds, const char* what) {
    if (!holds) fprintf(stderr, "failed: %s (last error: %s)\n", what, attnscope_error_message());
    return holds ? 0 : 1;
}

static int n_pieces = 0;
static int count_piece(void* user_data, int32_t token, const char* piece, size_t n_bytes) {
    (void)user_data, (void)token, (void)piece, (void)n_bytes;
    return ++n_pieces == 5; /* ends the generation */
}

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    int failures = expect(attnscope_api_version() >= ATTNSCOPE_API_VERSION, "the library is as new as its header");
    attnscope_session* session = NULL;
    attnscope_session_params params = {.struct_size = sizeof params};
    failures += expect(attnscope_session_default_params(&params) == ATTNSCOPE_OK && params.n_ctx > 0 &&
                           params.struct_size == sizeof params,
                       "the defaults");
    failures +=
        expect(attnscope_session_open(&params, &session) == ATTNSCOPE_INVALID_ARGUMENT, "no model_path is refused");
    failures += expect(strlen(attnscope_error_message()) > 10, "an error has a sentence");
    params.model_path = "no/such.gguf";
    failures += expect(attnscope_session_open(&params, &session) == ATTNSCOPE_NOT_FOUND && !session,
                       "a model that is not there");
    params.model_path = argv[1];
    params.struct_size = 4;
    failures +=
        expect(attnscope_session_open(&params, &session) == ATTNSCOPE_INVALID_ARGUMENT, "a struct that is too short");
    params.struct_size = sizeof params;
    failures += expect(attnscope_session_open(&params, &session) == ATTNSCOPE_OK, "the model opens");
    if (failures) return 1;

    remove(argv[2]);
    attnscope_generate_params generate = {.struct_size = sizeof generate};
    failures += expect(attnscope_generate_default_params(&generate) == ATTNSCOPE_OK, "the defaults of a generation");
    generate.temperature = 0;
    generate.text = count_piece;
    failures += expect(attnscope_session_record(session, "one two three", &generate, argv[2]) == ATTNSCOPE_OK,
                       "a generation is recorded");
    failures += expect(n_pieces == 5, "the callback ends the generation");
    failures += expect(attnscope_session_record(session, "one", &generate, argv[2]) != ATTNSCOPE_OK,
                       "an existing file is refused");
    attnscope_session_free(session);

    attnscope_recording* recording = NULL;
    attnscope_recording_info info = {.struct_size = sizeof info};
    failures += expect(attnscope_recording_open(argv[2], &recording) == ATTNSCOPE_OK, "the recording opens");
    failures +=
        expect(attnscope_recording_get_info(recording, &info) == ATTNSCOPE_OK && info.complete && info.n_frames > 5,
               "it is complete");
    attnscope_frame frame = {.struct_size = sizeof frame};
    failures += expect(attnscope_recording_get_frame(recording, info.n_frames - 1, &frame) == ATTNSCOPE_OK &&
                           frame.generated && frame.verdict == 0 && frame.has_rows,
                       "its last frame is a good one of a generated token");
    failures += expect(attnscope_recording_get_frame(recording, info.n_frames, &frame) == ATTNSCOPE_NOT_FOUND,
                       "there is none behind it");
    /* a program built with the first header, in which the frame ended behind `verdict`; and one with a later header */
    union {
        attnscope_frame frame;
        unsigned char bytes[sizeof(attnscope_frame) + 16];
    } old;
    memset(&old, 0xA5, sizeof old);
    old.frame.struct_size = offsetof(attnscope_frame, verdict) + sizeof old.frame.verdict;
    const size_t old_size = old.frame.struct_size;
    failures += expect(attnscope_recording_get_frame(recording, info.n_frames - 1, &old.frame) == ATTNSCOPE_OK &&
                           old.frame.generated && old.frame.verdict == 0 && old.frame.struct_size == old_size,
                       "the struct of an older header");
    for (size_t i = old_size; i < sizeof old; ++i)
        failures += expect(old.bytes[i] == 0xA5, "nothing behind it is written");
    old.frame.struct_size = sizeof old;
    failures += expect(attnscope_recording_get_frame(recording, info.n_frames - 1, &old.frame) == ATTNSCOPE_OK,
                       "the struct of a later header");
    for (size_t i = sizeof old.frame; i < sizeof old; ++i)
        failures += expect(old.bytes[i] == 0xA5, "fields that this library does not know are left alone");
    int64_t n = 0;
    failures +=
        expect(attnscope_recording_rows(recording, info.n_frames - 1, NULL, 0, NULL, 0, NULL, 0, &n) == ATTNSCOPE_OK &&
                   n == info.n_frames,
               "the width of its rows");
    const size_t size = (size_t)info.n_layer * (size_t)info.n_head * (size_t)n;
    float* rows = malloc(size * sizeof *rows);
    failures += expect(attnscope_recording_rows(recording, info.n_frames - 1, NULL, 0, NULL, 0, rows, size - 1, &n) ==
                           ATTNSCOPE_INVALID_ARGUMENT,
                       "too little room is refused");
    failures +=
        expect(attnscope_recording_rows(recording, info.n_frames - 1, NULL, 0, NULL, 0, rows, size, &n) == ATTNSCOPE_OK,
               "its rows");
    for (size_t r = 0; r < size / (size_t)n; ++r) {
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += (double)rows[r * (size_t)n + (size_t)j];
        failures += expect(fabs(sum - 1) < 1e-5, "each row sums to 1");
    }
    const char* why = NULL;
    failures += expect(attnscope_recording_why_no_row(recording, 0, 0, &why) == ATTNSCOPE_OK && why && why[0] == 0,
                       "there is nothing to say of a row that is there");
    failures += expect(attnscope_recording_why_no_row(recording, 0, info.n_layer, &why) == ATTNSCOPE_NOT_FOUND &&
                           attnscope_recording_why_no_row(recording, -1, 0, &why) == ATTNSCOPE_NOT_FOUND &&
                           attnscope_recording_why_no_row(recording, 0, 0, NULL) == ATTNSCOPE_INVALID_ARGUMENT,
                       "a layer and a token that are not there");
    float* mean = malloc((size_t)n * sizeof *mean);
    failures += expect(attnscope_recording_mean(recording, info.n_frames - 1, mean, (size_t)n, &n) == ATTNSCOPE_OK,
                       "their mean");
    int64_t column = 0;
    float weight = 0;
    failures +=
        expect(attnscope_recording_strongest(recording, info.n_frames - 1, 1, &column, &weight) == ATTNSCOPE_OK &&
                   column >= 1 && mean[column] == weight,
               "the strongest column is the mean's");
    failures += expect(attnscope_recording_strongest(recording, info.n_frames - 1, -1, &column, &weight) ==
                           ATTNSCOPE_INVALID_ARGUMENT,
                       "a column below 0 is refused");
    failures += expect(attnscope_recording_strongest(recording, 0, 1, &column, &weight) == ATTNSCOPE_NOT_FOUND,
                       "the first token has no column but the first");
    attnscope_verify_result verified = {.struct_size = sizeof verified};
    failures += expect(attnscope_recording_verify(recording, &verified) == ATTNSCOPE_OK && verified.good &&
                           verified.n_ok == info.n_frames,
                       "it verifies");
    free(rows);
    free(mean);
    attnscope_recording_free(recording);
    attnscope_recording_free(NULL);
    printf("%s: %d failures\n", failures ? "bad" : "good", failures);
    return failures ? 1 : 0;
}
