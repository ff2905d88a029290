#include "diagnose/token_facts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace attnscope::diagnose {

RowKind row_kind(const RowStatistics& row, int64_t n_context) {
    if (row.not_finite > 0 || row.half_limit > 0) {
        return std::max(std::abs(row.min), std::abs(row.max)) > 1e5f ? RowKind::wild : RowKind::not_finite;
    }
    if (row.masked == 0 && row.zeros == n_context) return RowKind::zero;
    if (std::max(-row.min, row.max) > 1e5f) return RowKind::wild; // float16 cannot hold it, no model scores so high
    if (row.min < 0 || row.masked > 0) return RowKind::score;
    if (std::abs(row.sum - 1) <= sum_tolerance) return RowKind::probability;
    if (row.max > 1.001f) return RowKind::score;
    return row.sum < 1 ? RowKind::sub_probability : RowKind::over;
}

namespace {

// Both are hashes already; what is left to do is to keep their order. The constant is that of splitmix64.
uint64_t combine(uint64_t a, uint64_t b) {
    return (a ^ (b >> 32 | b << 32)) * 0x9E3779B97F4A7C15u + b;
}

// How many numbers of a row could tell it from another: none in a one-hot or uniform row, of which a model
// may well have two that are equal.
int64_t informative(const RowStatistics& row, int64_t n_context) {
    const int64_t nonzero = n_context - row.zeros - row.masked;
    if (nonzero < 2) return 0;
    if (row.masked == 0 && row.min >= 0 && row.max > 0.9999f) return 0;
    const double mean = row.sum / static_cast<double>(nonzero);
    if (std::abs(static_cast<double>(row.max) - mean) <= 1e-5 * std::abs(static_cast<double>(row.max))) return 0;
    return nonzero - 1;
}

// Below this many informative numbers in a layer, equality may be chance: half-precision storage leaves few
// bits each.
constexpr int64_t informative_enough = 8;

// Rows that sum to 1, or to less, among scores: whether they are weights, or scores of a few columns that happen to be positive.
class WeightsAmongScores {
public:
    void add(RowKind kind, const RowStatistics& row, int64_t n_context) {
        const int64_t used = n_context - row.zeros - row.masked;
        if (kind == RowKind::sub_probability)
            wide_ += used >= sub_columns;
        else if (used >= narrow_columns)
            ++wide_;
        else
            narrow_ += std::abs(row.sum - 1) <= narrow_tolerance;
    }
    bool proven(int64_t n_rows) const { return wide_ > 0 || (narrow_ > 1 && narrow_ * 20 >= n_rows); }

private:
    static constexpr double narrow_tolerance = 2e-3; // float16
    static constexpr int64_t sub_columns = 16;       // so many scores are not all positive by chance
    int64_t wide_ = 0, narrow_ = 0;
};

} // namespace

TokenFacts TokenFactsMaker::make(const DumpToken& token) {
    TokenFacts facts;
    facts.index = token.index;
    facts.number = token.number;
    facts.n_layer = token.n_layer;
    facts.n_head = token.n_head;
    facts.n_context = token.n_context;
    facts.stated_context = token.stated_context;
    facts.prompt.own_column = token.own_column;
    look_at_rows(token, facts);
    look_at_layers(token, facts);
    look_at_kind(token, facts);
    look_at_support(token, facts);
    look_at_scores(token, facts);
    look_at_profile(token, facts);
    look_at_changes(token, facts);
    look_at_columns(token, facts);
    look_at_dropout(token, facts);
    return facts;
}

void TokenFactsMaker::look_at_rows(const DumpToken& token, TokenFacts& facts) {
    const size_t n_rows = static_cast<size_t>(token.n_layer) * static_cast<size_t>(token.n_head);
    const size_t n = static_cast<size_t>(token.n_context);
    const size_t head = n / hash_grid * hash_grid;
    rows_.resize(n_rows);
    row_hashes_.resize(n_rows);
    head_hashes_.resize(n_rows);
    facts.numbers.min = std::numeric_limits<float>::infinity();
    facts.numbers.max = -std::numeric_limits<float>::infinity();
    facts.numbers.row_sum_min = std::numeric_limits<double>::infinity();
    facts.numbers.row_sum_max = -std::numeric_limits<double>::infinity();
    int64_t last = -1;
    for (size_t r = 0; r < n_rows; ++r) {
        const float* row = token.values.data() + r * n;
        RowStatistics& s = rows_[r] = row_statistics(row, n);
        head_hashes_[r] = hash_bytes(row, head * sizeof(float));
        row_hashes_[r] = combine(head_hashes_[r], hash_bytes(row + head, (n - head) * sizeof(float)));
        if (token.missing_rows > 0 && s.zeros == token.n_context) continue; // is not there
        facts.numbers.min = std::min(facts.numbers.min, s.min);
        facts.numbers.max = std::max(facts.numbers.max, s.max);
        facts.numbers.sum += s.sum;
        facts.numbers.row_sum_min = std::min(facts.numbers.row_sum_min, s.sum);
        facts.numbers.row_sum_max = std::max(facts.numbers.row_sum_max, s.sum);
        facts.numbers.n_not_finite += s.not_finite;
        facts.numbers.n_masked += s.masked;
        if (s.mask_low < 0) {
            facts.numbers.mask_low = std::min(facts.numbers.mask_low, s.mask_low);
            facts.numbers.mask_high =
                facts.numbers.mask_high == 0 ? s.mask_high : std::max(facts.numbers.mask_high, s.mask_high);
        }
        facts.numbers.n_half_limit += s.half_limit;
        // looks only at columns that no earlier row has filled
        const size_t seen = static_cast<size_t>(last + 1);
        last = std::max(last, last_nonzero(row + seen, n - seen) + static_cast<int64_t>(seen));
    }
    if (facts.numbers.min > facts.numbers.max) { // no row is there
        facts.numbers.min = facts.numbers.max = 0;
        facts.numbers.row_sum_min = facts.numbers.row_sum_max = 0;
    }
    facts.columns.padding = last < 0 ? 0 : token.n_context - 1 - last;
}

void TokenFactsMaker::look_at_layers(const DumpToken& token, TokenFacts& facts) {
    const size_t heads = static_cast<size_t>(token.n_head), n_layer = static_cast<size_t>(token.n_layer);
    layers_.assign(n_layer, {});
    facts.layers.trivial = true;
    int32_t group = 0;
    for (size_t l = 0; l < n_layer; ++l) {
        LayerFacts& layer = layers_[l];
        int64_t information = 0;
        for (size_t h = 0; h < heads; ++h) {
            const RowStatistics& row = rows_[l * heads + h];
            information += informative(row, token.n_context);
            layer.zero = layer.zero && row.zeros == token.n_context;
        }
        layer.hash = hash_bytes(row_hashes_.data() + l * heads, heads * sizeof(uint64_t));
        layer.trivial = information < informative_enough;
        facts.layers.zero += layer.zero;
        facts.layers.trivial = facts.layers.trivial && layer.trivial;
        if (layer.trivial) continue;
        // the longest run length of equal heads that divides every run of this layer
        int32_t run = 0, length = 1;
        for (size_t h = 1; h <= heads; ++h) {
            const uint64_t* hashes = row_hashes_.data() + l * heads;
            if (h < heads && hashes[h] == hashes[h - 1]) {
                ++length;
            } else {
                run = std::gcd(run, length);
                length = 1;
            }
        }
        group = std::gcd(group, run);
    }
    facts.layers.head_group = group > 1 ? group : 1;

    // which layers equal which: each layer is written as the number of the first layer it equals
    std::unordered_map<uint64_t, int32_t> first;
    std::vector<int32_t> partition(n_layer), members(n_layer, 0);
    for (size_t l = 0; l < n_layer; ++l) {
        partition[l] = first.emplace(layers_[l].hash, static_cast<int32_t>(l)).first->second;
        ++members[static_cast<size_t>(partition[l])];
    }
    facts.layers.distinct = static_cast<int32_t>(first.size());
    for (size_t l = 0; l < n_layer; ++l) {
        if (!layers_[l].trivial && members[static_cast<size_t>(partition[l])] > 1) ++facts.layers.equal;
    }
    facts.layers.partition = static_cast<int32_t>(hash_bytes(partition.data(), partition.size() * sizeof(int32_t)));

    if (previous_context_ > 0 && previous_context_ <= token.n_context && previous_heads_ == token.n_head) {
        for (size_t l = 0; l < n_layer; ++l) {
            if (layers_[l].trivial) continue;
            const uint64_t hash = previous_context_ == token.n_context
                                      ? layers_[l].hash
                                      : layer_hash_at(token, static_cast<int32_t>(l), previous_context_);
            facts.layers.stale += std::binary_search(previous_layers_.begin(), previous_layers_.end(), hash);
        }
    }
    if (!facts.layers.trivial) {
        uint64_t whole = static_cast<uint64_t>(token.n_context);
        for (const LayerFacts& layer : layers_) whole = combine(whole, layer.hash);
        const auto [at, is_new] = seen_.emplace(whole, token.index);
        if (!is_new) facts.layers.repeats = at->second;
        const auto informative_layers =
            std::count_if(layers_.begin(), layers_.end(), [](const LayerFacts& layer) { return !layer.trivial; });
        if (facts.layers.repeats < 0 && facts.layers.stale > 0 && facts.layers.stale == informative_layers) {
            facts.layers.repeats = previous_index_;
        }
    }
    previous_layers_.clear();
    for (const LayerFacts& layer : layers_) {
        if (!layer.trivial) previous_layers_.push_back(layer.hash);
    }
    std::sort(previous_layers_.begin(), previous_layers_.end());
    previous_context_ = token.n_context;
    previous_heads_ = token.n_head;
    previous_index_ = token.index;
}

// The hash that the layer would have if its rows ended at `width`.
uint64_t TokenFactsMaker::layer_hash_at(const DumpToken& token, int32_t layer, int64_t width) const {
    const size_t n = static_cast<size_t>(token.n_context), cut = static_cast<size_t>(width);
    const size_t head = cut / hash_grid * hash_grid;
    const bool shared = head == n / hash_grid * hash_grid;
    std::vector<uint64_t> hashes(static_cast<size_t>(token.n_head));
    for (size_t h = 0; h < hashes.size(); ++h) {
        const size_t r = static_cast<size_t>(layer) * hashes.size() + h;
        const float* row = token.values.data() + r * n;
        const uint64_t head_hash = shared ? head_hashes_[r] : hash_bytes(row, head * sizeof(float));
        hashes[h] = combine(head_hash, hash_bytes(row + head, (cut - head) * sizeof(float)));
    }
    return hash_bytes(hashes.data(), hashes.size() * sizeof(uint64_t));
}

void TokenFactsMaker::look_at_kind(const DumpToken& token, TokenFacts& facts) const {
    int64_t probability = 0, sub = 0, over = 0, zero = 0, score = 0, wild = 0, not_finite = 0;
    WeightsAmongScores weights;
    for (const RowStatistics& row : rows_) {
        const RowKind kind = row_kind(row, token.n_context);
        if (kind == RowKind::probability || kind == RowKind::sub_probability) weights.add(kind, row, token.n_context);
        facts.rows.widest = std::max(facts.rows.widest, token.n_context - row.zeros - row.masked);
        switch (kind) {
        case RowKind::probability: ++probability; break;
        case RowKind::sub_probability: ++sub; break;
        case RowKind::over: ++over; break;
        case RowKind::zero: ++zero; break;
        case RowKind::score: ++score; break;
        case RowKind::wild: ++wild; break;
        case RowKind::not_finite: ++not_finite; break;
        }
    }
    facts.rows.sub = static_cast<int32_t>(sub);
    facts.rows.wild = static_cast<int32_t>(wild);
    facts.rows.score = static_cast<int32_t>(score);
    int64_t tail = 0;
    for (size_t r = rows_.size(); r-- > 0 && rows_[r].zeros == token.n_context;) ++tail;
    tail = std::max<int64_t>(0, tail - token.missing_tail);
    facts.rows.missing = static_cast<int32_t>(token.missing_rows);
    facts.rows.zero_tail = static_cast<int32_t>(tail);
    facts.rows.zero_tail_in_layer = tail % token.n_head != 0;
    const int64_t n_rows = static_cast<int64_t>(rows_.size());
    if (not_finite > 0 || wild > 0)
        facts.kind = TokenKind::not_finite;
    else if (zero == n_rows)
        facts.kind = TokenKind::zeros;
    else if (score > 0 && weights.proven(n_rows) && score * 100 < n_rows * 99)
        facts.kind = TokenKind::mixed;
    else if (score > 0)
        facts.kind = TokenKind::scores;
    else if (over > 0)
        facts.kind = TokenKind::transposed; // to be confirmed below
    else
        facts.kind = sub > 0 ? TokenKind::sub_probabilities : TokenKind::probabilities;

    // The other axis. Either the shape was stated the wrong way round, so that heads and context change
    // places, or the numbers lie as (context, heads) under the right shape. Rows of few heads can each sum to
    // less than 1.
    const double layer_sum = facts.numbers.sum / token.n_layer;
    const bool maybe = facts.numbers.min >= 0 && facts.numbers.n_masked == 0 && not_finite + wild == 0 &&
                       probability < n_rows &&
                       (over > 0 || score > 0 || std::abs(layer_sum / static_cast<double>(token.n_context) - 1) < 0.01);
    if (!maybe) return;
    const size_t heads = static_cast<size_t>(token.n_head), n = static_cast<size_t>(token.n_context);
    std::vector<double> stated(n), lying(heads);
    size_t stated_ones = 0, lying_ones = 0, stated_all = 0, lying_all = 0;
    bool stated_most_one = true, lying_most_one = true;
    for (size_t l = 0; l < static_cast<size_t>(token.n_layer); ++l) {
        std::fill(stated.begin(), stated.end(), 0.0);
        std::fill(lying.begin(), lying.end(), 0.0);
        const float* layer = token.values.data() + l * heads * n;
        size_t head = 0;
        for (size_t i = 0; i < heads * n; ++i) {
            lying[head] += static_cast<double>(layer[i]);
            if (++head == heads) head = 0;
        }
        for (size_t h = 0; h < heads; ++h) {
            for (size_t c = 0; c < n; ++c) stated[c] += static_cast<double>(layer[h * n + c]);
        }
        for (const double sum : stated) {
            stated_ones += std::abs(sum - 1) <= sum_tolerance;
            stated_most_one = stated_most_one && sum <= 1 + sum_tolerance && sum > 0;
        }
        for (const double sum : lying) {
            lying_ones += std::abs(sum - 1) <= sum_tolerance;
            lying_most_one = lying_most_one && sum <= 1 + sum_tolerance && sum > 0;
        }
        stated_all += n;
        lying_all += heads;
    }
    const bool rows_exceed = facts.numbers.row_sum_max > 1 + sum_tolerance;
    facts.scores.heads_share = static_cast<double>(stated_ones) / static_cast<double>(std::max<size_t>(1, stated_all));
    const bool across = stated_ones == stated_all || (rows_exceed && stated_most_one);
    const bool along = lying_ones == lying_all || (rows_exceed && lying_most_one);
    if (across || along)
        facts.kind = TokenKind::transposed;
    else if (facts.kind == TokenKind::transposed)
        facts.kind = TokenKind::scores;
}

} // namespace attnscope::diagnose
