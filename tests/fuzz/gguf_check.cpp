// Any bytes at all must give a summary or a sentence: no crash, no hang, no allocation beyond the input's
// size.
#include "gguf/gguf_check.h"
#include "gguf/gguf_file.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto summary = attnscope::gguf::check_gguf_bytes({data, size}, "fuzz.gguf");
    if (!summary) {
        if (summary.error().message.empty()) std::abort();
        return 0;
    }
    // What passes must be what llama.cpp and the tap may rely on.
    if (summary->n_tensors < 1 || summary->file_bytes != size || summary->n_layer < 0 || summary->n_layer > 512)
        std::abort();
    const auto source = attnscope::gguf::memory_gguf_source({data, size});
    const auto file = attnscope::gguf::read_gguf(*source, "fuzz.gguf");
    if (!file) std::abort();
    for (const attnscope::gguf::GgufTensor& t : file->tensors) {
        if (t.offset > size || t.bytes > size - t.offset) std::abort();
    }
    return 0;
}
