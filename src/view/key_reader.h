// What answers are computed from: the keys of a source as group_rows reads them, one layer after another.
#pragma once

#include "attention/plan.h"

#include <attnscope/attention_source.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope::view {

// One layer's keys in chunks (attention/group_rows.h). Valid until its KeyBuffer is used again, or the source changes.
struct LayerKeys {
    std::span<const uint8_t* const> chunks; // those that hold no column that was asked for may be null
    size_t offset = 0;                      // of KV head 0 in every chunk
    size_t head_stride = 0;                 // from one KV head to the next

    size_t of_head(int32_t kv_head) const { return offset + static_cast<size_t>(kv_head) * head_stride; }
};

// One thread's memory for keys that have to be read first; kept from layer to layer.
struct KeyBuffer {
    std::vector<uint8_t> keys;
    std::vector<const uint8_t*> chunks;
};

// Beside AttentionSource, in whatever implements it. A source belongs to one thread, but layer_keys may be called by
// all the threads that compute for it.
class KeyReader {
public:
    explicit KeyReader(const Geometry& geometry);
    virtual ~KeyReader() = default;

    // Before rows of up to `n_columns` columns are computed. n_columns is at most the source's size.
    virtual Result<void> prepare(int64_t n_columns) = 0;
    // The keys that `layer` uses (its own, or another layer's) for all of `columns`.
    virtual Result<LayerKeys> layer_keys(int32_t layer, Range columns, KeyBuffer& buffer) = 0;
    // Of the columns; where a layer has ALiBi, of all that were prepared.
    virtual std::span<const int32_t> positions() const = 0;

    // Why rows of a layer cannot be computed, or how.
    const Result<attention::RowsPlan>& plan(int32_t layer, bool batched) const {
        const Plans& plans = plans_[static_cast<size_t>(layer)];
        return batched ? plans.batched : plans.single;
    }

private:
    struct Plans {
        Result<attention::RowsPlan> single, batched;
    };
    std::vector<Plans> plans_;
};

// Geometries come from files, too. invalid_argument, naming the layer: keys of a layer that has none, or of another
// shape.
Result<void> check_layers(const Geometry& geometry);
// Can the rows of a selection be computed? unsupported, naming the layer.
Result<void> check_plans(const KeyReader& keys, const Geometry& geometry, const RowSelection& rows);
// What can be answered from; null for a source that is none of ours.
KeyReader* key_reader(AttentionSource& source);

} // namespace attnscope::view
