#include "view/crew.h"

#include <ggml-cpp.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace attnscope::view {

namespace {

// ggml's threads wait for one another in ways that thread sanitizers do not see. Both sides pass here, which they do.
std::atomic<uint32_t> fence{0};

// A graph of one operation of our own, computed as any other.
class EngineCrew final : public Crew {
public:
    explicit EngineCrew(int32_t n_threads)
        : size_(std::max(n_threads, 1)), ctx_(ggml_init({size_t(64) << 10, nullptr, false})) {
        if (!ctx_) return;
        ggml_tensor* node =
            ggml_custom_4d(ctx_.get(), GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0, work_off, GGML_N_TASKS_MAX, this);
        graph_ = ggml_new_graph_custom(ctx_.get(), 8, false);
        ggml_build_forward_expand(graph_, node);
        plan_ = ggml_graph_plan(graph_, size_, nullptr);
        memory_.resize(plan_.work_size);
        plan_.work_data = memory_.data();
    }

    int32_t size() const override { return size_; }

    void run(size_t n_items, const std::function<void(size_t, int32_t)>& work) override {
        work_ = &work;
        n_items_ = n_items;
        n_done_ = 0;
        next_ = 0;
        ++fence;
        if (graph_) ggml_graph_compute(graph_, &plan_);
        work_off(nullptr, 0, 1, this); // what is left where ggml could not
        while (n_done_ != n_items) {}
        ++fence;
    }

private:
    static void work_off(ggml_tensor*, int member, int, void* self) {
        ++fence;
        EngineCrew& crew = *static_cast<EngineCrew*>(self);
        for (size_t item = crew.next_++; item < crew.n_items_; item = crew.next_++) {
            (*crew.work_)(item, member);
            ++crew.n_done_;
        }
        ++fence;
    }

    int32_t size_;
    ggml_context_ptr ctx_;
    ggml_cgraph* graph_ = nullptr;
    ggml_cplan plan_{};
    std::vector<uint8_t> memory_;
    const std::function<void(size_t, int32_t)>* work_ = nullptr;
    size_t n_items_ = 0;
    std::atomic<size_t> next_{0}, n_done_{0};
};

} // namespace

std::unique_ptr<Crew> engine_crew(int32_t n_threads) {
    return std::make_unique<EngineCrew>(n_threads);
}

} // namespace attnscope::view
