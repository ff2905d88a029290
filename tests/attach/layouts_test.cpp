// The probe on ggmls of random layouts, some of which answer wrongly: it says that it does not know, or what it says is true.
#include "attach/inside/call_sites.h"
#include "attach/inside/loaded.h"
#include "attach/inside/probe.h"
#include "attach/made_ggml.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <tuple>
#include <utility>

using namespace attnscope;
using namespace attnscope::test;

static bool calls_are_redirected = false;

// What the probe asks of the process that it is in: here there is one ggml.
namespace attnscope::attach {

void* find_function(link_map*, const char* name) {
    return made_ggml->function(name);
}
bool is_redirected(const link_map*) {
    return calls_are_redirected;
}

} // namespace attnscope::attach

namespace {

std::string difference(const capture::GgmlAbi& found, const capture::GgmlAbi& truth) {
    const capture::GgmlTensorLayout &f = found.tensor, &t = truth.tensor;
    const std::tuple<const char*, size_t, size_t> fields[] = {{"type", f.type, t.type},
                                                              {"buffer", f.buffer, t.buffer},
                                                              {"ne", f.ne, t.ne},
                                                              {"nb", f.nb, t.nb},
                                                              {"op", f.op, t.op},
                                                              {"op_params", f.op_params, t.op_params},
                                                              {"flags", f.flags, t.flags},
                                                              {"src", f.src, t.src},
                                                              {"view_src", f.view_src, t.view_src},
                                                              {"view_offs", f.view_offs, t.view_offs},
                                                              {"data", f.data, t.data},
                                                              {"name", f.name, t.name},
                                                              {"size", f.size, t.size}};
    for (const auto& [name, a, b] : fields) {
        if (a != b) return std::string(name) + " at " + std::to_string(a) + ", is at " + std::to_string(b);
    }
    if (f.n_src > t.n_src) return std::to_string(f.n_src) + " sources, has " + std::to_string(t.n_src);
    for (size_t i = 0; i < found.ops.size(); ++i) {
        if (found.ops[i] != truth.ops[i]) return "operation " + std::to_string(i);
    }
    if (found.unary_tanh != truth.unary_tanh) return "tanh";
    if (found.flag_compute != truth.flag_compute) return "the flag of what runs";
    return {};
}

int64_t n_layouts() {
    const char* asked = std::getenv("ATTNSCOPE_FUZZ_LAYOUTS");
    return asked ? std::atoll(asked) : 4000;
}

TEST(AttachLayouts, AreFoundOrRefused) {
    int64_t n_sound = 0, n_found = 0;
    for (int64_t seed = 0; seed < n_layouts(); ++seed) {
        const auto fault = seed % 2 == 0 ? Fault::none : static_cast<Fault>(seed / 2 % int64_t(Fault::count));
        MadeGgml ggml(static_cast<uint64_t>(seed), fault);
        const attach::Probed probed = attach::probe_ggml(nullptr);
        EXPECT_FALSE(ggml.asked_beyond()) << seed;
        n_sound += fault == Fault::none;
        if (!probed.refusal.empty()) continue;
        n_found += fault == Fault::none;
        ASSERT_EQ(difference(probed.abi, ggml.truth()), "") << "seed " << seed << ", fault " << int(fault);
        if (ggml.sources_end_at_view()) {
            ASSERT_EQ(probed.abi.tensor.n_src, ggml.truth().tensor.n_src) << seed;
        }
    }
    // Those whose MUL_MAT, VIEW or NONE has a number that no version gives it are refused.
    EXPECT_GT(n_found, n_sound / 4);
}

constexpr std::pair<Fault, const char*> reasons[] = {
    {Fault::missing, "its ggml has no function ggml_"},
    {Fault::other_operator, "was not found"},
    {Fault::aborts, "its ggml refused the probe's tensors: a fault"},
    {Fault::null_context, "its ggml had no memory for the probe"},
    {Fault::null_buffer, "where its tensors have their buffer was not found"},
    {Fault::no_name, "where its tensors have their name was not found"},
    {Fault::no_output, "where its tensors have their flags was not found"},
    {Fault::no_place, "where its tensors have their buffer was not found"},
    {Fault::other_shape, "where its tensors have their shape was not found"},
    {Fault::other_offset, "where its tensors have their view's offset was not found"},
    {Fault::other_scale, "where its tensors have their parameters was not found"},
    {Fault::twice, "was not found"},
    {Fault::type_names, "its element types have other numbers"},
    {Fault::overhead, "its tensors have an unexpected size"},
};

// Calls that were redirected do not come back from a ggml_abort but through ggml's own callback.
TEST(AttachLayouts, WithoutAWayBackFromAnAbortNothingIsAsked) {
    calls_are_redirected = true;
    MadeGgml ggml(1, Fault::none);
    EXPECT_NE(attach::probe_ggml(nullptr).refusal.find("ggml_set_abort_callback, without which it is not safe to ask"),
              std::string::npos);
    calls_are_redirected = false;
}

// Each fault that must not be overlooked, in a layout that is found without it.
TEST(AttachLayouts, FaultsAreRefusedInWords) {
    ASSERT_EQ(std::size(reasons), size_t(Fault::count) - 1);
    for (const auto& [kind, reason] : reasons) {
        const int fault = int(kind);
        int n = 0;
        for (uint64_t seed = 0; seed < 2000 && n < 20; ++seed) {
            std::string without;
            {
                MadeGgml sound(seed, Fault::none);
                without = attach::probe_ggml(nullptr).refusal;
            }
            if (!without.empty()) continue;
            MadeGgml ggml(seed, static_cast<Fault>(fault));
            const attach::Probed probed = attach::probe_ggml(nullptr);
            if (probed.refusal.empty()) {
                // the fault is in a function that makes no difference
                EXPECT_EQ(difference(probed.abi, ggml.truth()), "") << "seed " << seed << ", fault " << fault;
            } else {
                EXPECT_NE(probed.refusal.find(reason), std::string::npos) << fault << ": " << probed.refusal;
                ++n;
            }
        }
        EXPECT_GT(n, 0) << "fault " << fault << " is never noticed";
    }
}

} // namespace
