// Gives the tensors that we read after a graph has run memory of their own, one block a device.
//
// The engine then computes straight into it: nothing is added to its graph, nothing is copied inside it, and one
// transfer a device takes everything out. It works because ggml's allocator and scheduler leave a tensor alone that has
// memory already.
#pragma once

#include "capture/graph/attention_graph.h"

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

namespace attnscope::capture {

class Placement {
public:
    struct Block {
        ggml_backend_dev_t device = nullptr;
        BufferPtr memory; // grows to the largest batch
        ContextPtr ctx;
        ggml_tensor* whole = nullptr; // i8 (used): the block as one tensor, to transfer it; null in host memory
        size_t used = 0;

        bool on_host() const { return memory && ggml().backend_buffer_is_host(memory.get()); }
    };
    struct Place {
        size_t block = 0;
        size_t offset = 0; // of the tensor's first byte
    };

    // Places Q and the attention output of every attention that is not refused; for caches on a device also the new
    // values, and for a remote device the new keys; without a cache all of K and V. What cannot be placed is refused in
    // words. `release` is called before memory is given back that a device may still be using.
    template <typename Release> void place(GraphAttention& found, const Release& release) {
        choose(found);
        for (Block& b : blocks_) {
            if (b.used == 0 || (b.memory && ggml().backend_buffer_get_size(b.memory.get()) >= b.used)) continue;
            release();
            break;
        }
        assign(found);
    }

    std::vector<Block>& blocks() { return blocks_; }
    // Where the owner of a tensor's data lies; the tensor must have been placed.
    const Place& place_of(ggml_tensor* tensor) const { return places_.at(owner(tensor)); }
    bool placed(ggml_tensor* tensor) const { return places_.count(owner(tensor)) != 0; }

private:
    void choose(GraphAttention& found);
    void assign(GraphAttention& found);
    void choose_without_cache(AttentionNode& n);
    void want(ggml_tensor* tensor, ggml_backend_dev_t device);

    std::vector<Block> blocks_;
    std::unordered_map<const ggml_tensor*, Place> places_;
    std::vector<ggml_tensor*> owners_; // of this graph, in order
};

// The device whose memory holds the weights that a tensor is computed with; null when none is found close by.
ggml_backend_dev_t device_of_weights(const ggml_tensor* tensor);
// Is the device another machine, reached through llama.cpp's RPC back end?
bool is_remote(ggml_backend_dev_t device);

} // namespace attnscope::capture
