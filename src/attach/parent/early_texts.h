// The vocabulary of the model that a program is told of on its command line, read while the program loads that model itself. To read one
// takes a tenth of a second and more; done when the first token has come, it takes a core from the next ones.
#pragma once

#include "attach/parent/texts.h"

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace attnscope::attach {

// On one thread, but for what it does itself.
class EarlyTexts {
public:
    // Nothing is read yet.
    explicit EarlyTexts(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {}
    ~EarlyTexts(); // waits for what is being read
    EarlyTexts(const EarlyTexts&) = delete;
    EarlyTexts& operator=(const EarlyTexts&) = delete;
    // Begins to read the first of the arguments that is a GGUF file, on a thread of its own. Once.
    void begin();
    // Of `file`, where it is the one that was read and still is what it was; null: of another one, or of other numbers of tokens (0:
    // unknown) or layers. Waits: behind this nothing is read here any more.
    std::shared_ptr<Texts> of(const std::string& file, int32_t n_vocab, int32_t n_layer);

private:
    struct File { // which one it is, and as it was
        uint64_t device = 0, number = 0, size = 0;
        int64_t seconds = 0, nanoseconds = 0;
        bool operator==(const File&) const = default;
    };
    static File file_at(const std::string& path);
    const std::vector<std::string> arguments_;
    bool begun_ = false;
    std::thread thread_;
    File file_; // no device: none
    std::shared_ptr<Texts> texts_;
};

} // namespace attnscope::attach
