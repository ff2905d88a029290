// Captures of attention as anybody made them: Halo Weave folders (both forms), .npy, .npz, .safetensors, raw
// float32, and our own recordings. Nothing in them is trusted; nothing but two tokens is kept in memory.
//
// A dump yields tensors of [layers, heads, context]: row (l, h) is what query head h of layer l is said to give to
// each place of the context when the model had read that token. Arrays may lie otherwise: a prompt's maps
// [layer, head, query, key] (stacked, or one array a layer), with axes of 1, in any order that `axes` states. Which
// axes were read as what is said in DumpInfo::axes; a shape that can be read in two ways is refused with the question.
#pragma once

#include <attnscope/error.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace attnscope {

class Recording;

// What a dump says of the model it came from; 0 where it says nothing.
struct StatedModel {
    std::string name;
    int32_t n_layer = 0;
    int32_t n_head = 0;
    int32_t n_head_kv = 0;
    int32_t n_ctx = 0;
    int32_t head_dim = 0;
    bool learned_sinks = false; // known from a recording's geometry only
};

struct DumpInfo {
    std::string path;
    std::string format;       // "halo-weave", "halo-weave-json", "npy", "npz", "safetensors", "raw", "attn"
    std::string storage;      // element type as stored: "float32", "float16", "bfloat16", "float64", "json"
    int64_t n_tokens = 0;     // tokens the dump claims to hold; next() yields at most as many
    bool rectangular = false; // tokens are stacked in one array, so that all have the width of the longest
    StatedModel model;
    std::vector<std::string> labels;   // what an earlier `filter` said of the data, in its words
    std::vector<std::string> notes;    // harmless oddities the importer met
    std::vector<std::string> left_out; // arrays that were there and are not looked at; `notes` say why
    std::string axes;                  // how the stored axes are read: "token 20, layer 6, head 8, key 40"
    std::string axes_why; // what that reading rests on: the format, the data, the person, or nothing but a guess
    bool prompt = false;  // tokens are the queries of one prompt's square map
};

// One token's tensor, (n_layer, n_head, n_context) float32, C order. Borrowed until the second call of next() after
// the one that yielded it: one token can be looked at while another is read.
struct DumpToken {
    int64_t index = 0;  // place in the dump: 0, 1, 2, ...
    int64_t number = 0; // the number the dump itself gives the token (file names); == index elsewhere
    std::string source; // file, or array, the tensor came from
    int32_t n_layer = 0;
    int32_t n_head = 0;
    int64_t n_context = 0;
    int64_t stated_context = -1; // context length that the dump states for this token; -1: none
    int64_t own_column = -1;     // the column of the token itself, where a prompt's map says it; -1: the last used one
    int32_t token_id = -1;
    std::string text;
    std::string kept_as; // label an earlier `filter` put on this token; empty: none
    // Rows that `attnscope export` marked as not there (a NaN of its own in every number), zeros in `values`; and how many of them are
    // the last rows of the tensor.
    int64_t missing_rows = 0, missing_tail = 0;
    std::span<const float> values;
};

// How a dump (somebody else's capture) is to be read.
struct CaptureOptions {
    std::vector<int64_t> shape = {}; // of raw float32: [tokens, layers, heads, context] or without tokens
    std::string array = {};     // name of the array in .npz or .safetensors, or "layer_*"; empty: every array that fits
    std::string axes = {};      // "layer,head,query,key": what each axis of an array is; empty: found out
    std::string axes_why = {};  // what `axes` rests on, in words; empty: the person who passed it
    bool learned_sinks = false; // rows of arrays rightly sum to less than 1
};

// An array of somebody's, not copied: C order, in the machine's byte order, in parts that follow one another.
struct MemoryArray {
    std::string name;
    std::string type; // as NumPy calls it: "float32", "int8", ...
    std::vector<int64_t> shape;
    std::vector<std::span<const uint8_t>> parts;
};

// Used by one thread at a time. Reads forwards once; open again to read again.
class DumpReader {
public:
    // Finds the format from the path and the first bytes. Errors: not_found, io, not_ours (nothing we know),
    // damaged (a known format with a broken header), unsupported (a shape or type that is no attention).
    static Result<std::unique_ptr<DumpReader>> open(const std::string& path, const CaptureOptions& options = {});
    // Arrays in memory, which must outlive the reader, read as if a file held them.
    static Result<std::unique_ptr<DumpReader>> open_arrays(const std::vector<MemoryArray>& arrays,
                                                           const CaptureOptions& options = {});
    virtual ~DumpReader() = default;

    virtual const DumpInfo& info() const = 0;
    // The next token, or nullptr after the last. An error of kind damaged or not_found concerns this token
    // alone: the reader has stepped over it and may be asked again, unless at_end(). Other errors end the
    // dump.
    virtual Result<const DumpToken*> next() = 0;
    // Nothing more can be read: all was yielded, or what is left is out of reach.
    virtual bool at_end() const = 0;
};

// The largest tensor of one token that is read: 2^31 elements, 8 GiB as float32.
constexpr int64_t max_token_elements = int64_t(1) << 31;

} // namespace attnscope
