#include "view/recorded/blocks.h"

#include "base/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <new>

namespace attnscope::view {

namespace {

struct Block {
    int64_t first = 0;
    int64_t n = 0;
};

// Neighbours that were decoded in the same way and have queries.
std::vector<Block> blocks_of(const RecordedTensors& t, Range tokens, int64_t most) {
    std::vector<Block> blocks;
    bool open = false;
    for (int64_t i = tokens.begin; i < tokens.end; ++i) {
        if (!t.has_rows(i)) {
            open = false;
            continue;
        }
        if (open && blocks.back().n < most && t.frame(i).batched == t.frame(i - 1).batched)
            ++blocks.back().n;
        else
            blocks.push_back({i, 1});
        open = true;
    }
    return blocks;
}

} // namespace

Result<void> each_block(const RecordedTensors& t, int32_t layer, Range heads, Range tokens, const TakeBlock& take,
                        const std::function<bool()>& go_on) try {
    const LayerInfo& info = t.geometry().layers[static_cast<size_t>(layer)];
    const Result<attention::RowsPlan> single = attention::plan_layer(info, false),
                                      batched = attention::plan_layer(info, true);
    int64_t n_columns = 0;
    bool any_batched = false, any_single = false;
    for (int64_t i = tokens.begin; i < tokens.end; ++i) {
        if (!t.has_rows(i)) continue;
        n_columns = std::max(n_columns, t.n_columns(i));
        (t.frame(i).batched ? any_batched : any_single) = true;
    }
    if (n_columns == 0) return {};
    if (any_single && !single) return single.error();
    if (any_batched && !batched) return batched.error();
    const LayerTiles& keys = t.tiles(layer);
    const std::vector<Block> blocks =
        blocks_of(t, tokens, static_cast<int64_t>(attention::block_queries(n_columns, false)));
    std::mutex mutex;
    Result<void> status;
    std::atomic<bool> stop{false};
    base::parallel_for_all(blocks.size(), [&](size_t b) {
        if (stop) return;
        t.give_way();
        try {
            thread_local attention::BlockRows rows;
            std::vector<attention::BlockQuery> queries(static_cast<size_t>(blocks[b].n));
            const Block& block = blocks[blocks.size() - 1 - b]; // short rows last, for whoever waits for the others
            queries.resize(static_cast<size_t>(block.n));
            attention::BlockRequest r;
            r.layer = &info;
            r.batched = t.frame(block.first).batched;
            r.plan = r.batched ? &*batched : &*single;
            r.chunks = keys.chunks();
            r.positions = t.positions();
            for (size_t i = 0; i < queries.size(); ++i) {
                const Frame& f = t.frame(block.first + static_cast<int64_t>(i));
                queries[i].visible = f.visible[static_cast<size_t>(info.mask_group)];
                queries[i].position = f.position;
                r.n_columns = std::max(r.n_columns, t.n_columns(block.first + static_cast<int64_t>(i)));
            }
            r.queries = queries;
            r.positions = r.positions.first(static_cast<size_t>(r.n_columns));
            const int32_t group = info.n_head / info.n_head_kv;
            for (r.head = static_cast<int32_t>(heads.begin); r.head < heads.end; ++r.head) {
                r.chunk_offset = static_cast<size_t>(r.head / group) * keys.head_stride();
                for (size_t i = 0; i < queries.size(); ++i) {
                    queries[i].q = t.query(block.first + static_cast<int64_t>(i), layer) +
                                   static_cast<size_t>(r.head) * r.plan->q_head_bytes;
                }
                attention::block_rows(attention::row_kernels(), attention::block_kernels(), r, rows);
                take(r.head, block.first, queries.size(), rows);
            }
        } catch (const std::bad_alloc&) {
            const std::lock_guard lock(mutex);
            status = Error{ErrorKind::io, "there is no memory for the rows of this recording"};
            stop = true;
        }
        const std::lock_guard lock(mutex);
        if (!stop && go_on && !go_on()) {
            status = Error{ErrorKind::io, "stopped before it was done"};
            stop = true;
        }
    });
    return status;
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "there is no memory for the rows of this recording"};
}

double denominator(const attention::BlockRows& rows, size_t i, size_t n) {
    const attention::BlockRows::Part* best = nullptr;
    float factor = 0;
    for (size_t p = 0; p < rows.pieces.size(); ++p) {
        const attention::BlockRows::Part& part = rows.parts[p * n + i];
        if (part.n_seen == 0 || (best && !(part.max > best->max))) continue;
        best = &part;
        factor = rows.factors[p * n + i];
    }
    return best ? double(best->max) - std::log(double(factor)) : std::numeric_limits<double>::quiet_NaN();
}

void copy_row(const attention::BlockRows& rows, size_t i, std::span<float> out) {
    size_t written = 0;
    for (const attention::BlockPiece& piece : rows.pieces) {
        const auto begin = std::min(out.size(), static_cast<size_t>(piece.begin));
        const auto end = std::min(out.size(), static_cast<size_t>(piece.end));
        std::fill(out.begin() + static_cast<ptrdiff_t>(written), out.begin() + static_cast<ptrdiff_t>(begin), 0.0f);
        if (begin < end) {
            attention::block_kernels().scale(rows.row(i) + begin, piece.factors[i], static_cast<int64_t>(end - begin),
                                             out.data() + begin);
        }
        written = end;
    }
    std::fill(out.begin() + static_cast<ptrdiff_t>(written), out.end(), 0.0f);
}

} // namespace attnscope::view
