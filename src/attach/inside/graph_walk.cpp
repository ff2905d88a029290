#include "attach/inside/graph_walk.h"

#include <cstring>
#include <unordered_set>

namespace attnscope::attach {

namespace {

struct Step {
    ggml_tensor* tensor = nullptr;
    size_t next = 0; // of its sources, and what it is a view of
};

} // namespace

std::vector<ggml_tensor*> walk(std::span<ggml_tensor* const> roots, const capture::GgmlTensorLayout& layout,
                               TensorBytes& bytes) {
    std::vector<ggml_tensor*> found;
    std::unordered_set<const ggml_tensor*> met;
    std::vector<Step> path; // no recursion: a graph may be deep, and the stack is the program's
    const auto pointer = [](const uint8_t* tensor, size_t at) {
        ggml_tensor* value = nullptr;
        std::memcpy(&value, tensor + at, sizeof value);
        return value;
    };
    for (ggml_tensor* root : roots) {
        if (met.insert(root).second) path.push_back({root});
        while (!path.empty()) {
            Step& step = path.back();
            const uint8_t* tensor = bytes.of(step.tensor);
            if (!tensor || met.size() > most_tensors) return {};
            ggml_tensor* source = nullptr;
            while (!source && step.next <= layout.n_src) {
                const size_t i = step.next++;
                source = pointer(tensor, i < layout.n_src ? layout.src + i * sizeof(void*) : layout.view_src);
                if (source && !met.insert(source).second) source = nullptr;
            }
            if (source) {
                path.push_back({source});
                continue;
            }
            found.push_back(step.tensor);
            path.pop_back();
        }
    }
    return found;
}

} // namespace attnscope::attach
