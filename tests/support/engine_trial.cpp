#include "support/engine_trial.h"

#include "support/engine_model.h"

#include <cstdio>
#include <cstdlib>
#include <exception>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace attnscope::test {
namespace {

// llama.cpp throws through its C interface where a text cannot be tokenised; that is no crash for a caller in
// C++.
bool works(const std::string& file) {
    const auto model = load_engine_model(file);
    if (!model) return false;
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    try {
        std::vector<llama_token> tokens(64);
        const std::string text = "Hello, \xC3\xA4 world\n";
        const int32_t n = llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), 64, true, true);
        char piece[64];
        for (int32_t i = 0; i < n; ++i) llama_token_to_piece(vocab, tokens[size_t(i)], piece, sizeof piece, 0, true);
    } catch (const std::exception&) {}
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    std::vector<int32_t> some;
    for (int32_t i = 0; i < 20; ++i) some.push_back(i * 7 % n_vocab);
    decode_logits(model.get(), some, false);
    decode_logits(model.get(), some, true);
    return true;
}

// Runs in the child: one byte a file.
void child(const std::vector<std::string>& files, size_t begin, int results, int words) {
    dup2(words, STDERR_FILENO);
    setenv("GGML_NO_BACKTRACE", "1", 1);
    quiet_engine();
    for (size_t i = begin; i < files.size(); ++i) {
        alarm(30);
        const char byte = works(files[i]) ? 'l' : 'r';
        if (write(results, &byte, 1) != 1) break;
    }
    _exit(0);
}

std::string drained(int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t n = 0; (n = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
    return text;
}

} // namespace

std::vector<Trial> try_in_engine(const std::vector<std::string>& files) {
    std::vector<Trial> trials;
    while (trials.size() < files.size()) {
        int results[2], words[2];
        if (pipe2(results, O_CLOEXEC) != 0 || pipe2(words, O_CLOEXEC) != 0) return trials;
        const pid_t pid = fork();
        if (pid == 0) child(files, trials.size(), results[1], words[1]);
        close(results[1]);
        close(words[1]);
        char byte = 0;
        while (read(results[0], &byte, 1) == 1) {
            trials.push_back({byte == 'l' ? Trial::End::loaded : Trial::End::refused, 0, ""});
        }
        const std::string said = drained(words[0]);
        close(results[0]);
        close(words[0]);
        int status = 0;
        waitpid(pid, &status, 0);
        if (trials.size() < files.size()) {
            trials.push_back({Trial::End::crashed, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), said});
        }
    }
    return trials;
}

} // namespace attnscope::test
