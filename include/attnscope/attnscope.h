/* The C API of attnscope: recordings read and verified, and sessions that write them, for programs in C and for bindings.
 *
 *   attnscope_recording* recording = NULL;
 *   if (attnscope_recording_open("sky.attn", &recording) != ATTNSCOPE_OK) { puts(attnscope_error_message()); return 1; }
 *   int64_t column; float weight;
 *   attnscope_recording_strongest(recording, 41, 1, &column, &weight); // what token 41 looked at most; 1: but the first position
 *   attnscope_recording_free(recording);
 *
 * Conventions:
 * - Every function that can fail returns an attnscope_status. On anything but ATTNSCOPE_OK nothing was written to what its
 *   pointers name, and attnscope_error_message() has a sentence that a person can act on. No function aborts or throws.
 * - Handles are opaque. Who opens one frees it, once; freeing NULL does nothing. A handle belongs to one thread at a time;
 *   different handles may be used by different threads at once.
 * - Strings that come in are UTF-8, borrowed for the call. Strings that go out belong to the library and live as long as
 *   the handle; but for attnscope_recording_token_text(), until the next call of it with this handle, and for
 *   attnscope_error_message(), until this thread's next call that fails.
 * - Arrays go out into the caller's memory, whose size (in elements) is given; a size that is too small is
 *   ATTNSCOPE_INVALID_ARGUMENT, and nothing is written.
 * - Structs begin with struct_size, which the caller sets to sizeof: fields are only ever added at their end, and only
 *   struct_size bytes are read or written, so that programs built with an older header go on working. A struct shorter than
 *   that of version 1 is ATTNSCOPE_INVALID_ARGUMENT. ATTNSCOPE_API_VERSION grows with every addition; what is there stays.
 * - Words: a frame is what one token yields; a column is the index of a frame; a row holds the weights of one query at one
 *   layer and head (types.h). Layers are counted as in the recording, from 0.
 */
#ifndef ATTNSCOPE_H
#define ATTNSCOPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATTNSCOPE_API_VERSION 2

/* Numbers are those of attnscope::ErrorKind plus one, and stay. */
typedef enum attnscope_status {
    ATTNSCOPE_OK = 0,
    ATTNSCOPE_INVALID_ARGUMENT = 1, /* the caller asked for something that makes no sense */
    ATTNSCOPE_NOT_FOUND = 2,        /* no such file, token, layer */
    ATTNSCOPE_IO = 3,               /* the operating system said no */
    ATTNSCOPE_NOT_OURS = 4,         /* the file is something else */
    ATTNSCOPE_TOO_NEW = 5,          /* the file is ours, from a newer version */
    ATTNSCOPE_DAMAGED = 6,          /* the file is ours, and not what was written */
    ATTNSCOPE_UNSUPPORTED = 7,      /* cannot be done with this model, build or machine */
    ATTNSCOPE_ENGINE = 8            /* llama.cpp refused or failed */
} attnscope_status;

int32_t attnscope_api_version(void);       /* of the library; at least the header's, or do not go on */
const char* attnscope_version(void);       /* "0.1.0" */
const char* attnscope_error_message(void); /* of this thread's last failed call; "" when none failed */

/* ---- recordings ------------------------------------------------------------------------------------------------------- */

typedef struct attnscope_recording attnscope_recording;

attnscope_status attnscope_recording_open(const char* path, attnscope_recording** out);
void attnscope_recording_free(attnscope_recording* recording);

typedef struct attnscope_recording_info {
    size_t struct_size;
    int64_t n_frames;
    int32_t n_layer;
    int32_t n_head;       /* the largest number of query heads of a layer */
    int32_t complete;     /* 1: closed properly; 0: its writer died, or is still writing */
    const char* model;    /* general.name of the model; may be "" */
    const char* engine;   /* "llama.cpp 0.5.0 (ggml 0.25.1)" */
    const char* settings; /* every setting of the run, a JSON object */
} attnscope_recording_info;
attnscope_status attnscope_recording_get_info(attnscope_recording* recording, attnscope_recording_info* info);

typedef struct attnscope_frame {
    size_t struct_size;
    int32_t token;     /* vocabulary id; -1: unknown */
    int32_t position;  /* place in the sequence, as the engine numbered it */
    int32_t generated; /* 1: the model chose this token; 0: prompt */
    int32_t has_rows;  /* 0: this frame's queries were not kept */
    uint32_t verdict;  /* bits of VerdictBits (types.h); 0: ok */
} attnscope_frame;
attnscope_status attnscope_recording_get_frame(attnscope_recording* recording, int64_t index, attnscope_frame* frame);

/* The bytes a token id stands for (not always UTF-8 by itself, never with a 0 inside that ends them early: *n_bytes counts).
 * "" when the recording does not know it. Lives until the next call of this function with this recording. */
attnscope_status attnscope_recording_token_text(attnscope_recording* recording, int32_t token, const char** text,
                                                size_t* n_bytes);

/* Rows of the token at `index`, float32, (n_layers, n_heads, *n_columns) in C order; NULL and 0 select all. Columns that the
 * token does not see, heads that a layer does not have, and layers in which the token has no row, are 0. With `out` NULL only
 * *n_columns is told. */
attnscope_status attnscope_recording_rows(attnscope_recording* recording, int64_t index, const int32_t* layers,
                                          size_t n_layers, const int32_t* heads, size_t n_heads, float* out,
                                          size_t n_out, int64_t* n_columns);
/* Since version 2. Why the token at `index` has no row in the layer, a sentence: it was not captured, or is of an encoder and the
 * token of its decoder, or the other way round. "" when it has one. Lives until the next call of this function with this recording. */
attnscope_status attnscope_recording_why_no_row(attnscope_recording* recording, int64_t index, int32_t layer,
                                                const char** why);
/* The mean over all rows of the token, (*n_columns). attnscope_recording_rows() tells how many with `out` NULL. */
attnscope_status attnscope_recording_mean(attnscope_recording* recording, int64_t index, float* out, size_t n_out,
                                          int64_t* n_columns);
/* The column with the largest mean weight among those from `first_column` on (1 leaves the first position out).
 * ATTNSCOPE_NOT_FOUND when the token has none there. */
attnscope_status attnscope_recording_strongest(attnscope_recording* recording, int64_t index, int64_t first_column,
                                               int64_t* column, float* weight);

typedef struct attnscope_verify_result {
    size_t struct_size;
    int32_t good; /* 1: every frame ok, and the file whole */
    int64_t n_frames, n_ok;
    int64_t n_witnesses;    /* heads proven against the engine's output while it was captured */
    int64_t n_proven_again; /* whose row was computed from the file again, and is the one that was proven */
    double worst_ratio;     /* largest error / tolerance of a witness */
} attnscope_verify_result;
/* Reads the whole recording. */
attnscope_status attnscope_recording_verify(attnscope_recording* recording, attnscope_verify_result* result);

/* ---- sessions --------------------------------------------------------------------------------------------------------- */

typedef struct attnscope_session attnscope_session;

typedef struct attnscope_session_params {
    size_t struct_size;
    const char* model_path;   /* a GGUF file */
    int32_t n_ctx;            /* 4096 */
    int32_t n_batch;          /* 512 */
    int32_t n_threads;        /* 0: the number of cores */
    int32_t n_gpu_layers;     /* -1: all that fit */
    int32_t flash_attn;       /* -1: automatic; 0: off; 1: on */
    const char* cache_type_k; /* "f16" */
    const char* cache_type_v; /* "f16" */
} attnscope_session_params;
/* Sets all fields but struct_size, which is set before:
 *   attnscope_session_params params = {sizeof params};
 *   attnscope_session_default_params(&params); */
attnscope_status attnscope_session_default_params(attnscope_session_params* params);

attnscope_status attnscope_session_open(const attnscope_session_params* params, attnscope_session** out);
void attnscope_session_free(attnscope_session* session);

typedef struct attnscope_generate_params {
    size_t struct_size;
    int32_t n_predict; /* 128; -1: until the model stops or the context is full */
    float temperature; /* 0.8; 0: greedy */
    uint32_t seed;     /* 0xFFFFFFFF: a random one */
    int32_t chat;      /* 1: the prompt is a user's message in the model's chat template */
    /* Receives each generated token's bytes; anything but 0 ends the generation. May be NULL. */
    int (*text)(void* user_data, int32_t token, const char* piece, size_t n_bytes);
    void* user_data;
} attnscope_generate_params;
/* As attnscope_session_default_params(). */
attnscope_status attnscope_generate_default_params(attnscope_generate_params* params);

/* Generates from an empty context and records the attention of every token to `recording_path`, which must not exist. A crash
 * at any moment loses no token that was committed; the file then opens, incomplete. */
attnscope_status attnscope_session_record(attnscope_session* session, const char* prompt,
                                          const attnscope_generate_params* params, const char* recording_path);

#ifdef __cplusplus
}
#endif
#endif
