// The kernels in plain C++: what every machine can run, and what the others are tested against.
#include "attention/kernels/simd.h"
#include "attention/numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace attnscope::attention {

namespace {

// Eight partial sums, as a vector register would keep them: the compiler may then vectorise, and rounding
// errors grow with the length of a partial sum.
template <class Elements> void dots(const DotTask& t) {
    constexpr int lanes = 8;
    constexpr int strip = 64; // elements converted at a time, for all query heads of the group
    for (int64_t r = 0; r < t.n; ++r) {
        const uint8_t* key = t.k + static_cast<size_t>(r) * t.k_stride;
        for (int32_t h = 0; h < t.n_q; ++h) t.out[static_cast<size_t>(h) * t.out_stride + static_cast<size_t>(r)] = 0;
        for (int32_t begin = 0; begin < t.head_dim; begin += strip) {
            float k[strip] = {};
            const int32_t n = std::min(strip, t.head_dim - begin);
            for (int32_t i = 0; i < n; ++i) k[i] = Elements::at(key, begin + i);
            for (int32_t h = 0; h < t.n_q; ++h) {
                const float* q = t.q + static_cast<size_t>(h) * t.q_stride + begin;
                float sum[lanes] = {};
                int32_t i = 0;
                for (; i + lanes <= n; i += lanes) {
                    for (int l = 0; l < lanes; ++l) sum[l] += k[i + l] * q[i + l];
                }
                for (; i < n; ++i) sum[0] += k[i] * q[i];
                float total = 0;
                for (float s : sum) total += s;
                t.out[static_cast<size_t>(h) * t.out_stride + static_cast<size_t>(r)] += total;
            }
        }
    }
}

float scores(float* x, int64_t n, float scale, float softcap, float post_scale) {
    float max = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < n; ++i) {
        float s = x[i] * scale;
        if (softcap > 0) s = softcap * std::tanh(s / softcap);
        s *= post_scale;
        x[i] = s;
        max = s > max ? s : max;
    }
    return max;
}

double exponentials(float* x, int64_t n, float max) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        x[i] = std::exp(x[i] - max);
        sum += static_cast<double>(x[i]);
    }
    return sum;
}

void multiply(float* x, int64_t n, float factor) {
    for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

double entropy(const float* p, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        const auto w = static_cast<double>(p[i]);
        if (!(w <= 0)) sum -= w * std::log(w);
    }
    return sum;
}

// Through the kernel for rows, so that the order of additions lies in one place.
template <class Elements> void tiles(const TileTask& t) {
    constexpr auto columns = static_cast<size_t>(tile_columns);
    const auto dim = static_cast<size_t>(t.head_dim);
    std::vector<uint8_t> rows(columns * dim * Elements::size);
    for (int64_t tile = 0; tile < t.n_tiles; ++tile) {
        const uint8_t* from = t.tiles + static_cast<size_t>(tile) * rows.size();
        for (size_t d = 0; d < dim; ++d) {
            for (size_t c = 0; c < columns; ++c) {
                std::memcpy(&rows[(c * dim + d) * Elements::size], from + (d * columns + c) * Elements::size,
                            Elements::size);
            }
        }
        dots<Elements>({t.q, t.q_stride, t.n_q, t.head_dim, rows.data(), dim * Elements::size, tile_columns,
                        t.out + tile * tile_columns, t.out_stride, t.batched});
    }
}

void add(float* sum, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
}

void largest(float* max, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) max[i] = !(x[i] <= max[i]) && max[i] == max[i] ? x[i] : max[i];
}

void weigh(const WeighBlock& b) {
    for (int32_t r = 0; r < b.n_rows; ++r) {
        float* sum = b.sums[r];
        float* magnitude = sum + b.stride;
        const float* v = b.v;
        for (int64_t j = 0; j < b.n; ++j, v += b.stride) {
            const float p = b.weights[r][j];
            for (size_t d = 0; d < b.stride; ++d) {
                sum[d] += p * v[d];
                magnitude[d] += p * std::fabs(v[d]);
            }
        }
    }
}

void read_f16(const uint8_t* from, size_t from_stride, int64_t n, int32_t dim, float* to, size_t to_stride) {
    for (int64_t j = 0; j < n; ++j, from += from_stride, to += to_stride) {
        for (int32_t d = 0; d < dim; ++d) to[d] = F16Elements::at(from, d);
    }
}

} // namespace

const RowKernels& scalar_kernels() {
    static constexpr RowKernels kernels{"scalar",
                                        dots<F16Elements>,
                                        dots<Bf16Elements>,
                                        dots<F32Elements>,
                                        scores,
                                        exponentials,
                                        multiply,
                                        entropy,
                                        tiles<F16Elements>,
                                        tiles<Bf16Elements>,
                                        tiles<F32Elements>,
                                        add,
                                        largest,
                                        weigh,
                                        read_f16,
                                        nullptr,
                                        nullptr};
    return kernels;
}

} // namespace attnscope::attention
