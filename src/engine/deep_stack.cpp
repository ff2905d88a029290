#include "engine/deep_stack.h"

#include <pthread.h>

namespace attnscope::engine {

namespace {
constexpr size_t few_levels = 2048; // fit an ordinary stack of 8 MiB four times over
constexpr size_t level_bytes = 1024;
constexpr size_t base_bytes = size_t(8) << 20;
} // namespace

Result<void> run_on_deep_stack(size_t levels, const std::function<void()>& work) {
    if (levels <= few_levels) {
        work();
        return {};
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_t thread{};
    int status = pthread_attr_setstacksize(&attributes, base_bytes + levels * level_bytes);
    if (status == 0) {
        const auto start = [](void* w) -> void* {
            (*static_cast<const std::function<void()>*>(w))();
            return nullptr;
        };
        status = pthread_create(&thread, &attributes, start, const_cast<std::function<void()>*>(&work));
    }
    pthread_attr_destroy(&attributes);
    if (status != 0) return Error{ErrorKind::io, "there is no address space for the stack that this needs"};
    pthread_join(thread, nullptr);
    return {};
}

} // namespace attnscope::engine
