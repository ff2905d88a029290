// Dot products of our kernels against the engine's, bit for bit: rows equal the engine's own to their last digits
// only when the products of a score are added in the order of the llama.cpp build in use.
#include "attention/numbers.h"
#include "attention/plan.h"
#include "attention/reference.h"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <bit>
#include <memory>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Free {
    void operator()(ggml_context* p) const { ggml_free(p); }
    void operator()(ggml_backend* p) const { ggml_backend_free(p); }
    void operator()(ggml_backend_buffer* p) const { ggml_backend_buffer_free(p); }
};
template <class T> using Owned = std::unique_ptr<T, Free>;

struct Operands {
    DType type;
    int32_t head_dim;
    int32_t n_q;
    int64_t n_k;
    std::vector<float> q;   // (n_q, head_dim), numbers that `type` holds exactly
    std::vector<uint8_t> k; // (n_k, head_dim) in `type`
    size_t row_bytes() const { return dtype_row_bytes(type, head_dim); }
};

std::vector<float> decode(DType type, const std::vector<uint8_t>& bytes, size_t n) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; ++i) {
        const auto at = static_cast<int64_t>(i);
        x[i] = type == DType::f16    ? attention::F16Elements::at(bytes.data(), at)
               : type == DType::bf16 ? attention::Bf16Elements::at(bytes.data(), at)
                                     : attention::F32Elements::at(bytes.data(), at);
    }
    return x;
}

Operands make_operands(DType type, int32_t head_dim, int32_t n_q, int64_t n_k, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    const auto random = [&](size_t n) {
        std::vector<float> x(n);
        for (float& v : x) v = normal(rng);
        return x;
    };
    Operands o{type, head_dim, n_q, n_k, {}, {}};
    const auto d = static_cast<size_t>(head_dim);
    const size_t q_elements = static_cast<size_t>(n_q) * d;
    o.q = decode(type, encode(type, random(q_elements)), q_elements);
    o.k = encode(type, random(static_cast<size_t>(n_k) * d));
    return o;
}

// (n_q, n_k)
std::vector<float> our_dots(const Operands& o, bool batched) {
    const attention::RowKernels& kernels = attention::row_kernels();
    auto* const dots = o.type == DType::f16    ? kernels.dots_f16
                       : o.type == DType::bf16 ? kernels.dots_bf16
                                               : kernels.dots_f32;
    const auto d = static_cast<size_t>(o.head_dim);
    const size_t stride = (d + 15) / 16 * 16;
    std::vector<float> aligned(static_cast<size_t>(o.n_q) * stride + 16);
    void* at = aligned.data();
    size_t space = aligned.size() * sizeof(float);
    auto* const q = static_cast<float*>(std::align(64, static_cast<size_t>(o.n_q) * stride * sizeof(float), at, space));
    for (size_t h = 0; h < static_cast<size_t>(o.n_q); ++h) std::copy_n(o.q.data() + h * d, d, q + h * stride);
    std::vector<float> out(static_cast<size_t>(o.n_q * o.n_k));
    dots({q, stride, o.n_q, o.head_dim, o.k.data(), o.row_bytes(), o.n_k, out.data(), static_cast<size_t>(o.n_k),
          batched});
    return out;
}

// As many tokens as query heads through the engine's matrix product: one token alone, or several together.
std::vector<float> engine_dots(const Operands& o) {
    Owned<ggml_context> ctx(ggml_init({8 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    Owned<ggml_backend> cpu(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(cpu.get(), 1);
    ggml_tensor* k = ggml_new_tensor_2d(ctx.get(), static_cast<ggml_type>(o.type), o.head_dim, o.n_k);
    // Permuted, as llama.cpp's Q is: with float32 keys that keeps the engine from tinyBLAS.
    ggml_tensor* q = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, o.head_dim, 2, o.n_q);
    ggml_tensor* one = ggml_view_3d(ctx.get(), q, o.head_dim, 1, o.n_q, q->nb[1], q->nb[2], 0);
    ggml_tensor* kq = ggml_mul_mat(ctx.get(), k, ggml_permute(ctx.get(), one, 0, 2, 1, 3));
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, kq);
    Owned<ggml_backend_buffer> buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu.get()));
    ggml_backend_tensor_set(k, o.k.data(), 0, o.k.size());
    const auto d = static_cast<size_t>(o.head_dim);
    for (size_t h = 0; h < static_cast<size_t>(o.n_q); ++h)
        ggml_backend_tensor_set(q, o.q.data() + h * d, h * q->nb[2], d * sizeof(float));
    EXPECT_EQ(ggml_backend_graph_compute(cpu.get(), graph), GGML_STATUS_SUCCESS);
    std::vector<float> out(static_cast<size_t>(o.n_q * o.n_k));
    ggml_backend_tensor_get(kq, out.data(), 0, out.size() * sizeof(float));
    return out;
}

// One query at a time through ggml's own dot product: what a token decoded alone gets.
std::vector<float> engine_single_dots(const Operands& o) {
    const auto vec_dot = ggml_get_type_traits_cpu(static_cast<ggml_type>(o.type))->vec_dot;
    const std::vector<uint8_t> q = encode(o.type, o.q);
    std::vector<float> out(static_cast<size_t>(o.n_q * o.n_k));
    for (size_t h = 0; h < static_cast<size_t>(o.n_q); ++h) {
        for (size_t r = 0; r < static_cast<size_t>(o.n_k); ++r) {
            vec_dot(o.head_dim, &out[h * static_cast<size_t>(o.n_k) + r], 0, o.k.data() + r * o.row_bytes(), 0,
                    q.data() + h * o.row_bytes(), 0, 1);
        }
    }
    return out;
}

void expect_same_bits(const Operands& o, const std::vector<float>& ours, const std::vector<float>& engine) {
    for (size_t i = 0; i < ours.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(ours[i]), std::bit_cast<uint32_t>(engine[i]))
            << attention::row_kernels().name << " " << dtype_name(o.type) << " head_dim " << o.head_dim << ", " << o.n_q
            << " queries, at " << i << ": " << ours[i] << " and " << engine[i];
    }
}

} // namespace

// Machines with half-precision or bf16 arithmetic let ggml add in orders that our kernels do not have. All others must not
// get by with asking the engine for every single product, which is slower.
TEST(EngineOrder, IsThatOfOurKernels) {
#if defined(__x86_64__)
    if (!attention::avx2_kernels() || ggml_cpu_has_avx512_bf16()) GTEST_SKIP() << "another order may be in use";
    for (const DType type : {DType::f16, DType::bf16, DType::f32})
        EXPECT_TRUE(attention::adds_as_engine(type, 128)) << attention::row_kernels().name << " " << dtype_name(type);
    EXPECT_EQ(attention::row_kernels().name, ggml_cpu_has_avx512() ? std::string("avx512") : std::string("avx2"));
    // what is left after whole steps is added as the compiler of ggml chose
    EXPECT_FALSE(attention::adds_as_engine(DType::f32, 72));
#endif
}

// A GPU does not add as the CPU beside it, whose sums may be half-precision ones.
TEST(EngineOrder, LayersOfDevicesAreFloat32SumsOnEveryMachine) {
    LayerInfo layer;
    layer.n_head = layer.n_head_kv = 1;
    layer.head_dim = layer.head_dim_v = 72; // no machine adds these as we do
    layer.q_type = layer.k_type = DType::f32;
    EXPECT_EQ(attention::plan_layer(layer, false).value().way, attention::DotWay::engine);
    layer.on_device = true;
    EXPECT_EQ(attention::plan_layer(layer, false).value().way, attention::DotWay::float32);
}

TEST(EngineOrder, DotsOfATokenAloneAreTheEnginesToTheLastBit) {
    ggml_cpu_init();
    uint32_t seed = 0;
    for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
        for (const int32_t head_dim : {16, 32, 40, 64, 72, 80, 96, 112, 128, 192, 256, 576}) {
            if (!attention::adds_as_engine(type, head_dim)) continue; // then the engine is asked itself
            for (int32_t n_q = 1; n_q <= 9; ++n_q) {
                const Operands o = make_operands(type, head_dim, n_q, 21, ++seed);
                expect_same_bits(o, our_dots(o, false), engine_single_dots(o));
            }
        }
    }
}

TEST(EngineOrder, DotsOfTokensDecodedTogetherAreTheEnginesToTheLastBit) {
    uint32_t seed = 0;
    for (const DType type : {DType::f16, DType::bf16}) {
        if (type == DType::bf16 && ggml_cpu_has_avx512_bf16()) continue; // products in pairs: another last bit
        for (const int32_t head_dim : {16, 32, 40, 64, 72, 80, 96, 112, 128, 192, 256}) {
            for (int32_t n_q = 2; n_q <= 9; ++n_q) {
                const Operands o = make_operands(type, head_dim, n_q, 64, ++seed);
                expect_same_bits(o, our_dots(o, true), engine_dots(o));
            }
        }
    }
}
