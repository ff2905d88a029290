// The same of its log: what is said goes to stdout, what went wrong to stderr.
#pragma once

#include <ggml.h>

#include <cstdio>

enum { LOG_LEVEL_OUTPUT, LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_TRACE, LOG_LEVEL_DEBUG };

inline void common_log_set_verbosity_thold(int) {}
inline int common_log_get_verbosity(ggml_log_level level) {
    return level == GGML_LOG_LEVEL_ERROR ? LOG_LEVEL_ERROR : LOG_LEVEL_DEBUG;
}
inline void* common_log_main() {
    return nullptr;
}
inline void common_log_flush(void*) {}

#define LOG(...) std::printf(__VA_ARGS__)
#define LOG_INF(...) std::printf(__VA_ARGS__)
#define LOG_ERR(...) std::fprintf(stderr, __VA_ARGS__)
