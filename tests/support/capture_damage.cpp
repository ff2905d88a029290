// The ways of spoiling a capture, each as the program that does it would.
#include "support/capture_maker.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnscope::test {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The same rows in `width` columns; new ones hold `fill`.
SyntheticToken widened(const SyntheticToken& token, int64_t width, float fill) {
    SyntheticToken out = token;
    out.n_context = width;
    out.values.assign(size_t(token.n_layer) * size_t(token.n_head) * size_t(width), fill);
    const int64_t kept = std::min(width, token.n_context);
    for (int64_t r = 0; r < int64_t(token.n_layer) * token.n_head; ++r) {
        std::copy_n(token.values.begin() + r * token.n_context, kept, out.values.begin() + r * width);
    }
    return out;
}

void copy_layer(SyntheticToken& to, int32_t to_layer, const SyntheticToken& from, int32_t from_layer) {
    const SyntheticToken fitted = from.n_context == to.n_context ? from : widened(from, to.n_context, 0.0f);
    const int64_t n = int64_t(to.n_head) * to.n_context;
    std::copy_n(fitted.values.begin() + from_layer * n, n, to.values.begin() + to_layer * n);
}

void mask(SyntheticToken& scores, const SyntheticModel& model, int64_t position) {
    for (int32_t l = 0; l < scores.n_layer; ++l) {
        for (int32_t h = 0; h < scores.n_head; ++h) {
            for (int64_t p = 0; p < scores.n_context; ++p) {
                if (p < model.first_visible(l, position) || p > position) scores.row(l, h)[p] = -infinity;
            }
        }
    }
}

void multiply(SyntheticToken& token, float factor) {
    for (float& x : token.values) x *= factor;
}

// Columns as the cells of a cache: `cell(layer, position)` says where; -1: not in the cache. Cells that hold
// nothing visible are 0.
template <typename Cell> SyntheticToken by_cells(const SyntheticToken& token, int64_t width, const Cell& cell) {
    SyntheticToken out = token;
    out.n_context = out.stated_context = width;
    out.values.assign(size_t(token.n_layer) * size_t(token.n_head) * size_t(width), 0.0f);
    SyntheticToken from = token;
    for (int32_t l = 0; l < token.n_layer; ++l) {
        for (int32_t h = 0; h < token.n_head; ++h) {
            for (int64_t p = 0; p < token.n_context; ++p) {
                const int64_t at = cell(l, p);
                if (at >= 0 && from.row(l, h)[p] != 0.0f) out.row(l, h)[at] = from.row(l, h)[p];
            }
        }
    }
    return out;
}

int64_t padded_width(int64_t n) {
    return (n + 255) / 256 * 256;
}

class Spoiler {
public:
    Spoiler(const Damage& damage, uint64_t seed) : name_(damage.name), random_(seed * 6364136223846793005u + 1) {
        shape_ = random_shape(seed);
        first_ = 20 + int64_t(random_() % 200);
        n_ = 12 + int64_t(random_() % 20);
        if (name_ == "learned sinks") shape_.sinks = true;
        if (name_.find("ring") != std::string::npos) {
            shape_.window = 32 + int64_t(random_() % 32);
            shape_.window_everywhere = name_ != "ring of some layers";
            // The ring must have wrapped inside the window: until then cells are positions, and nothing is
            // wrong.
            const int64_t cells = shape_.window + (name_ == "ring without room" ? 0 : 16);
            first_ = 3 * cells + int64_t(random_() % uint64_t(shape_.window / 2));
        }
        if (name_.find("masked") != std::string::npos && random_() % 2) shape_.window = 24;
        if (name_ == "sink column kept") shape_.sinks = true;
        if (is_prompt()) first_ = 0, n_ = 24 + int64_t(random_() % 40);
        if (name_.find("cache") != std::string::npos && name_ != "shifted cache") n_ += 8;
        if (name_.find("heads repeated") != std::string::npos || name_ == "KV heads alone") {
            while (shape_.n_head == shape_.n_head_kv) shape_ = random_shape(random_());
        }
    }

    void use(const SyntheticShape& shape, int64_t n) {
        const bool sinks = shape_.sinks;
        shape_ = shape;
        shape_.sinks = shape_.sinks || sinks;
        n_ = n;
    }

    SyntheticCapture make(uint64_t seed) {
        SyntheticModel model(shape_, seed);
        model_ = &model;
        SyntheticCapture capture = make_clean(shape_, first_, 0, seed);
        std::vector<SyntheticToken> all_scores;
        for (int64_t t = 0; t < n_; ++t) {
            const int64_t position = first_ + t;
            SyntheticToken scores = model.scores(position);
            SyntheticToken clean = scores;
            model.to_attention(clean, position);
            all_scores.push_back(scores);
            capture.tokens.push_back(spoil(t, position, clean, std::move(scores)));
            previous_ = std::move(clean);
        }
        capture.info.n_tokens = n_;
        if (is_prompt()) to_prompt(capture, all_scores);
        if (name_ == "sink column kept") keep_sinks(capture);
        if (name_ == "KV heads alone") {
            capture.info.model.n_layer = shape_.n_layer;
            capture.info.model.n_head = shape_.n_head;
            capture.info.model.n_head_kv = shape_.n_head_kv;
        }
        return capture;
    }

private:
    bool is_prompt() const { return name_.rfind("prompt", 0) == 0; }

    // The tokens of a stack share one width, and each is a query of one map.
    void to_prompt(SyntheticCapture& capture, const std::vector<SyntheticToken>& scores) {
        capture.info.rectangular = capture.info.prompt = true;
        const int64_t pad = 2 + int64_t(random_() % 8);
        for (int64_t q = 0; q < n_; ++q) {
            SyntheticToken& token = capture.tokens[size_t(q)];
            if (name_ == "prompt, no causal mask") {
                token = model_->scores(n_ - 1 + q);
                token = widened(token, n_, 0.0f);
                SyntheticModel open(shape_, 1);
                open.to_attention(token, n_ - 1);
            } else {
                token = widened(token, n_, 0.0f);
            }
            token.own_column = q;
            token.stated_context = -1;
            if (name_ == "prompt, padded on the left: NaN" || name_ == "prompt, padded on the left: finfo.min")
                pad_left(token, q, pad, name_.find("NaN") != std::string::npos);
        }
        const int64_t rows = int64_t(shape_.n_layer) * shape_.n_head;
        if (name_ == "prompt, queries and keys exchanged") {
            const SyntheticCapture before = capture;
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t q = 0; q < n_; ++q)
                    for (int64_t k = 0; k < n_; ++k)
                        capture.tokens[size_t(q)].values[size_t(r * n_ + k)] =
                            before.tokens[size_t(k)].values[size_t(r * n_ + q)];
        } else if (name_ == "prompt, softmax over the queries") {
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t k = 0; k < n_; ++k) {
                    double sum = 0;
                    const auto score = [&](int64_t q) {
                        return double(scores[size_t(q)].values[size_t(r * (q + 1) + k)]);
                    };
                    for (int64_t q = k; q < n_; ++q) sum += std::exp(score(q));
                    for (int64_t q = k; q < n_; ++q)
                        capture.tokens[size_t(q)].values[size_t(r * n_ + k)] = float(std::exp(score(q)) / sum);
                }
            }
        }
    }

    // Padding sees nothing: NaN where the mask is -inf, alike everywhere where it is the least finite number.
    static void pad_left(SyntheticToken& token, int64_t q, int64_t pad, bool nan) {
        for (int32_t l = 0; l < token.n_layer; ++l) {
            for (int32_t h = 0; h < token.n_head; ++h) {
                float* row = token.row(l, h);
                if (q < pad) {
                    std::fill_n(row, token.n_context, nan ? std::nanf("") : 1.0f / float(token.n_context));
                    continue;
                }
                std::fill_n(row, pad, 0.0f);
                double sum = 0;
                for (int64_t c = 0; c < token.n_context; ++c) sum += double(row[c]);
                if (sum == 0) row[pad] = 1, sum = 1; // a head that looks at the first position only
                for (int64_t c = 0; c < token.n_context; ++c) row[c] = float(double(row[c]) / sum);
            }
        }
    }

    // One column more than positions, at the end of all, with what the sink took.
    void keep_sinks(SyntheticCapture& capture) const {
        capture.info.rectangular = true;
        const int64_t width = first_ + n_ + 1;
        for (SyntheticToken& token : capture.tokens) {
            token = widened(token, width, 0.0f);
            token.stated_context = -1;
            for (int32_t l = 0; l < token.n_layer; ++l) {
                for (int32_t h = 0; h < token.n_head; ++h) {
                    double sum = 0;
                    for (int64_t c = 0; c + 1 < width; ++c) sum += double(token.row(l, h)[c]);
                    token.row(l, h)[width - 1] = float(1 - sum);
                }
            }
        }
    }

    // Weights over the columns that `seen` leaves.
    template <typename Seen> static void drop_columns(SyntheticToken& token, const Seen& seen) {
        for (int32_t l = 0; l < token.n_layer; ++l) {
            for (int32_t h = 0; h < token.n_head; ++h) {
                double sum = 0;
                for (int64_t c = 0; c < token.n_context; ++c) sum += seen(c) ? double(token.row(l, h)[c]) : 0.0;
                for (int64_t c = 0; c < token.n_context; ++c)
                    token.row(l, h)[c] = seen(c) ? float(double(token.row(l, h)[c]) / sum) : 0.0f;
            }
        }
    }

    void drop_out(SyntheticToken& token, double rate) {
        for (float& x : token.values)
            x = double(random_() >> 11) * 0x1p-53 < rate ? 0.0f : float(double(x) / (1 - rate));
    }

    void store(SyntheticToken& token) const {
        for (int64_t r = 0; r < int64_t(token.n_layer) * token.n_head; ++r) {
            float* row = token.values.data() + r * token.n_context;
            const float max = *std::max_element(row, row + token.n_context);
            for (int64_t c = 0; c < token.n_context; ++c) {
                if (name_ == "8 bits of each row's maximum")
                    row[c] = std::nearbyint(row[c] * 255 / max) * (max / 255);
                else if (name_ == "8 bits of 1")
                    row[c] = std::nearbyint(row[c] * 255) / 255;
                else if (name_ == "three decimals")
                    row[c] = float(std::nearbyint(double(row[c]) * 1000) / 1000);
                else if (name_ == "percent")
                    row[c] *= 100;
                else if (name_ == "parts of the row's maximum")
                    row[c] /= max;
            }
        }
    }

    int32_t some_layer() { return int32_t(random_() % uint64_t(shape_.n_layer)); }

    SyntheticToken spoil(int64_t t, int64_t position, const SyntheticToken& clean, SyntheticToken scores) {
        SyntheticToken token = clean;
        const int32_t n_layer = shape_.n_layer, last = n_layer - 1;
        const float unscale = std::sqrt(float(shape_.head_dim));
        const bool now = t == 3 || random_() % 3 == 0;
        if (name_ == "scaled scores, masked with -10000") {
            mask(scores, *model_, position);
            SyntheticToken wide = widened(scores, first_ + n_, -infinity);
            for (float& x : wide.values) x = x == -infinity ? -10000.0f : x;
            return wide;
        }
        if (name_ == "StreamingLLM cache") {
            drop_columns(token, [&](int64_t c) { return c < 4 || c + 12 > position; });
            return token;
        }
        if (name_ == "SnapKV cache") {
            drop_columns(token, [&](int64_t c) { return c >= first_ - 4 || (c * 2654435761u >> 7) % 3 == 0; });
            return token;
        }
        if (name_ == "softmax over the heads") {
            for (int32_t l = 0; l < n_layer; ++l) {
                for (int64_t p = 0; p <= position; ++p) {
                    double sum = 0;
                    for (int32_t h = 0; h < shape_.n_head; ++h) sum += std::exp(double(scores.row(l, h)[p]));
                    for (int32_t h = 0; h < shape_.n_head; ++h)
                        token.row(l, h)[p] = float(std::exp(double(scores.row(l, h)[p])) / sum);
                }
            }
            return token;
        }
        if (name_ == "dropout of 10%" || name_ == "prompt, dropout of 10%") drop_out(token, 0.1);
        if (name_ == "dropout of 50%") drop_out(token, 0.5);
        store(token);
        if (name_ == "scaled, masked scores") {
            mask(scores, *model_, position);
            return scores;
        }
        if (name_ == "unscaled, masked scores") {
            multiply(scores, unscale);
            mask(scores, *model_, position);
            return scores;
        }
        if (name_ == "scaled, unmasked scores") return widened(scores, padded_width(position + 1) + 0, 0.0f);
        if (name_ == "kq: neither scaled nor masked") {
            multiply(scores, unscale);
            return widened(scores, padded_width(position + 1), 0.0f);
        }
        if (name_ == "every layer the last" || name_ == "prompt, every layer the last") {
            for (int32_t l = 0; l < last; ++l) copy_layer(token, l, clean, last);
        } else if (name_ == "some layers the last") {
            // a reader overtaken by the engine: a different subset each time, never all
            const int32_t others = int32_t(t == 3 ? std::max(1, last / 2) : int32_t(random_() % uint64_t(n_layer)));
            std::vector<int32_t> order;
            for (int32_t l = 0; l < last; ++l) order.push_back(l);
            for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_() % i]);
            const int32_t copied = n_layer > 2 ? std::min(others, last - 1) : 0;
            for (int32_t i = 0; i < copied; ++i) copy_layer(token, order[size_t(i)], clean, last);
            if (n_layer == 2 && now && t > 0) copy_layer(token, 0, previous_, last);
        } else if (name_ == "some layers the previous token's") {
            if (t > 0 && now) {
                const int32_t copied = 1 + int32_t(random_() % uint64_t(last));
                for (int32_t l = 0; l < copied; ++l) copy_layer(token, l, previous_, last);
            }
        } else if (name_ == "tokens flip to scores") {
            if (now) return scores;
        } else if (name_ == "previous token again") {
            if (t > 0 && now) {
                token = widened(previous_, token.n_context, 0.0f);
                token.stated_context = clean.stated_context;
            }
        } else if (name_ == "torn between layers") {
            if (now) {
                const int32_t cut = 1 + int32_t(random_() % uint64_t(last));
                for (int32_t l = cut; l < n_layer; ++l) copy_layer(token, l, scores, l);
            }
        } else if (name_ == "torn inside a layer") {
            if (now) {
                const int64_t rows = int64_t(n_layer) * shape_.n_head,
                              cut = 1 + int64_t(random_() % uint64_t(rows - 2));
                std::copy(scores.values.begin() + cut * token.n_context, scores.values.end(),
                          token.values.begin() + cut * token.n_context);
            }
        } else if (name_ == "padded to 256, length not stated") {
            token = widened(clean, padded_width(position + 1), 0.0f);
            token.stated_context = token.n_context;
        } else if (name_ == "padded to 256, length stated") {
            token = widened(clean, padded_width(position + 1), 0.0f);
        } else if (name_ == "ring of some layers") {
            const int64_t cells = shape_.window + 16;
            token = by_cells(clean, position + 1, [&](int32_t l, int64_t p) { return l % 2 == 0 ? p % cells : p; });
        } else if (name_ == "ring with room") {
            const int64_t cells = shape_.window + 16;
            token = by_cells(clean, cells, [&](int32_t, int64_t p) {
                return p > position - shape_.window ? p % cells : int64_t(-1);
            });
        } else if (name_ == "ring without room") {
            const int64_t cells = shape_.window;
            token = by_cells(clean, cells,
                             [&](int32_t, int64_t p) { return p > position - cells ? p % cells : int64_t(-1); });
        } else if (name_ == "shifted cache") {
            // A full cache of `cells`: positions up to `discarded` (but for the first few) were dropped and
            // their cells are used again; the sequence was renumbered, so `position` counts what is still
            // there.
            const int64_t kept = 4, freed = n_ + 8, cells = first_ + freed;
            token = by_cells(clean, cells, [&](int32_t, int64_t p) {
                if (p < kept) return p;
                return p < first_ ? p + freed : kept + (p - first_);
            });
        } else if (name_ == "shape stated as layers, context, heads") {
            token.n_head = int32_t(clean.n_context);
            token.n_context = clean.n_head;
            token.stated_context = -1;
            transpose(clean, token);
        } else if (name_ == "memory in the order layers, context, heads") {
            transpose(clean, token);
        } else if (name_ == "heads repeated" || name_ == "prompt, heads repeated") {
            const int32_t group = shape_.n_head / shape_.n_head_kv;
            for (int32_t l = 0; l < n_layer; ++l) {
                for (int32_t h = 0; h < shape_.n_head; ++h) {
                    if (h % group) std::copy_n(token.row(l, h - h % group), token.n_context, token.row(l, h));
                }
            }
        } else if (name_ == "KV heads alone") {
            const int32_t group = shape_.n_head / shape_.n_head_kv;
            token.n_head = shape_.n_head_kv;
            token.values.clear();
            SyntheticToken from = clean;
            for (int32_t l = 0; l < n_layer; ++l) {
                for (int32_t k = 0; k < shape_.n_head_kv; ++k) {
                    for (int64_t p = 0; p < clean.n_context; ++p) {
                        float sum = 0;
                        for (int32_t h = 0; h < group; ++h) sum += from.row(l, k * group + h)[p];
                        token.values.push_back(sum / float(group));
                    }
                }
            }
        } else if (name_ == "NaN rows") {
            if (now) std::fill_n(token.row(some_layer(), 0), token.n_context, std::nanf(""));
        } else if (name_ == "scores beyond half precision") {
            multiply(scores, 20000.0f);
            for (float& x : scores.values) x = round_to_half(std::clamp(x, -60000.0f, infinity));
            for (float& x : scores.values) x = x == infinity && random_() % 2 ? 65504.0f : x;
            return scores;
        } else if (name_ == "half written: zeros to the end") {
            if (now) {
                const size_t cut = token.values.size() / 4 + random_() % (token.values.size() / 2);
                std::fill(token.values.begin() + int64_t(cut), token.values.end(), 0.0f);
            }
        } else if (name_ == "a block of garbage") {
            if (now) {
                const size_t at = random_() % (token.values.size() / 2),
                             n = std::min<size_t>(256, token.values.size() / 2);
                for (size_t i = at; i < at + n; ++i) {
                    token.values[i] = std::ldexp(float(random_() >> 40) * 0x1p-24f - 0.5f, int(random_() % 200) - 70);
                }
            }
        }
        return token;
    }

    static void transpose(const SyntheticToken& from, SyntheticToken& to) {
        const int64_t heads = from.n_head, n = from.n_context;
        for (int64_t l = 0; l < from.n_layer; ++l) {
            for (int64_t h = 0; h < heads; ++h) {
                for (int64_t p = 0; p < n; ++p) {
                    to.values[size_t(l * heads * n + p * heads + h)] = from.values[size_t(l * heads * n + h * n + p)];
                }
            }
        }
    }

    std::string name_;
    std::mt19937_64 random_;
    SyntheticShape shape_;
    SyntheticModel* model_ = nullptr;
    int64_t first_ = 0, n_ = 0;
    SyntheticToken previous_;
};

} // namespace

std::vector<Damage> damages() {
    return {{Cause::clean, "nothing"},
            {Cause::learned_sinks, "learned sinks"},
            {Cause::raw_scores, "scaled, masked scores"},
            {Cause::early_scores, "unscaled, masked scores"},
            {Cause::early_scores, "scaled, unmasked scores"},
            {Cause::early_scores, "kq: neither scaled nor masked"},
            {Cause::aliasing, "every layer the last"},
            {Cause::race, "some layers the last"},
            {Cause::race, "some layers the previous token's"},
            {Cause::race, "tokens flip to scores"},
            {Cause::stale_frame, "previous token again"},
            {Cause::mixture, "torn between layers"},
            {Cause::mixture, "torn inside a layer"},
            {Cause::padding, "padded to 256, length not stated"},
            {Cause::padding, "padded to 256, length stated"},
            {Cause::cells_for_positions, "ring of some layers"},
            {Cause::cells_for_positions, "ring with room"},
            {Cause::cells_for_positions, "ring without room"},
            {Cause::cells_for_positions, "shifted cache"},
            {Cause::transposed, "shape stated as layers, context, heads"},
            {Cause::transposed, "memory in the order layers, context, heads"},
            {Cause::kv_heads, "heads repeated"},
            {Cause::kv_heads, "KV heads alone"},
            {Cause::half_overflow, "NaN rows"},
            {Cause::half_overflow, "scores beyond half precision"},
            {Cause::corrupt, "half written: zeros to the end"},
            {Cause::corrupt, "a block of garbage"},
            {Cause::clean, "prompt"},
            {Cause::aliasing, "prompt, every layer the last"},
            {Cause::kv_heads, "prompt, heads repeated"},
            {Cause::transposed, "prompt, queries and keys exchanged"},
            {Cause::other_axis, "prompt, softmax over the queries"},
            {Cause::other_axis, "softmax over the heads"},
            {Cause::not_causal, "prompt, no causal mask"},
            {Cause::padding_queries, "prompt, padded on the left: NaN"},
            {Cause::padding_queries, "prompt, padded on the left: finfo.min"},
            {Cause::dropout, "dropout of 10%"},
            {Cause::dropout, "dropout of 50%"},
            {Cause::dropout, "prompt, dropout of 10%"},
            {Cause::evicted, "StreamingLLM cache"},
            {Cause::evicted, "SnapKV cache"},
            {Cause::sink_column, "sink column kept"},
            {Cause::raw_scores, "scaled scores, masked with -10000"},
            {Cause::rescaled, "percent"},
            {Cause::rescaled, "parts of the row's maximum"},
            {Cause::quantised, "8 bits of each row's maximum"},
            {Cause::quantised, "8 bits of 1"},
            {Cause::quantised, "three decimals"}};
}

SyntheticCapture make_damaged(const Damage& damage, uint64_t seed) {
    return Spoiler(damage, seed).make(seed);
}

SyntheticCapture make_damaged(const Damage& damage, const SyntheticShape& shape, int64_t n_tokens, uint64_t seed) {
    Spoiler spoiler(damage, seed);
    spoiler.use(shape, n_tokens);
    return spoiler.make(seed);
}

} // namespace attnscope::test
