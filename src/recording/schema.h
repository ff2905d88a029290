// The layout of a .attn file. docs/format.md says the same in prose; a change here is a change of
// format_version.
//
//   SQLite 3 database, application_id "ATTN", user_version = format_version
//   meta       (key, value, checksum)      who wrote what with which settings; geometry; counts as of the
//   last commit frame      (idx, token, ..., q)        one row a frame; q last, so that reading the rest
//   never touches its pages k_block    (id, checksum, data)        sealed keys: id = chunk * n_layer + layer,
//                                          data = (frames of the chunk, n_head_kv, head_dim) in the layer's
//                                          k_type
//   k_tail     (idx, checksum, data)       keys of frames whose chunk is not sealed yet: data = Frame::k
//   token_text (token, checksum, piece)    the bytes a token id stands for; not always UTF-8 by itself
#pragma once

#include <cstddef>
#include <cstdint>

namespace attnscope::recording {

inline constexpr int32_t application_id = 0x4154544E; // "ATTN"
inline constexpr int32_t format_version = 1;

// Both sides keep to these limits: the writer so that its files can be read, the reader so that a file cannot
// make it allocate what no capture needs.
inline constexpr int32_t max_layers = 4096;
inline constexpr int32_t max_heads = 4096;
inline constexpr int32_t max_head_dim = 16384;
inline constexpr int32_t max_mask_groups = 64;
inline constexpr size_t max_frame_bytes = size_t(64) << 20; // of Q, and of K
inline constexpr size_t max_block_bytes = size_t(64) << 20; // of one layer's keys in a chunk
inline constexpr size_t max_meta_bytes = size_t(4) << 20;   // of one value
inline constexpr int max_meta_rows = 64;
inline constexpr size_t max_visible_bytes = size_t(4) << 20; // encoded, all mask groups of a frame
inline constexpr size_t max_witnesses = 4096;                // of a frame
inline constexpr size_t max_piece_bytes = size_t(64) << 10;
inline constexpr size_t max_text_bytes = size_t(64) << 20; // all pieces together
inline constexpr int32_t max_chunk_frames = 256;
inline constexpr size_t max_row_floats = size_t(1) << 30; // what one call of rows() may return
// No frame row is smaller: bounds the number of frames a file can claim by its size.
inline constexpr int64_t min_frame_row_bytes = 24;

struct Table {
    const char* name;
    const char* sql; // exactly as it stands in sqlite_schema
};

inline constexpr Table tables[] = {
    {"meta", "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) "
             "WITHOUT ROWID"},
    {"frame",
     "CREATE TABLE frame (idx INTEGER PRIMARY KEY, token INTEGER NOT NULL, position INTEGER NOT NULL, "
     "kind INTEGER NOT NULL, verdict INTEGER NOT NULL, checksum INTEGER NOT NULL, q_checksum INTEGER NOT "
     "NULL, "
     "visible BLOB NOT NULL, witnesses BLOB NOT NULL, q BLOB)"},
    {"k_block",
     "CREATE TABLE k_block (id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)"},
    {"k_tail",
     "CREATE TABLE k_tail (idx INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)"},
    {"token_text",
     "CREATE TABLE token_text (token INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, piece BLOB NOT NULL)"},
};

} // namespace attnscope::recording
