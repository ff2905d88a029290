#include "rows_block.h"

#include "errors.h"

#include <attnscope/rows.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <span>
#include <thread>

#include <sys/mman.h>

namespace attnscope::python {

namespace {

constexpr size_t queries_at_once = size_t(64) << 20; // bytes of Q that are kept in memory
constexpr size_t keys_at_once = size_t(64) << 20;    // bytes of K, unless one layer has more
constexpr size_t huge_page = size_t(2) << 20;

// One token of the selection.
struct Token {
    Frame frame;            // without q
    std::vector<uint8_t> q; // of the selected layers, one after the other
};

struct Selection {
    const Geometry& geometry;
    const std::vector<int64_t>& tokens;
    const std::vector<int32_t>& layers;
    const std::vector<int32_t>& heads;
    size_t q_bytes = 0;                          // of the selected layers
    std::vector<size_t> q_offsets;               // in Token::q
    std::vector<std::pair<size_t, size_t>> runs; // of consecutive heads: places [first, last] in `heads`

    Selection(const Geometry& g, const std::vector<int64_t>& t, const std::vector<int32_t>& l,
              const std::vector<int32_t>& h)
        : geometry(g), tokens(t), layers(l), heads(h) {
        for (const int32_t layer : layers) {
            q_offsets.push_back(q_bytes);
            q_bytes += geometry.layers[size_t(layer)].q_bytes();
        }
        for (size_t i = 0; i < heads.size(); ++i) {
            if (!runs.empty() && heads[i] == heads[i - 1] + 1)
                runs.back().second = i;
            else
                runs.emplace_back(i, i);
        }
    }
    size_t row_count() const { return layers.size() * heads.size(); } // of one token
};

// Not initialised, and in huge pages where it is large.
FloatArray allocate(size_t n_tokens, size_t n_floats) {
    size_t n = 0;
    if (__builtin_mul_overflow(n_tokens, n_floats, &n) || n > SIZE_MAX / (2 * sizeof(float))) throw std::bad_alloc();
    const size_t bytes = std::max(n, size_t(1)) * sizeof(float);
    const bool large = bytes >= 2 * huge_page;
    const size_t alignment = large ? huge_page : 64;
    void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!memory) throw std::bad_alloc();
    if (large) madvise(memory, bytes, MADV_HUGEPAGE);
    return {static_cast<float*>(memory), std::free};
}

int64_t seen(const Frame& frame) {
    int64_t n = frame.index + 1;
    for (const Ranges& ranges : frame.visible) {
        if (!ranges.empty()) n = std::max(n, ranges.back().end);
    }
    return n;
}

Token read_token(Recording& reader, const Selection& s, int64_t index, bool with_q, const std::string& path) {
    Token token;
    token.frame = value(reader.frame(index, with_q));
    if (!with_q) return token;
    if (token.frame.q.empty() && s.geometry.q_bytes() > 0) {
        throw Failure{{ErrorKind::not_found,
                       "token " + std::to_string(index) + " of " + path + " was recorded without its queries"}};
    }
    token.q.reserve(s.q_bytes);
    for (const int32_t layer : s.layers) {
        const auto begin = token.frame.q.begin() + static_cast<ptrdiff_t>(s.geometry.q_offset(layer));
        token.q.insert(token.q.end(), begin,
                       begin + static_cast<ptrdiff_t>(s.geometry.layers[size_t(layer)].q_bytes()));
    }
    token.frame.q = {};
    return token;
}

std::vector<Token> read_tokens(RecordingPool& pool, const Selection& s, size_t begin, size_t end, bool with_q) {
    std::vector<Token> tokens(end - begin);
    constexpr size_t batch = 32; // a lease is cheap, but not free
    in_parallel((tokens.size() + batch - 1) / batch, [&](size_t b) {
        const RecordingPool::Lease reader = pool.lease();
        const size_t until = std::min(tokens.size(), (b + 1) * batch);
        for (size_t i = b * batch; i < until; ++i)
            tokens[i] = read_token(*reader, s, s.tokens[begin + i], with_q, pool.path());
    });
    return tokens;
}

// The keys of a layer's visible columns, from the first to the last.
struct LayerKeys {
    Range columns;
    std::vector<uint8_t> data;
    KeyBlock block;
};

std::vector<LayerKeys> read_keys(RecordingPool& pool, const Selection& s, const std::vector<Token>& tokens,
                                 size_t begin, size_t end) {
    std::vector<LayerKeys> keys(end - begin);
    in_parallel(keys.size(), [&](size_t i) {
        const LayerInfo& layer = s.geometry.layers[size_t(s.layers[begin + i])];
        if (!layer.captured()) return;
        Range& columns = keys[i].columns;
        for (const Token& token : tokens) {
            const Ranges& visible = token.frame.visible[size_t(layer.mask_group)];
            if (visible.empty()) continue;
            if (columns == Range{}) columns = {visible.front().begin, visible.back().end};
            columns = {std::min(columns.begin, visible.front().begin), std::max(columns.end, visible.back().end)};
        }
        const RecordingPool::Lease reader = pool.lease();
        keys[i].data = value(reader->keys(layer.k_layer, columns.begin, columns.end));
        keys[i].block = {keys[i].data.data(), columns.begin, columns.end - columns.begin,
                         s.geometry.layers[size_t(layer.k_layer)].k_bytes()};
    });
    return keys;
}

// Layers [begin, end) of the selection for these tokens, whose first row lies at `out`.
void compute(const Selection& s, const std::vector<Token>& tokens, const std::vector<LayerKeys>& keys, size_t begin,
             size_t end, int64_t n_columns, std::span<const int32_t> positions, float* out) {
    std::vector<RowsRequest> requests;
    std::vector<std::span<float>> outs;
    const auto width = static_cast<size_t>(n_columns);
    for (size_t t = 0; t < tokens.size(); ++t) {
        for (size_t l = begin; l < end; ++l) {
            const LayerInfo& layer = s.geometry.layers[size_t(s.layers[l])];
            float* const rows = out + (t * s.row_count() + l * s.heads.size()) * width;
            for (const auto& [first, last] : s.runs) {
                // Heads that this layer has not got, and layers that have none, are rows of zeros.
                const int32_t until =
                    std::clamp(layer.captured() ? layer.n_head : 0, s.heads[first], s.heads[last] + 1);
                const size_t n = static_cast<size_t>(until - s.heads[first]);
                const size_t n_all = last - first + 1;
                std::fill_n(rows + (first + n) * width, (n_all - n) * width, 0.0f);
                if (n == 0) continue;
                RowsRequest& request = requests.emplace_back();
                request.layer = &layer;
                request.q = tokens[t].q.data() + s.q_offsets[l];
                request.keys = {&keys[l - begin].block, 1};
                request.visible = tokens[t].frame.visible[size_t(layer.mask_group)];
                request.n_columns = n_columns;
                request.position = tokens[t].frame.position;
                request.positions = positions;
                request.head_begin = s.heads[first];
                request.head_end = until;
                request.batched = tokens[t].frame.batched;
                outs.emplace_back(rows + first * width, n * width);
            }
        }
    }
    value(attention_rows_parallel(requests, outs, n_threads()));
}

std::vector<int32_t> positions_of(RecordingPool& pool, int64_t n_columns) {
    std::vector<int32_t> positions;
    const RecordingPool::Lease reader = pool.lease();
    for (const Frame& frame : value(reader->frames(0, n_columns))) positions.push_back(frame.position);
    return positions;
}

// One token at its own width, small enough that threads would cost more than they bring: as the library does it.
bool is_small(const Selection& s) {
    if (s.tokens.size() != 1) return false;
    size_t key_bytes = 0;
    for (const int32_t layer : s.layers) key_bytes += s.geometry.layers[size_t(layer)].k_bytes();
    return key_bytes * size_t(s.tokens[0] + 1) < size_t(1) << 20;
}

} // namespace

void in_parallel(size_t n, const std::function<void(size_t)>& work) {
    std::atomic<size_t> next{0};
    std::exception_ptr failed;
    std::mutex mutex;
    const auto work_off = [&] {
        for (size_t i = next++; i < n; i = next++) {
            try {
                work(i);
            } catch (...) {
                next = n;
                const std::scoped_lock lock(mutex);
                if (!failed) failed = std::current_exception();
            }
        }
    };
    {
        std::vector<std::jthread> threads;
        try {
            for (size_t i = 1; i < std::min(n, static_cast<size_t>(n_threads())); ++i) threads.emplace_back(work_off);
        } catch (const std::system_error&) {
            // Fewer threads than wished for do the same work.
        }
        work_off();
    }
    if (failed) std::rethrow_exception(failed);
}

RowsBlock rows_block(RecordingPool& pool, const std::vector<int64_t>& tokens, const std::vector<int32_t>& layers,
                     const std::vector<int32_t>& heads, const std::function<void()>& between) {
    const auto info = pool.info();
    const Selection s(info->geometry, tokens, layers, heads);
    RowsBlock block;
    // as wide as what was selected, though there is nothing in it
    if (tokens.empty() || layers.empty() || heads.empty()) {
        for (const Token& token : read_tokens(pool, s, 0, tokens.size(), false))
            block.n_columns = std::max(block.n_columns, seen(token.frame));
        block.weights = allocate(0, 0);
        return block;
    }
    if (is_small(s)) {
        const auto rows = std::make_shared<FrameRows>(value(pool.lease()->rows(tokens[0], {layers, heads})));
        block.n_columns = rows->n_columns;
        block.weights = FloatArray(rows, rows->weights.data());
        return block;
    }

    const size_t chunk = std::clamp(queries_at_once / std::max(s.q_bytes, size_t(1)), size_t(1), tokens.size());
    std::vector<Token> read = read_tokens(pool, s, 0, chunk, true);
    for (const Token& token : read) block.n_columns = std::max(block.n_columns, seen(token.frame));
    for (size_t begin = chunk; begin < tokens.size(); begin += chunk) {
        between();
        for (const Token& token : read_tokens(pool, s, begin, std::min(tokens.size(), begin + chunk), false))
            block.n_columns = std::max(block.n_columns, seen(token.frame));
    }
    if (block.n_columns > info->n_frames) {
        const bool damaged = info->complete;
        throw Failure{
            {damaged ? ErrorKind::damaged : ErrorKind::not_found,
             pool.path() + (damaged ? " is damaged: a token sees columns that are not there"
                                    : " is still being written: a token sees tokens that are not there yet")}};
    }
    std::vector<int32_t> positions;
    if (std::any_of(layers.begin(), layers.end(),
                    [&](int32_t l) { return s.geometry.layers[size_t(l)].by_distance(); }))
        positions = positions_of(pool, block.n_columns);
    const size_t token_floats = s.row_count() * static_cast<size_t>(block.n_columns);
    block.weights = allocate(tokens.size(), token_floats);
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
        if (begin > 0) read = read_tokens(pool, s, begin, std::min(tokens.size(), begin + chunk), true);
        for (size_t first = 0; first < layers.size();) {
            size_t last = first;
            size_t bytes = 0;
            for (; last < layers.size(); ++last) {
                bytes += s.geometry.layers[size_t(layers[last])].k_bytes() * static_cast<size_t>(block.n_columns);
                if (bytes > keys_at_once && last > first) break;
            }
            between();
            const std::vector<LayerKeys> keys = read_keys(pool, s, read, first, last);
            compute(s, read, keys, first, last, block.n_columns, positions, block.weights.get() + begin * token_floats);
            first = last;
        }
    }
    return block;
}

} // namespace attnscope::python
