// attention_rows_block: keys into tiles, then block after block of tokens.
#include "attention/block_rows.h"
#include "attention/plan.h"
#include "attention/tile_keys.h"

#include <attnscope/rows.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace attnscope {

using namespace attention;

namespace {

Error bad(std::string message) {
    return {ErrorKind::invalid_argument, std::move(message)};
}

// Every token's request alone must be one that attention_rows would answer.
Result<RowsPlan> check(const BlockRowsRequest& r, size_t out_size) {
    if (!r.layer) return bad("no layer given");
    auto plan = plan_layer(*r.layer, r.batched);
    if (!plan) return plan;
    RowsRequest one;
    one.layer = r.layer;
    one.keys = r.keys;
    one.n_columns = r.n_columns;
    one.positions = r.positions;
    one.head_begin = r.head_begin;
    one.head_end = r.head_end;
    one.batched = r.batched;
    for (size_t t = 0; t < r.tokens.size(); ++t) {
        one.q = r.tokens[t].q;
        one.visible = r.tokens[t].visible;
        one.position = r.tokens[t].position;
        if (auto ok = plan_rows(one, out_size, 0); !ok)
            return Error{ok.error().kind, "token " + std::to_string(t) + ": " + ok.error().message};
    }
    if (r.tokens.empty()) return plan;
    const auto row =
        static_cast<size_t>(r.n_columns) * static_cast<size_t>(r.head_end - r.head_begin); // fits: each token's rows do
    if (row > 0 && r.tokens.size() > out_size / row)
        return bad("no room for the rows of " + std::to_string(r.tokens.size()) + " tokens");
    return plan;
}

// The keys of the layer in chunks; columns that no block has are not seen.
struct ChunkedLayer {
    std::vector<uint8_t> bytes;
    std::vector<const uint8_t*> chunks;
    size_t head_stride = 0;

    ChunkedLayer(const BlockRowsRequest& r, const RowsPlan& plan)
        : head_stride(plan.k_head_bytes * static_cast<size_t>(chunk_columns)) {
        const size_t chunk_bytes = head_stride * static_cast<size_t>(r.layer->n_head_kv);
        const int64_t n_chunks = (r.n_columns + chunk_columns - 1) / chunk_columns;
        bytes.resize(static_cast<size_t>(n_chunks) * chunk_bytes);
        for (int64_t c = 0; c < n_chunks; ++c) chunks.push_back(bytes.data() + static_cast<size_t>(c) * chunk_bytes);
        for (const KeyBlock& block : r.keys) {
            const int64_t end = std::min(block.first + block.n, r.n_columns);
            for (int64_t at = block.first; at < end;) {
                const int64_t chunk = at / chunk_columns, until = std::min(end, (chunk + 1) * chunk_columns);
                for (int32_t head = 0; head < r.layer->n_head_kv; ++head) {
                    put_keys(*r.layer,
                             block.data + static_cast<size_t>(at - block.first) * block.stride +
                                 static_cast<size_t>(head) * plan.k_head_bytes,
                             block.stride, at - chunk * chunk_columns, until - at,
                             bytes.data() + static_cast<size_t>(chunk) * chunk_bytes +
                                 static_cast<size_t>(head) * head_stride);
                }
                at = until;
            }
        }
    }
};

struct Scratch {
    BlockRows rows;
    std::vector<BlockQuery> queries;
};

// Rows of tokens [first, first + n) of one head.
void compute_block(const BlockRowsRequest& r, const RowsPlan& plan, const ChunkedLayer& keys, int32_t head,
                   size_t first, size_t n, float* out, Scratch& scratch) {
    scratch.queries.clear();
    for (const TokenQuery& token : r.tokens.subspan(first, n))
        scratch.queries.push_back(
            {token.q + static_cast<size_t>(head) * plan.q_head_bytes, token.visible, token.position});
    BlockRequest block;
    block.layer = r.layer;
    block.plan = &plan;
    block.queries = scratch.queries;
    block.head = head;
    block.chunks = keys.chunks;
    block.chunk_offset = static_cast<size_t>(head / plan.group) * keys.head_stride;
    block.n_columns = r.n_columns;
    block.positions = r.positions;
    block.batched = r.batched;
    block.exact = r.exact;
    block_rows(row_kernels(), block_kernels(), block, scratch.rows);
    for (size_t i = 0; i < n; ++i, out += r.n_columns) {
        int64_t written = 0;
        for (const BlockPiece& piece : scratch.rows.pieces) {
            std::fill(out + written, out + piece.begin, 0.0f);
            block_kernels().scale(scratch.rows.row(i) + piece.begin, piece.factors[i], piece.end - piece.begin,
                                  out + piece.begin);
            written = piece.end;
        }
        std::fill(out + written, out + r.n_columns, 0.0f);
    }
}

} // namespace

Result<void> attention_rows_block(const BlockRowsRequest& r, std::span<float> out) try {
    auto plan = check(r, out.size());
    if (!plan) return plan.error();
    if (r.tokens.empty() || r.n_columns == 0) return {};
    const ChunkedLayer keys(r, *plan);
    const size_t most = block_queries(r.n_columns, r.exact), n_blocks = (r.tokens.size() + most - 1) / most;
    const size_t n_items = n_blocks * static_cast<size_t>(r.head_end - r.head_begin);
    std::atomic<size_t> next{0};
    std::atomic<bool> no_memory{false};
    const auto work_off = [&] {
        try {
            Scratch scratch;
            for (size_t item = next++; item < n_items; item = next++) {
                const size_t first =
                    (n_blocks - 1 - item % n_blocks) * most; // later tokens usually see more: those first
                const auto head = static_cast<size_t>(item / n_blocks);
                float* const to = out.data() + (head * r.tokens.size() + first) * static_cast<size_t>(r.n_columns);
                compute_block(r, *plan, keys, r.head_begin + static_cast<int32_t>(head), first,
                              std::min(most, r.tokens.size() - first), to, scratch);
            }
        } catch (const std::bad_alloc&) {
            no_memory = true;
        }
    };
    {
        std::vector<std::jthread> threads;
        const size_t n_others = std::min(n_items, static_cast<size_t>(std::max(r.n_threads, 1))) - 1;
        threads.reserve(n_others);
        try {
            while (threads.size() < n_others) threads.emplace_back(work_off);
        } catch (const std::system_error&) {
            // The machine gives no more threads: those there are do the work.
        }
        work_off();
    }
    if (no_memory) return Error{ErrorKind::io, "no memory for the rows of many tokens"};
    return {};
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "no memory for the rows of many tokens"};
}

} // namespace attnscope
