#include "made_device/proofs_held.h"

#include "support/made_streams.h"

#include <ggml-cpu.h>

#include <chrono>
#include <condition_variable>
#include <mutex>

#include <dlfcn.h>

namespace {

struct Gate {
    std::mutex mutex;
    std::condition_variable opened;
    bool closed = false;
    int64_t n_waited = 0;
    std::thread::id decodes;
};
Gate& gate() {
    static Gate g;
    return g;
}

} // namespace

extern "C" __attribute__((visibility("default"))) const ggml_type_traits_cpu* ggml_get_type_traits_cpu(ggml_type type) {
    using Function = const ggml_type_traits_cpu* (*)(ggml_type);
    static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "ggml_get_type_traits_cpu"));
    Gate& g = gate();
    if (type == GGML_TYPE_Q4_0) {
        std::unique_lock lock(g.mutex);
        if (g.closed && std::this_thread::get_id() != g.decodes && !attnscope::test::MadeStream::here()) {
            ++g.n_waited;
            g.opened.wait(lock, [&] { return !g.closed; });
        }
    }
    return real(type);
}

namespace attnscope::test {

void ProofsHeld::prepare(SessionOptions& options) {
    options.cache_type_k = "q4_0";
    options.cache_type_v = "q8_0";
    options.flash_attention = FlashAttention::on;
}

ProofsHeld::ProofsHeld() {
    const std::lock_guard lock(gate().mutex);
    gate().decodes = std::this_thread::get_id();
    gate().n_waited = 0;
}

ProofsHeld::~ProofsHeld() {
    release();
}

void ProofsHeld::until_nothing_moves() {
    {
        const std::lock_guard lock(gate().mutex);
        gate().closed = true;
    }
    watch_ = std::thread([this] {
        using namespace std::chrono_literals;
        std::unique_lock lock(gate().mutex);
        for (int64_t seen = -1; gate().closed && seen != moves_;) {
            seen = moves_;
            gate().opened.wait_for(lock, 200ms, [] { return !gate().closed; });
        }
        gate().closed = false;
        lock.unlock();
        gate().opened.notify_all();
    });
}

void ProofsHeld::release() {
    {
        const std::lock_guard lock(gate().mutex);
        gate().closed = false;
    }
    gate().opened.notify_all();
    if (watch_.joinable()) watch_.join();
}

int64_t ProofsHeld::n_waited() const {
    const std::lock_guard lock(gate().mutex);
    return gate().n_waited;
}

} // namespace attnscope::test
