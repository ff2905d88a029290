// Graphs of programs whose ggml nobody can ask: what is said of them is true, or they are refused; graphs that nobody builds are
// looked at in bounds, too. The structures of a back end, for programs of each kind that takes one.
#include "attach/inside/back_end.h"
#include "attach/inside/graph_inputs.h"
#include "attach/inside/graph_walk.h"
#include "attach/inside/loaded.h"
#include "attach/inside/operations.h"
#include "attach/inside/seen_graph.h"
#include "attach/inside/structure_probe.h"
#include "attach/inside/watched_context.h"
#include "attach/made_graph.h"
#include "capture/graph/attention_graph.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;
using attach::tensor_layout;
using capture::Op;

extern "C" char __executable_start, etext; // of the linker's

namespace {
char the_program;
bool asked_context = false;
} // namespace

// What stands for the process: all code is one object's, and contexts are looked at elsewhere.
namespace attnscope::attach {

void* find_function(link_map*, const char*) {
    return nullptr;
}
link_map* object_of(const void* address) {
    const auto* a = static_cast<const char*>(address);
    return a >= &__executable_start && a < &etext ? reinterpret_cast<link_map*>(&the_program) : nullptr;
}
bool reads_structures() {
    return false;
}
WatchedContext::~WatchedContext() = default;
bool WatchedContext::computes(const ggml_tensor*, size_t) noexcept {
    return asked_context = true;
}
bool WatchedContext::compute() noexcept {
    return true;
}

} // namespace attnscope::attach

namespace {

link_map* const holder = reinterpret_cast<link_map*>(&the_program);

attach::Probed probe(MadeGraph&, const std::vector<ggml_tensor*>& asked, size_t n_functions = 0) {
    return attach::probe_structures(holder, asked, n_functions);
}

TEST(AttachGraphs, ATableIsReadFromStructures) {
    for (uint64_t seed = 0; seed < 60; ++seed) {
        for (const size_t n_functions : {9u, 11u}) {
            MadeGraph made(seed, n_functions);
            const std::vector<ggml_tensor*> asked = made.llama(seed % 2 == 0, 1 + int64_t(seed % 5));
            for (const size_t told : {size_t(0), n_functions}) ASSERT_EQ(probe(made, asked, told).refusal, "") << seed;
            EXPECT_NE(probe(made, asked, 20 - n_functions).refusal, "") << seed; // told that it is of the other kind
            capture::foreign_ggml() = probe(made, asked).abi;
            attach::PlainBytes bytes;
            attach::SeenGraph graph;
            graph.nodes = attach::walk(asked, tensor_layout, bytes);
            ASSERT_TRUE(attach::is_last_norm(asked.back())) << seed;
            ASSERT_EQ(attach::find_operations(graph.nodes, capture::foreign_ggml().ops), "") << seed;
            for (const Op op :
                 {Op::mul_mat, Op::get_rows, Op::set_rows, Op::rope, seed % 2 == 0 ? Op::flash_attn_ext : Op::soft_max})
                EXPECT_EQ(capture::foreign_ggml().ops[made.number(op)], op) << seed;
            std::erase_if(graph.nodes, [](const ggml_tensor* t) { return capture::op(t) == Op::none; });
            const capture::GraphAttention found = capture::find_attention(graph.as_graph());
            ASSERT_EQ(found.nodes.size(), 2u) << seed;
            for (const capture::AttentionNode& n : found.nodes) EXPECT_EQ(n.refusal, "") << seed;
            const attach::GraphInputs in = attach::find_inputs(graph.as_graph());
            EXPECT_TRUE(in.complete()) << seed << in.refusal;
            EXPECT_EQ(in.tokens, made.tensor("leaf_2"));
            EXPECT_EQ(in.positions, made.tensor("leaf_5"));
            EXPECT_EQ(in.mask, made.tensor("leaf_7"));
            EXPECT_EQ(in.cells, made.tensor("leaf_9"));
        }
    }
}

// One thing wrong each: it is noticed before anything is believed, and no memory is touched that is not there.
TEST(AttachGraphs, WhatDoesNotLieAsExpectedIsRefusedInWords) {
    struct Wrong {
        const char* what;
        std::function<void(MadeGraph&)> spoil;
        const char* said;
    };
    const auto tensor = [](MadeGraph& g) { return g.tensor("blk.1.attn_k.weight"); };
    const Wrong all[] = {
        {"a type", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.type, 77); }, "their type was not found"},
        {"a shape", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.ne + 8, int64_t(-1)); },
         "their shape was not found"},
        {"a stride", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.nb + 8, size_t(12)); },
         "their strides was not found"},
        {"an operation", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.op, 4000); },
         "their operation was not found"},
        {"flags", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.flags, 1 << 20); }, "their flags was not found"},
        {"a name without an end",
         [&](MadeGraph& g) {
             ggml_tensor* t = tensor(g);
             for (size_t i = 0; i < 80; ++i) g.put(t, tensor_layout.name + i, 'x');
         },
         "their name was not found"},
        {"a source that is not there", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.src, size_t(0x10)); },
         "their sources was not found"},
        {"a source that is no tensor",
         [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.src + 32, &the_program + 1); }, "was not found"},
        {"a view of nothing", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.view_src, size_t(0x7fffffff0000)); },
         "their sources was not found"},
        {"a view elsewhere",
         [&](MadeGraph& g) {
             g.put(g.tensor("cache_k_l1"), tensor_layout.data,
                   capture::tensor_field<size_t>(g.tensor("cache_k_l0"), tensor_layout.data));
         },
         "their view was not found"},
        {"no buffer", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.buffer, size_t(0x100000)); },
         "their memory was not found"},
        {"memory that is not the buffer's", [&](MadeGraph& g) { g.put(tensor(g), tensor_layout.data, size_t(64)); },
         "their memory was not found"},
        {"other functions",
         [&](MadeGraph& g) { g.type().get_name = reinterpret_cast<const char* (*)(attach::BufferType*)>(size_t(64)); },
         "their memory was not found"},
        {"no keys",
         [&](MadeGraph& g) {
             g.name(g.tensor("cache_k_l0"), "cache_r_l0"), g.name(g.tensor("cache_k_l1"), "cache_r_l1");
         },
         "it has no keys in a cache that could be seen"},
        {"a device", [&](MadeGraph& g) { g.type().is_host = nullptr; },
         "its keys lie on a device, which is not read in this program"},
    };
    for (const Wrong& wrong : all) {
        MadeGraph made(7);
        const std::vector<ggml_tensor*> asked = made.llama(true, 3);
        ASSERT_EQ(probe(made, asked).refusal, "");
        wrong.spoil(made);
        EXPECT_NE(probe(made, asked).refusal.find(wrong.said), std::string::npos)
            << wrong.what << ": " << probe(made, asked).refusal;
    }
}

TEST(AttachGraphs, NumbersThatContradictAreRefusedInWords) {
    const auto said = [](bool flash, const std::function<void(MadeGraph&, std::vector<ggml_tensor*>&)>& spoil) {
        MadeGraph made(3);
        std::vector<ggml_tensor*> asked = made.llama(flash, 2);
        capture::foreign_ggml() = probe(made, asked).abi;
        spoil(made, asked);
        attach::PlainBytes bytes;
        return attach::find_operations(attach::walk(asked, tensor_layout, bytes), capture::foreign_ggml().ops);
    };
    const auto number_of = [](ggml_tensor* t, uint32_t n) { capture::set_tensor_field(t, tensor_layout.op, n); };
    EXPECT_EQ(said(true, [&](MadeGraph&, auto& asked) { number_of(asked[1], 200); }),
              "its number of the operation MUL_MAT was not found");
    EXPECT_EQ(said(true, [&](MadeGraph& g, auto& asked) { number_of(asked[4], g.number(Op::mul_mat)); }),
              "its number of the operation SET_ROWS was not found");
    EXPECT_EQ(said(false, [&](MadeGraph& g, auto&) { g.put(g.tensor("leaf_7"), tensor_layout.flags, 0); }),
              "its number of the operation SOFT_MAX was not found");
    EXPECT_EQ(
        said(true, [&](MadeGraph& g,
                       auto&) { g.name(g.tensor("cache_k_l0"), "other"), g.name(g.tensor("cache_k_l1"), "other"); }),
        "its number of the operation SOFT_MAX was not found");
}

// A chain as long as no graph, and a graph that bites its tail: a walk ends.
TEST(AttachGraphs, AWalkEnds) {
    MadeGraph made(1);
    attach::PlainBytes bytes;
    ggml_tensor* last = made.leaf("", GGML_TYPE_F32, {1, 1, 1, 1}, true);
    ggml_tensor* const first = last;
    for (size_t i = 0; i < 100000; ++i) last = made.node(Op::add, {1, 1, 1, 1}, {last});
    EXPECT_EQ(attach::walk({&last, 1}, tensor_layout, bytes).size(), 100001u);
    made.put(first, tensor_layout.src, last);
    EXPECT_EQ(attach::walk({&last, 1}, tensor_layout, bytes).size(), 100001u);
    for (size_t i = 0; i < attach::most_tensors; ++i) last = made.node(Op::add, {1, 1, 1, 1}, {last});
    EXPECT_TRUE(attach::walk({&last, 1}, tensor_layout, bytes).empty());
}

int64_t n_graphs() {
    const char* asked = std::getenv("ATTNSCOPE_FUZZ_GRAPHS");
    return asked ? std::atoll(asked) : 8000;
}

// Whatever operations are made of: what reads graphs comes back, within the graph's memory (sanitised builds have this
// test, too).
TEST(AttachGraphs, ThatNobodyBuildsAreReadInBounds) {
    int64_t n_attention = 0, n_refused = 0, n_text = 0;
    for (int64_t seed = 0; seed < n_graphs(); ++seed) {
        MadeGraph made(static_cast<uint64_t>(seed));
        {
            MadeGraph whole(0);
            capture::foreign_ggml() = probe(whole, whole.llama(true, 1)).abi;
        }
        const std::vector<ggml_tensor*> all = made.noise(8 + size_t(seed % 40));
        use_made_graph(made);
        attach::PlainBytes bytes;
        attach::SeenGraph graph;
        graph.nodes = attach::walk(all, tensor_layout, bytes);
        ASSERT_GE(graph.nodes.size(), all.size());
        attach::Operations numbers = capture::foreign_ggml().ops;
        (void)attach::find_operations(graph.nodes, numbers);
        for (const ggml_tensor* t : all) (void)attach::is_last_norm(t), (void)attach::stores_keys_of_layer(t);
        std::erase_if(graph.nodes, [](const ggml_tensor* t) { return capture::op(t) == Op::none; });
        const capture::GraphAttention found = capture::find_attention(graph.as_graph());
        ASSERT_LE(found.nodes.size(), graph.nodes.size());
        for (const capture::AttentionNode& n : found.nodes) n.refusal.empty() ? ++n_attention : ++n_refused;
        const attach::GraphInputs in = attach::find_inputs(graph.as_graph());
        n_text += in.complete();
        (void)attach::written_views(graph.as_graph());
        (void)probe(made, all); // of memory that is there, and may be anything
    }
    EXPECT_GT(n_refused, n_graphs() / 10);
    RecordProperty("attentions", std::to_string(n_attention));
    RecordProperty("texts", std::to_string(n_text));
}

// ... the nearer to what is built the deeper they are read: a llama with a few fields spoilt.
TEST(AttachGraphs, ThatAreSpoiltAreReadInBounds) {
    std::mt19937_64 random(5);
    for (int64_t seed = 0; seed < n_graphs() / 4; ++seed) {
        MadeGraph made(static_cast<uint64_t>(seed));
        const std::vector<ggml_tensor*> asked = made.llama(seed % 2 == 0, 1 + seed % 4);
        capture::foreign_ggml() = probe(made, asked).abi;
        attach::PlainBytes bytes;
        attach::SeenGraph graph;
        graph.nodes = attach::walk(asked, tensor_layout, bytes);
        use_made_graph(made);
        for (int i = 0; i < 3; ++i) {
            ggml_tensor* t = graph.nodes[random() % graph.nodes.size()];
            ggml_tensor* other = graph.nodes[random() % graph.nodes.size()];
            switch (random() % 6) {
            case 0: made.put(t, tensor_layout.src + random() % 5 * 8, random() % 2 == 0 ? other : nullptr); break;
            case 1: made.put(t, tensor_layout.view_src, random() % 2 == 0 ? nullptr : made.tensor("cache_k_l0")); break;
            case 2: made.put(t, tensor_layout.ne + random() % 4 * 8, int64_t(random() % 40)); break;
            case 3: made.put(t, tensor_layout.nb + random() % 4 * 8, size_t(random() % 200)); break;
            case 4: made.put(t, tensor_layout.type, int32_t(random() % 40)); break;
            default: made.put(t, tensor_layout.op, capture::tensor_field<uint32_t>(other, tensor_layout.op)); break;
            }
        }
        graph.nodes = attach::walk(asked, tensor_layout, bytes);
        attach::Operations numbers = capture::foreign_ggml().ops;
        (void)attach::find_operations(graph.nodes, numbers);
        std::erase_if(graph.nodes, [](const ggml_tensor* t) { return capture::op(t) == Op::none; });
        (void)capture::find_attention(graph.as_graph());
        (void)attach::find_inputs(graph.as_graph());
        (void)attach::written_views(graph.as_graph());
        (void)probe(made, asked);
    }
}

// The code behind the call, as compilers make it: which version what we return is held against.
TEST(AttachBackEnd, TheVersionIsReadFromTheComparison) {
    const auto version = [](std::vector<unsigned char> code) {
        code.resize(48, 0x90);
        return attach::compared_version(code.data(), code.size());
    };
    EXPECT_EQ(version({0x49, 0x89, 0xc5, 0x48, 0x85, 0xc0, 0x0f, 0x84, 0x0a, 0x01,
                       0x00, 0x00, 0x44, 0x8b, 0x38, 0x41, 0x83, 0xff, 0x02, 0x0f}),
              2);
    EXPECT_EQ(version({0x48, 0x85, 0xc0, 0x74, 0x10, 0x83, 0x38, 0x01, 0x75, 0x0b}), 1); // cmpl $1, (%rax)
    EXPECT_EQ(version({0x48, 0x85, 0xc0, 0x74, 0x10, 0x41, 0x83, 0x3e, 0x03, 0x75}), 3); // cmpl $3, (%r14)
    EXPECT_EQ(version({0x48, 0x85, 0xc0, 0x74, 0x10}), 0);
}

// Programs whose table of a back end is of each known length: they find the device where they look for it, and nothing but what they may
// call where they call.
TEST(AttachBackEnd, EachProgramFindsWhatItLooksFor) {
    static const unsigned char returns[64] = {0x83, 0x38, 0x02};
    auto* registry = static_cast<attach::Registry*>(attach::offer_back_end(holder, returns));
    ASSERT_TRUE(registry);
    EXPECT_EQ(registry->api_version, 2);
    ASSERT_EQ(registry->get_device_count(registry), 1u);
    attach::Device* shown = registry->get_device(registry, 0);
    EXPECT_TRUE(attach::back_end_is_taken());
    EXPECT_EQ(shown->get_type(shown), 3); // ACCEL
    struct Program {
        size_t n_functions, compute_at;
    };
    for (const Program& p : {Program{13, 10}, Program{14, 10}, Program{16, 12}}) {
        auto** back_end = static_cast<void**>(shown->init_backend(shown, nullptr));
        ASSERT_TRUE(back_end);
        auto* device = static_cast<attach::Device*>(back_end[1 + p.n_functions]);
        EXPECT_EQ(device->registry, registry);
        EXPECT_TRUE(device->get_buffer_type(device)->is_host(device->get_buffer_type(device)));
        for (size_t i = 2; i < p.n_functions; ++i)
            EXPECT_EQ(back_end[1 + i] != nullptr, i == p.compute_at) << p.n_functions << " " << i;
        asked_context = false;
        EXPECT_TRUE(device->supports_op(device, nullptr));
        EXPECT_TRUE(asked_context);
        const auto compute = reinterpret_cast<int (*)(void*, void*)>(back_end[1 + p.compute_at]);
        EXPECT_EQ(compute(back_end, nullptr), GGML_STATUS_SUCCESS);
        EXPECT_EQ(compute(&the_program, nullptr), GGML_STATUS_FAILED); // somebody else's
        reinterpret_cast<void (*)(void*)>(back_end[2])(back_end);
        EXPECT_EQ(shown->init_backend(shown, nullptr), static_cast<void*>(back_end)); // used again
        reinterpret_cast<void (*)(void*)>(back_end[2])(back_end);
    }
    static const unsigned char newer[64] = {0x83, 0x38, 0x03};
    EXPECT_EQ(attach::offer_back_end(holder, newer), nullptr);
}

} // namespace
