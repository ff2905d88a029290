// What GraphTap knows between two calls.
#pragma once

#include "base/cores.h"
#include "base/thread_pool.h"
#include "capture/device/device_layers.h"
#include "capture/mean/host_mean.h"
#include "capture/mean/token_mean.h"
#include "capture/tap.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <future>
#include <memory>
#include <optional>
#include <vector>

namespace attnscope::capture {

// The scheduler's back end for that device; null: it has none.
ggml_backend_t backend_of(ggml_backend_sched_t sched, ggml_backend_dev_t device);

struct GraphTap::Arriving {
    std::unique_ptr<Batch> batch;
    LayerSources sources;
    struct From {               // one block
        Fetch* fetch = nullptr; // null: it lies in host memory
        const uint8_t* host = nullptr;
        std::unique_ptr<BlockGather> gather; // null: the whole block arrives
    };
    std::vector<From> blocks;
    int64_t first_kept = 0; // the first of its tokens whose queries are kept
    int slot = 0;
    bool with_mean = false;       // a device began to compute its mean
    std::vector<int64_t> written; // cells of new keys, sorted
    bool waits = false;           // all of it stays where it is while the next graph runs
};

// State of the graph in use (still valid when the engine uses it again for the next token), and the batch whose data is
// on its way from a device.
struct GraphTap::State {
    GraphAttention found;
    // What was found out about it when it ran first, for the tokens that follow: to walk through tensors that lie all over the memory
    // takes longer than all that is done with their data.
    struct Described {
        Collector::Seen seen;
        LayerSources sources; // in host memory, all of them; empty: to be found each time
        int64_t n_cells = 0;  // that its first attention looks at, and where
        const void* keys = nullptr;
    };
    std::optional<Described> described;
    // A program that moves the views of a graph between two runs moves the first attention's, too.
    bool is_described() const {
        const AttentionNode& first = found.nodes.front();
        return described && first.k && described->n_cells == ne(first.k, 1) && described->keys == data(first.k);
    }
    ggml_cgraph* graph = nullptr;
    Placement placement;
    std::vector<std::unique_ptr<Fetch>> fetches; // one a device
    Mirrors mirrors;

    // of `found`, each once: who sees whom, and the cells of the new keys
    std::vector<const ggml_tensor*> masks, written;
    std::vector<const ggml_tensor*> buckets;        // of an added bias
    std::vector<const ggml_tensor*> computed_masks; // those that the graph itself computes: known when it has run
    Inputs inputs;
    std::optional<bool> inputs_keep; // what they hold, while the graph runs; unknown until it has its memory
    bool submitted = false;          // the graph was given to the devices

    // A batch goes from one to the next: its graph runs, then it is taken beside the one that decodes, then it is proven.
    std::unique_ptr<Arriving> arriving;
    std::unique_ptr<Arriving> taking;
    std::future<void> taking_done;
    std::deque<std::unique_ptr<Batch>> proving; // frames as soon as they are proven
    int next_slot = 0;
    TokenMean mean;                      // on devices
    std::unique_ptr<HostMean> host_mean; // on a CPU; null: not wanted

    void list_inputs() {
        const auto once = [](std::vector<const ggml_tensor*>& list, const ggml_tensor* t) {
            if (t && std::find(list.begin(), list.end(), t) == list.end()) list.push_back(t);
        };
        masks.clear();
        computed_masks.clear();
        written.clear();
        buckets.clear();
        inputs_keep.reset();
        for (const AttentionNode& n : found.nodes) {
            if (!n.refusal.empty()) continue;
            once(mask_is_computed(n) ? computed_masks : masks, n.mask);
            once(written, n.k_cells);
            once(buckets, n.buckets);
        }
    }
    Fetch* fetch_of(ggml_backend_dev_t device) {
        for (auto& f : fetches) {
            if (f->device() == device) return f.get();
        }
        return nullptr;
    }
    void drain() {
        for (auto& f : fetches) f->drain();
    }
    // Will the graph whose inputs are kept write to a cell for which `taken(cell)` holds?
    template <typename Taken> bool writes_to(const Taken& taken) const {
        for (const ggml_tensor* tensor : written) {
            const uint8_t* cells = inputs.data(tensor);
            for (int64_t i = 0; i < found.n_query; ++i) {
                int64_t cell = 0;
                std::memcpy(&cell, cells + size_t(i) * sizeof cell, sizeof cell);
                if (taken(cell)) return true;
            }
        }
        return false;
    }
    // ... to cells that are still on their way to the host?
    bool overwrites_arriving() const {
        if (!arriving) return false;
        const std::vector<int64_t>& on_their_way = arriving->written;
        return writes_to(
            [&](int64_t cell) { return std::binary_search(on_their_way.begin(), on_their_way.end(), cell); });
    }
    // ... to cells that a mean in the making reads? A ring's are taken again before long, and those of a token that was taken back
    // at once.
    bool overwrites_mean_cells() const {
        const auto overwrites = [&](const Arriving* a) {
            if (!a || !a->with_mean) return false;
            return writes_to([&](int64_t cell) {
                const auto sees = [&](const Range& r) { return cell >= r.begin && cell < r.end; };
                return std::any_of(a->batch->groups.begin(), a->batch->groups.end(), [&](const Batch::Group& g) {
                    return std::any_of(g.cells[0].begin(), g.cells[0].end(), sees);
                });
            });
        };
        return overwrites(arriving.get()) || overwrites(taking.get());
    }
    void keep_computed() {
        for (const ggml_tensor* mask : computed_masks) inputs.keep_mask(mask, found.n_query);
    }
    // Positions, and who sees whom.
    void keep_visibility() {
        if (found.positions) inputs.keep(found.positions);
        for (const ggml_tensor* mask : masks) inputs.keep_mask(mask, found.n_query);
    }

    // Behind everything that they work with: they end first.
    base::ThreadPool provers{std::max<size_t>(2, base::n_cores())};
    base::ThreadPool taker{1};
};

} // namespace attnscope::capture
