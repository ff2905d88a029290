#include "attention/block_rows.h"

#include "attention/part_rows.h"
#include "attention/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnscope::attention {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The columns that any of the queries sees, as ranges.
void join_visible(std::span<const BlockQuery> queries, std::vector<Range>& joined) {
    joined.clear();
    for (const BlockQuery& query : queries) joined.insert(joined.end(), query.visible.begin(), query.visible.end());
    std::sort(joined.begin(), joined.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    size_t n = 0;
    for (const Range& r : joined) {
        if (r.begin >= r.end) continue;
        if (n > 0 && r.begin <= joined[n - 1].end)
            joined[n - 1].end = std::max(joined[n - 1].end, r.end);
        else
            joined[n++] = r;
    }
    joined.resize(n);
}

// What is visible of each chunk, from its first tile to its last.
void cut_pieces(std::span<const Range> visible, std::vector<BlockPiece>& pieces) {
    pieces.clear();
    for (const Range& r : visible) {
        for (int64_t at = r.begin; at < r.end;) {
            const int64_t chunk_end = (at / chunk_columns + 1) * chunk_columns;
            const int64_t end = std::min(r.end, chunk_end);
            const int64_t begin = at / tile_columns * tile_columns,
                          whole = (end + tile_columns - 1) / tile_columns * tile_columns;
            if (!pieces.empty() && pieces.back().begin / chunk_columns == at / chunk_columns)
                pieces.back().end = whole;
            else
                pieces.push_back({begin, whole, nullptr});
            at = end;
        }
    }
}

// Where the engine's order of additions, ALiBi, a quantised type or an odd scale asks for it: query by query, as for a
// token alone.
void whole_rows(const RowKernels& kernels, const BlockRequest& r, BlockRows& rows) {
    rows.has_parts = false;
    rows.q_bytes.clear();
    for (const BlockQuery& query : r.queries)
        rows.q_bytes.insert(rows.q_bytes.end(), query.q, query.q + r.plan->q_head_bytes);
    GroupRequest group;
    group.layer = r.layer;
    group.plan = r.plan;
    group.q = rows.q_bytes.data();
    group.chunks = r.chunks;
    group.chunk_offset = r.chunk_offset;
    group.visible = rows.visible;
    group.n_columns = r.n_columns;
    group.head_end = static_cast<int32_t>(r.queries.size());
    group.batched = r.batched;
    group.any_order = !r.exact;
    group_dots(kernels, group, rows.group);
    for (size_t i = 0; i < r.queries.size(); ++i) {
        const BlockQuery& query = r.queries[i];
        const SoftmaxTask task{r.layer, query.visible, r.n_columns, query.position, r.positions};
        softmax_row(kernels, task, r.head, rows.group.values.data() + i * rows.group.stride);
    }
    rows.factors.assign(r.queries.size(), 1.0f);
    for (BlockPiece& piece : rows.pieces) {
        piece.end = std::min(piece.end, r.n_columns);
        piece.factors = rows.factors.data();
    }
}

// Queries side by side, as the kernels read them.
void pack_queries(const BlockKernels& block, const BlockRequest& r, BlockRows& rows) {
    const auto dim = static_cast<size_t>(r.layer->head_dim), width = static_cast<size_t>(block.width);
    const size_t n_panels = (r.queries.size() + width - 1) / width;
    rows.q.resize((n_panels * width * dim + 15) / 16);
    std::fill(rows.q.begin(), rows.q.end(), BlockRows::Line{});
    rows.q_bytes.resize(dim * sizeof(float));
    rows.scratch.resize((std::max(block_scratch_floats(r.layer->head_dim), dim) + 15) / 16);
    float* const one = rows.scratch.data()->f;
    for (size_t i = 0; i < r.queries.size(); ++i) {
        std::copy_n(r.queries[i].q, r.plan->q_head_bytes, rows.q_bytes.data()); // aligned
        to_floats(r.layer->q_type, rows.q_bytes.data(), one, static_cast<int64_t>(dim));
        float* const to = rows.q.data()->f + i / width * width * dim + i % width;
        for (size_t d = 0; d < dim; ++d) to[d * width] = one[d];
    }
}

// Scores of a query on the columns of a piece -> numerators in its row, and their share of the row.
BlockRows::Part numerators(const RowKernels& kernels, const BlockKernels& block, const BlockRequest& r,
                           const BlockPiece& piece, std::span<const Range> visible, size_t& at, float* scores,
                           float* row) {
    while (at < visible.size() && visible[at].end <= piece.begin) ++at;
    // Calls f(from, to) for what is seen of the piece.
    const auto each_seen = [&](auto&& f) {
        for (size_t i = at; i < visible.size() && visible[i].begin < piece.end; ++i) {
            const int64_t from = std::max(visible[i].begin, piece.begin), to = std::min(visible[i].end, piece.end);
            if (from < to) f(from, to);
        }
    };
    BlockRows::Part part;
    part.max = -infinity;
    int64_t begin = piece.end, end = piece.begin;
    each_seen([&](int64_t from, int64_t to) {
        begin = std::min(begin, from);
        end = to;
        part.n_seen += to - from;
    });
    if (part.n_seen == 0) {
        std::fill(row + piece.begin, row + piece.end, 0.0f);
        return part;
    }
    std::fill(row + piece.begin, row + begin, 0.0f);
    std::fill(row + end, row + piece.end, 0.0f);
    float scale = r.layer->scale * r.layer->post_scale;
    float* const x = scores + (begin - piece.begin);
    if (r.layer->softcap > 0) {
        kernels.scores(x, end - begin, r.layer->scale, r.layer->softcap, r.layer->post_scale);
        scale = 1;
    }
    int64_t seen = begin; // what lies between and is not seen cannot have a share
    each_seen([&](int64_t from, int64_t to) {
        std::fill(scores + (seen - piece.begin), scores + (from - piece.begin), -infinity);
        seen = to;
    });
    part.max = block.numerators(x, end - begin, scale, row + begin, &part.sum);
    if (part.max ==
        -infinity) { // nothing but -inf, which weighs nothing beside other columns, and NaN, which spoils the row
        const bool has_nan = std::any_of(x, x + (end - begin), [](float s) { return std::isnan(s); });
        part.sum = has_nan ? std::numeric_limits<double>::quiet_NaN() : 0.0;
        std::fill(row + begin, row + end, 0.0f);
    }
    return part;
}

// Visible weights of a row that has no sum are NaN, as attention_rows has it; the others stay 0.
void spoil_row(const BlockQuery& query, std::span<const BlockPiece> pieces, float* row) {
    for (const BlockPiece& piece : pieces) std::fill(row + piece.begin, row + piece.end, 0.0f);
    for (const Range& range : query.visible)
        std::fill(row + range.begin, row + range.end, std::numeric_limits<float>::quiet_NaN());
}

// Numerators are weights once each part's factor is known.
void join_parts(const BlockRequest& r, BlockRows& rows) {
    const size_t n = r.queries.size();
    const float* const sink = r.layer->sinks.empty() ? nullptr : &r.layer->sinks[static_cast<size_t>(r.head)];
    rows.factors.resize(rows.pieces.size() * n);
    for (size_t i = 0; i < n; ++i) {
        PartSum sum(sink);
        bool sound = true, sees = false;
        for (size_t p = 0; p < rows.pieces.size(); ++p) {
            const BlockRows::Part& part = rows.parts[p * n + i];
            if (part.n_seen == 0) continue;
            sees = true;
            sound = sound && std::isfinite(part.sum);
            sum.add({part.max, part.sum});
        }
        const bool spoilt = sees && (!sound || !(sum.sum() > 0));
        if (spoilt) spoil_row(r.queries[i], rows.pieces, rows.group.values.data() + i * rows.group.stride);
        for (size_t p = 0; p < rows.pieces.size(); ++p) {
            const BlockRows::Part& part = rows.parts[p * n + i];
            rows.factors[p * n + i] = spoilt ? 1.0f : part.n_seen > 0 ? sum.factor(part.max) : 0.0f;
        }
    }
    for (size_t p = 0; p < rows.pieces.size(); ++p) rows.pieces[p].factors = rows.factors.data() + p * n;
}

} // namespace

size_t block_queries(int64_t n_columns, bool exact) {
    // Measured on a Zen 3 with 512 KiB of second-level cache: 48 rows of 32,768 are as fast as any, 96 take a fifth
    // longer.
    constexpr int64_t most = 48, fewest = 12, near = int64_t(3) << 19; // floats
    if (exact) return 24;
    return static_cast<size_t>(std::clamp(near / std::max<int64_t>(n_columns, 1) / fewest * fewest, fewest, most));
}

void block_rows(const RowKernels& kernels, const BlockKernels& block, const BlockRequest& r, BlockRows& rows) {
    const LayerInfo& layer = *r.layer;
    const size_t n = r.queries.size();
    join_visible(r.queries, rows.visible);
    cut_pieces(rows.visible, rows.pieces);
    // Floating-point keys need no engine where the order is free. An odd scale may stand in a file.
    const bool usual = keys_in_tiles(layer.k_type) && !layer.by_distance() && layer.scale * layer.post_scale > 0;
    if (r.exact || !usual) return whole_rows(kernels, r, rows);

    reserve_group_rows(rows.group, static_cast<int32_t>(n), layer.head_dim, r.n_columns);
    pack_queries(block, r, rows);
    const size_t n_padded = (n + static_cast<size_t>(block.width) - 1) / static_cast<size_t>(block.width) *
                            static_cast<size_t>(block.width);
    rows.scores.resize(n_padded * static_cast<size_t>(chunk_columns) / 16);
    rows.parts.resize(rows.pieces.size() * n);
    rows.at.assign(n, 0);
    auto* const dots = layer.k_type == DType::f16    ? block.dots_f16
                       : layer.k_type == DType::bf16 ? block.dots_bf16
                                                     : block.dots_f32;
    BlockTask task;
    task.q = rows.q.data()->f;
    task.n_q = static_cast<int32_t>(n);
    task.head_dim = layer.head_dim;
    task.out = rows.scores.data()->f;
    task.out_stride = static_cast<size_t>(chunk_columns);
    task.scratch = rows.scratch.data()->f;
    for (size_t p = 0; p < rows.pieces.size(); ++p) {
        const BlockPiece& piece = rows.pieces[p];
        const size_t in_chunk = static_cast<size_t>(piece.begin % chunk_columns) * r.plan->k_head_bytes;
        task.tiles = r.chunks[static_cast<size_t>(piece.begin / chunk_columns)] + r.chunk_offset + in_chunk;
        task.n_tiles = (piece.end - piece.begin) / tile_columns;
        dots(task);
        for (size_t i = 0; i < n; ++i) {
            rows.parts[p * n + i] =
                numerators(kernels, block, r, piece, r.queries[i].visible, rows.at[i], task.out + i * task.out_stride,
                           rows.group.values.data() + i * rows.group.stride);
        }
    }
    join_parts(r, rows);
    rows.has_parts = true;
    for (BlockPiece& piece : rows.pieces) piece.end = std::min(piece.end, r.n_columns);
}

} // namespace attnscope::attention
