// The layout of a .attn file. docs/format.md says the same in prose; a change here is a change of format_version.
//
//   SQLite 3 database, application_id "ATTN", user_version = the format's version
//
//   table       one row                rows are numbered
//   meta        key, value             by key; who wrote what with which settings, geometry, counts
//   frame       a token                sequence << 40 | index; q is last, so that reading the rest never touches it
//   k_block     a chunk of a layer     sequence << 40 | (chunk * n_layer + layer); keys, (frames of the chunk, n_head_kv,
//                                      head_dim) in the layer's k_type; a chunk counts from a sequence's first own frame
//   k_tail      a token                as frame; Frame::k of frames whose chunk is not sealed yet
//   token_text  a token id             by id; the bytes it stands for, not always UTF-8 by themselves
//   sequence    a line of text         0, 1, 2, ...
//   media       a picture or sound     0, 1, 2, ...
//
// Version 1 had one sequence (so that its numbers are those of sequence 0) and neither of the last two tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace attnscope::recording {

inline constexpr int32_t application_id = 0x4154544E; // "ATTN"
inline constexpr int32_t format_version = 2;

// Both sides keep to these limits: the writer so that its files can be read, the reader so that a file cannot
// make it allocate what no capture needs.
inline constexpr int32_t max_layers = 4096;
inline constexpr int32_t max_heads = 4096;
inline constexpr int32_t max_head_dim = 16384;
inline constexpr int32_t max_mask_groups = 4096; // one a layer, where each chooses for itself
inline constexpr int32_t max_bias_reach = 1 << 14;
inline constexpr size_t max_bias_floats = size_t(1) << 20;  // of a layer
inline constexpr size_t max_frame_bytes = size_t(64) << 20; // of Q, and of K
inline constexpr size_t max_block_bytes = size_t(64) << 20; // of one layer's keys in a chunk
inline constexpr size_t max_meta_bytes = size_t(4) << 20;   // of one value
inline constexpr int max_meta_rows = 64;
inline constexpr int64_t max_sequences = int64_t(1) << 16; // row numbers then leave the seed's first byte alone
inline constexpr int64_t max_media = int64_t(1) << 16;
inline constexpr size_t max_label_bytes = size_t(4) << 10;   // of a sequence's or a picture's texts, each
inline constexpr size_t max_visible_bytes = size_t(4) << 20; // encoded, all mask groups of a frame
inline constexpr size_t max_witnesses = 4096;                // of a frame
inline constexpr size_t max_piece_bytes = size_t(64) << 10;
inline constexpr size_t max_text_bytes = size_t(64) << 20; // all pieces together
inline constexpr int32_t max_chunk_frames = 256;
inline constexpr size_t max_row_floats = size_t(1) << 30; // what one call of rows() may return
// No frame row is smaller: bounds the number of frames a file can claim by its size.
inline constexpr int64_t min_frame_row_bytes = 24;

// Numbers of rows: a sequence, and what is counted within it.
inline constexpr int row_shift = 40;
inline constexpr int64_t max_index = int64_t(1) << row_shift; // below it: of frames of a sequence, and of its blocks
constexpr int64_t row_number(int64_t sequence, int64_t within) {
    return sequence << row_shift | within;
}

struct Table {
    const char* name;
    const char* sql; // exactly as it stands in sqlite_schema
};

inline constexpr Table tables_of_version_1[] = {
    {"meta", "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID"},
    {"frame",
     "CREATE TABLE frame (idx INTEGER PRIMARY KEY, token INTEGER NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT "
     "NULL, "
     "verdict INTEGER NOT NULL, checksum INTEGER NOT NULL, q_checksum INTEGER NOT NULL, visible BLOB NOT NULL, "
     "witnesses BLOB NOT NULL, q BLOB)"},
    {"k_block", "CREATE TABLE k_block (id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)"},
    {"k_tail", "CREATE TABLE k_tail (idx INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)"},
    {"token_text",
     "CREATE TABLE token_text (token INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, piece BLOB NOT NULL)"},
};

inline constexpr Table tables_of_version_2[] = {
    tables_of_version_1[0],
    {"frame",
     "CREATE TABLE frame (id INTEGER PRIMARY KEY, token INTEGER NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT "
     "NULL, "
     "batched INTEGER NOT NULL, verdict INTEGER NOT NULL, checksum INTEGER NOT NULL, q_checksum INTEGER NOT NULL, "
     "visible BLOB NOT NULL, witnesses BLOB NOT NULL, q BLOB)"},
    tables_of_version_1[2],
    {"k_tail", "CREATE TABLE k_tail (id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)"},
    tables_of_version_1[4],
    {"sequence", "CREATE TABLE sequence (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, n_shared INTEGER NOT NULL, "
                 "n_own INTEGER NOT NULL, keys_of INTEGER NOT NULL, geometry INTEGER NOT NULL, ended INTEGER NOT NULL, "
                 "checksum INTEGER NOT NULL, "
                 "label TEXT NOT NULL, end_reason TEXT NOT NULL)"},
    {"media", "CREATE TABLE media (id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, begin INTEGER NOT NULL, \"end\" "
              "INTEGER NOT NULL, "
              "kind INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, n_patch_x INTEGER NOT NULL, "
              "n_patch_y INTEGER NOT NULL, checksum INTEGER NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL)"},
};

constexpr std::span<const Table> tables_of(int32_t version) {
    return version == 1 ? std::span<const Table>(tables_of_version_1) : std::span<const Table>(tables_of_version_2);
}

} // namespace attnscope::recording
