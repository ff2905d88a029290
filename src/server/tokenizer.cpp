#include "server/tokenizer.h"

#include <fmt/format.h>

#include <pthread.h>

#include <exception>
#include <optional>

namespace attnscope::server {

namespace {

// Up to here an ordinary stack of 8 MiB is enough, ten times over.
constexpr size_t short_text = 2048;
// libstdc++ needs about 0.4 KiB a character. Address space, not memory: pages are taken as they are touched.
constexpr size_t deep_stack = size_t(1) << 30;

struct Task {
    const Service& service;
    const std::string& text;
    bool add_special, parse_special;
    std::optional<Result<std::vector<int32_t>>> tokens = std::nullopt;

    void run() {
        try {
            tokens = service.session.tokenize(text, add_special, parse_special);
        } catch (const std::exception& e) { // std::bad_alloc: nothing may leave a thread of ours
            tokens = Error{ErrorKind::engine, fmt::format("the text could not be tokenised: {}", e.what())};
        }
    }
};

} // namespace

Result<std::vector<int32_t>> tokenize_text(const Service& service, const std::string& text, bool add_special, bool parse_special) {
    if (text.size() > max_text) {
        return Error{ErrorKind::invalid_argument, fmt::format("the text has {} bytes; at most {} are tokenised", text.size(), max_text)};
    }
    Task task{service, text, add_special, parse_special};
    if (text.size() <= short_text) {
        task.run();
        return std::move(*task.tokens);
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_t thread{};
    int status = pthread_attr_setstacksize(&attributes, deep_stack);
    if (status == 0) {
        status = pthread_create(&thread, &attributes, [](void* t) -> void* {
            static_cast<Task*>(t)->run();
            return nullptr;
        }, &task);
    }
    pthread_attr_destroy(&attributes);
    if (status != 0) return Error{ErrorKind::io, "there is no address space for a thread that tokenises long texts"};
    pthread_join(thread, nullptr);
    return std::move(*task.tokens);
}

} // namespace attnscope::server
