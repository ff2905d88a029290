#include "view/token_batch.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <new>
#include <string>

namespace attnscope::view {

namespace {

constexpr size_t max_query_bytes = size_t(64) << 20; // of a batch

// Tokens that are computed together.
struct Block {
    size_t first;
    size_t n;
};

// Neighbours that were decoded in the same way, the longest rows last: whoever takes blocks from the end has the short
// ones for when the others are done.
std::vector<Block> blocks_of(const TokenBatch& batch, size_t most) {
    std::vector<Block> blocks;
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
        const bool goes_on =
            !blocks.empty() && blocks.back().n < most && batch.tokens[i - 1].batched == batch.tokens[i].batched;
        if (goes_on)
            ++blocks.back().n;
        else
            blocks.push_back({i, 1});
    }
    return blocks;
}

Range seen_by(const TokenBatch& batch, size_t mask_group) {
    Range seen{std::numeric_limits<int64_t>::max(), 0};
    for (const TokenBatch::Token& token : batch.tokens) {
        const Ranges& visible = token.visible[mask_group];
        if (visible.empty()) continue;
        seen.begin = std::min(seen.begin, visible.front().begin);
        seen.end = std::max(seen.end, visible.back().end);
    }
    return seen.begin < seen.end ? seen : Range{};
}

// One layer of a batch in hand.
struct LayerTask {
    const LayerInfo& layer;
    const LayerWork& work;
    size_t place;
    const TokenBatch& batch;
    const LayerKeys& keys;
    KeyReader& reader;
    bool exact;
};

struct Scratch {
    attention::BlockRows rows;
    std::vector<attention::BlockQuery> queries;
};

void compute_block(const LayerTask& t, const Block& block, Scratch& scratch, RowTaker& taker, int32_t member) {
    const TokenBatch::Token* const tokens = t.batch.tokens.data() + block.first;
    attention::BlockRequest r;
    r.layer = &t.layer;
    r.batched = tokens[0].batched;
    r.plan = &t.reader.plan(t.work.layer, r.batched).value();
    r.chunks = t.keys.chunks;
    r.positions = t.reader.positions();
    r.exact = t.exact;
    scratch.queries.resize(block.n);
    for (size_t i = 0; i < block.n; ++i) {
        scratch.queries[i].visible = tokens[i].visible[static_cast<size_t>(t.layer.mask_group)];
        scratch.queries[i].position = tokens[i].position;
        r.n_columns = std::max(r.n_columns, tokens[i].n_columns);
    }
    r.queries = scratch.queries;
    const uint8_t* const q = t.batch.q[t.place].data() + block.first * t.layer.q_bytes();
    for (const HeadRun& run : t.work.runs) {
        r.chunk_offset = t.keys.of_head(run.kv_head);
        for (r.head = run.begin; r.head < run.end; ++r.head) {
            for (size_t i = 0; i < block.n; ++i)
                scratch.queries[i].q = q + i * t.layer.q_bytes() + static_cast<size_t>(r.head) * r.plan->q_head_bytes;
            attention::block_rows(attention::row_kernels(), attention::block_kernels(), r, scratch.rows);
            taker.take(t.place, static_cast<size_t>(run.place + r.head - run.begin), block.first, block.n, scratch.rows,
                       member);
        }
    }
    taker.end_layer(block.first, block.n, member);
}

} // namespace

Result<int64_t> columns_of(const Frame& frame, const AttentionSource& source) {
    const Geometry& geometry = source.geometry();
    const std::string name = "frame " + std::to_string(frame.index);
    if (frame.index < 0 || frame.visible.size() != static_cast<size_t>(geometry.n_mask_groups))
        return Error{ErrorKind::invalid_argument, name + " is not a frame of this source"};
    if (frame.q.size() != geometry.q_bytes()) {
        if (frame.q.empty()) return Error{ErrorKind::not_found, name + " was captured without its queries"};
        return Error{ErrorKind::invalid_argument, name + " has queries of another size than this model's"};
    }
    int64_t n_columns = frame.index + 1;
    for (const Ranges& ranges : frame.visible) {
        int64_t seen = 0;
        for (const Range& r : ranges) {
            if (r.begin < seen || r.end < r.begin)
                return Error{ErrorKind::invalid_argument, name + " sees columns that are out of order"};
            seen = r.end;
        }
        n_columns = std::max(n_columns, seen);
    }
    if (n_columns > source.size()) {
        return Error{ErrorKind::not_found, name + " sees " + std::to_string(n_columns) + " columns, but the keys of " +
                                               std::to_string(source.size()) + " are there"};
    }
    return n_columns;
}

Result<TokenBatch> load_tokens(AttentionSource& source, const SelectedRows& selection, int64_t begin, int64_t end,
                               int64_t max_tokens) {
    TokenBatch batch;
    const Geometry& geometry = source.geometry();
    batch.q.resize(selection.layers.size());
    size_t bytes = 0;
    for (batch.end = begin; batch.end < end; ++batch.end) {
        const bool full = static_cast<int64_t>(batch.tokens.size()) >= max_tokens || bytes >= max_query_bytes;
        if (full && !batch.tokens.empty()) break;
        auto frame = source.frame(batch.end);
        if (!frame) return frame.error();
        if (frame->q.empty()) continue;
        auto n_columns = columns_of(*frame, source);
        if (!n_columns) return n_columns.error();
        for (size_t place = 0; place < selection.layers.size(); ++place) {
            if (selection.layers[place].n_rows == 0) continue;
            const int32_t i = selection.layers[place].layer;
            const auto from = frame->q.begin() + static_cast<ptrdiff_t>(geometry.q_offset(i));
            const size_t n = geometry.layers[static_cast<size_t>(i)].q_bytes();
            batch.q[place].insert(batch.q[place].end(), from, from + static_cast<ptrdiff_t>(n));
            bytes += n;
        }
        batch.n_columns = std::max(batch.n_columns, *n_columns);
        batch.tokens.push_back({frame->index, *n_columns, frame->position, frame->batched, std::move(frame->visible)});
    }
    return batch;
}

size_t max_block_tokens(int64_t n_columns, bool exact) {
    return attention::block_queries(n_columns, exact);
}

Result<void> compute_batch(AttentionSource& source, KeyReader& keys, const SelectedRows& selection,
                           const TokenBatch& batch, bool exact, Crew& crew, RowTaker& taker) {
    if (batch.tokens.empty()) return {};
    if (auto ok = keys.prepare(batch.n_columns); !ok) return ok;
    const std::vector<Block> blocks = blocks_of(batch, max_block_tokens(batch.n_columns, exact));
    std::vector<Scratch> scratch(static_cast<size_t>(crew.size()));
    KeyBuffer buffer;
    std::mutex failing;
    Result<void> done;
    for (size_t place = 0; place < selection.layers.size(); ++place) {
        const LayerWork& work = selection.layers[place];
        if (work.n_rows == 0) continue;
        const LayerInfo& layer = source.geometry().layers[static_cast<size_t>(work.layer)];
        auto layer_keys = keys.layer_keys(work.layer, seen_by(batch, static_cast<size_t>(layer.mask_group)), buffer);
        if (!layer_keys) return layer_keys.error();
        const LayerTask task{layer, work, place, batch, *layer_keys, keys, exact};
        crew.run(blocks.size(), [&](size_t item, int32_t member) {
            try {
                compute_block(task, blocks[blocks.size() - 1 - item], scratch[static_cast<size_t>(member)], taker,
                              member);
            } catch (const std::bad_alloc&) {
                const std::lock_guard lock(failing);
                done = Error{ErrorKind::io, "no memory for the attention of many tokens"};
            }
        });
        if (!done) return done;
    }
    return {};
}

} // namespace attnscope::view
