// A program whose cache changes without a graph, as servers' do: attach_states MODEL WAY [FILE]. One line of tokens a text.
//   restore [there]  a text, its state taken out; another text; the first one's state put back, and it goes on; there: the state stays in
//               the devices' memory
//   rounded     texts whose state is taken out, that are read again token by token, which rounds otherwise, and go on from that state
//   branched [TYPE]  texts that are read twice, in other batches, branch off both times with the same token, and go on from the state of
//               the first branch; TYPE: of the keys and values in the cache
//   checkpoint [CELLS [full]]  as rounded, of the layers with a window alone, as servers do; the other reading stands beside it in another
//               sequence. Of 256 cells, or with "full", the caches of both kinds of layers are equally large
//   garbled     texts whose state of the layers with a window alone is put back with another byte in it
//   save FILE   a text, its state written to a file
//   load FILE   that state read, and it goes on; then another text
//   shift       a text whose middle is taken out and the rest moved up, and it goes on; then another text
//   again       a text whose end is taken back to its prompt's last token, which is read again, as servers do; and it goes on
//   clear       a text; another one that is decoded and cleared away, nobody asks for its logits; and one more
//   otherwise   a text whose prompt is asked again with another word in its middle, and nothing behind that
//   fork        a text; a child that goes on by itself, and the program, too
//   slots [0]   three texts in the streams of a cache that has one for each, their tokens in one graph; 0: without flash attention
//   swap [apart]  two texts side by side; one makes way for another, which makes way for its state: it goes on in other cells beside the
//               second, a token of each in every graph; apart: in streams of the cache
//   copy        a text that is copied into another stream of the cache, and both go on, in one graph
// ATTACH_HOST_LOAD_ALL: has ggml load its back ends, as llama.cpp's own programs do.
// ATTACH_HOST_LAYERS: so many layers on devices. ATTACH_HOST_FLASH=0: without flash attention.
#include <ggml-backend.h>
#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

using Tokens = std::vector<llama_token>;

struct Program {
    llama_model* model;
    llama_context* context;

    llama_token decode(const Tokens& tokens) const {
        Tokens batch = tokens;
        if (llama_decode(context, llama_batch_get_one(batch.data(), static_cast<int>(batch.size()))) != 0) _exit(3);
        return best(-1);
    }
    llama_token best(int i) const {
        const float* logits = llama_get_logits_ith(context, i);
        const int n = llama_vocab_n_tokens(llama_model_get_vocab(model));
        return static_cast<llama_token>(std::max_element(logits, logits + n) - logits);
    }
    // Decodes `tokens`, then `n` of its own. Appends all to `text`; the next one.
    void say(Tokens& text, Tokens tokens, int n) const {
        for (;; --n) {
            text.insert(text.end(), tokens.begin(), tokens.end());
            const llama_token next = decode(tokens);
            if (n == 0) return;
            tokens.assign(1, next);
        }
    }
    void clear() const { llama_memory_clear(llama_get_memory(context), true); }
};

void print(const Tokens& text) {
    for (const llama_token t : text) std::printf("%d ", t);
    std::printf("\n");
    std::fflush(stdout);
}

// Texts side by side, each in a stream of the cache that is its own, as the slots of a server: the prompt of one, those of the others
// in one batch, then a token of each in every graph, the last text's until it has two fewer.
void slots(const Program& p) {
    std::vector<Tokens> texts(3);
    for (int t = 0; t < 3; ++t) {
        for (int i = 0; i < 6 + 11 * t; ++i)
            texts[static_cast<size_t>(t)].push_back(3 + (i < 3 ? i : 7 * t + 5 * i) % 250);
    }
    constexpr int n_steps = 12;
    llama_batch batch = llama_batch_init(64, 0, 1);
    const auto add = [&](llama_token token, size_t text, size_t at, bool last) {
        const int i = batch.n_tokens++;
        batch.token[i] = token, batch.pos[i] = static_cast<llama_pos>(at);
        batch.n_seq_id[i] = 1, batch.seq_id[i][0] = static_cast<llama_seq_id>(text), batch.logits[i] = last;
    };
    for (const auto& [begin, end] : {std::pair<size_t, size_t>{0, 1}, {1, 3}}) {
        batch.n_tokens = 0;
        std::vector<int> last;
        for (size_t t = begin; t < end; ++t) {
            for (size_t i = 0; i < texts[t].size(); ++i) add(texts[t][i], t, i, i + 1 == texts[t].size());
            last.push_back(batch.n_tokens - 1);
        }
        if (llama_decode(p.context, batch) != 0) _exit(3);
        for (size_t t = begin; t < end; ++t) texts[t].push_back(p.best(last[t - begin]));
    }
    for (int step = 0; step < n_steps; ++step) {
        const size_t n = step + 2 < n_steps ? texts.size() : texts.size() - 1;
        batch.n_tokens = 0;
        for (size_t t = 0; t < n; ++t) add(texts[t].back(), t, texts[t].size() - 1, true);
        if (llama_decode(p.context, batch) != 0) _exit(3);
        for (size_t t = 0; t < n; ++t) texts[t].push_back(p.best(static_cast<int>(t)));
    }
    for (Tokens& text : texts) {
        text.pop_back(); // chosen, and not decoded
        print(text);
    }
    llama_batch_free(batch);
}

// Texts side by side, one a sequence.
struct Beside {
    const Program& p;
    llama_batch batch = llama_batch_init(64, 0, 1);
    std::vector<Tokens> texts{2};

    ~Beside() { llama_batch_free(batch); }
    void add(llama_seq_id sequence, llama_token token) {
        Tokens& text = texts[static_cast<size_t>(sequence)];
        const int i = batch.n_tokens++;
        batch.token[i] = token, batch.pos[i] = static_cast<llama_pos>(text.size());
        batch.n_seq_id[i] = 1, batch.seq_id[i][0] = sequence, batch.logits[i] = 1;
        text.push_back(token);
    }
    void decode() {
        if (llama_decode(p.context, batch) != 0) _exit(3);
        batch.n_tokens = 0;
    }
    void read(llama_seq_id sequence, const Tokens& tokens) {
        for (const llama_token t : tokens) add(sequence, t);
        decode();
    }
    // A token of each in every graph.
    void go_on(llama_token token, int n) {
        for (int i = 0; i < n; ++i, token += 7) {
            add(0, token), add(1, token + 3);
            decode();
        }
    }
};

void swap(const Program& p) {
    Beside b{p};
    b.read(1, {11, 27, 3, 91, 45, 8});
    b.read(0, {70, 71, 72});
    b.go_on(20, 4); // their cells lie one between the other's
    std::vector<uint8_t> state(llama_state_seq_get_size(p.context, 1));
    llama_state_seq_get_data(p.context, state.data(), state.size(), 1);
    const Tokens first = b.texts[1];
    llama_memory_seq_rm(llama_get_memory(p.context), 1, -1, -1);
    b.texts[1].clear();
    b.read(1, {60, 61, 62, 63});
    b.go_on(30, 9);
    print(b.texts[1]);
    llama_memory_seq_rm(llama_get_memory(p.context), 1, -1, -1);
    b.read(0, {80, 81}); // in cells that were the first one's
    if (llama_state_seq_set_data(p.context, state.data(), state.size(), 1) == 0) _exit(3);
    b.texts[1] = first;
    b.go_on(40, 6);
    print(b.texts[1]), print(b.texts[0]);
}

void copy(const Program& p) {
    Beside b{p};
    b.read(0, {11, 27, 3, 91, 45, 8});
    b.read(0, {33});
    llama_memory_seq_cp(llama_get_memory(p.context), 0, 1, -1, -1);
    b.texts[1] = b.texts[0];
    b.go_on(40, 6);
    print(b.texts[0]), print(b.texts[1]);
}

void rounded(const Program& p) {
    for (int n = 1; n <= 8; ++n) {
        Tokens prompt, again, text;
        for (int i = 0; i < 3 + n % 7; ++i) prompt.push_back(3 + (5 * i * i + 31 * n) % 250);
        p.clear();
        p.say(text, prompt, 0);
        std::vector<uint8_t> state(llama_state_seq_get_size(p.context, 0));
        llama_state_seq_get_data(p.context, state.data(), state.size(), 0);
        p.clear();
        for (const llama_token t : prompt) p.say(again, {t}, 0);
        p.clear();
        if (llama_state_seq_set_data(p.context, state.data(), state.size(), 0) == 0) _exit(3);
        p.say(text, {5}, 4);
        print(text), print(again);
    }
}

void branched(const Program& p) {
    for (int n = 1; n <= 12; ++n) {
        Tokens prompt, text, again;
        for (int i = 0; i < 6 + n; ++i) prompt.push_back(3 + (5 * i * i + 31 * n) % 250);
        const auto branch = [&](Tokens& whole) { // off a text that has gone on from here
            p.say(whole, {9}, 0);
            print(whole);
            llama_memory_seq_rm(llama_get_memory(p.context), 0, static_cast<llama_pos>(prompt.size()), -1);
            whole = prompt;
            p.say(whole, {5}, 0);
        };
        p.clear();
        p.say(text, prompt, 0);
        branch(text);
        std::vector<uint8_t> state(llama_state_seq_get_size(p.context, 0));
        llama_state_seq_get_data(p.context, state.data(), state.size(), 0);
        p.clear();
        for (const llama_token t : prompt) p.say(again, {t}, 0);
        branch(again);
        print(again);
        p.clear();
        if (llama_state_seq_set_data(p.context, state.data(), state.size(), 0) == 0) _exit(3);
        p.say(text, {6}, 4);
        print(text);
    }
}

void checkpoint(const Program& p, int n_texts, uint8_t garbled) {
    llama_batch batch = llama_batch_init(64, 0, 1);
    const auto read = [&](llama_seq_id sequence, Tokens& text, const Tokens& tokens) {
        batch.n_tokens = 0;
        for (const llama_token t : tokens) {
            const int i = batch.n_tokens++;
            batch.token[i] = t, batch.pos[i] = static_cast<llama_pos>(text.size());
            batch.n_seq_id[i] = 1, batch.seq_id[i][0] = sequence, batch.logits[i] = 0;
            text.push_back(t);
        }
        if (llama_decode(p.context, batch) != 0) _exit(3);
    };
    constexpr llama_state_seq_flags windows = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    for (int n = 1; n <= n_texts; ++n) {
        Tokens prompt, again, text;
        for (int i = 0; i < 1 + n % 7; ++i) prompt.push_back(3 + (5 * i * i + 31 * n) % 250);
        p.clear();
        read(0, text, prompt);
        std::vector<uint8_t> state(llama_state_seq_get_size_ext(p.context, 0, windows));
        llama_state_seq_get_data_ext(p.context, state.data(), state.size(), 0, windows);
        state[state.size() / 4] ^= garbled; // of the keys
        read(0, text, {7});
        print(text);
        for (const llama_token t : prompt) read(1, again, {t});
        print(again);
        text = prompt;
        llama_memory_seq_rm(llama_get_memory(p.context), 0, static_cast<llama_pos>(prompt.size()), -1);
        if (llama_state_seq_set_data_ext(p.context, state.data(), state.size(), 0, windows) == 0) _exit(3);
        for (const llama_token t : {5, 6, 8}) read(0, text, {t});
        print(text);
    }
    llama_batch_free(batch);
}

void checkpoints(const Program& p) {
    checkpoint(p, 24, 0);
}
void garbled(const Program& p) {
    checkpoint(p, 3, 1);
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const std::string way = argv[2], file = argc > 3 ? argv[3] : "";
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    if (std::getenv("ATTACH_HOST_LOAD_ALL")) ggml_backend_load_all();
    llama_model_params on = llama_model_default_params();
    if (const char* layers = std::getenv("ATTACH_HOST_LAYERS")) on.n_gpu_layers = std::atoi(layers);
    Program p{llama_model_load_from_file(argv[1], on), nullptr};
    if (!p.model) return 2;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    const char* flash = std::getenv("ATTACH_HOST_FLASH");
    if (flash && flash == std::string("0")) params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.n_threads = params.n_threads_batch = 1;
    if (way == "slots") {
        params.n_ctx = 3 * 64, params.n_seq_max = 3, params.kv_unified = false;
        params.flash_attn_type = file == "0" ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    if (way == "swap" || way == "copy") params.n_seq_max = 2, params.kv_unified = way == "swap" && file != "apart";
    if (way == "checkpoint" || way == "garbled") { // the cache of layers with a window is the smaller one
        params.n_ctx = file.empty() ? 4096 : static_cast<uint32_t>(std::atoi(file.c_str())), params.n_ubatch = 64;
        params.n_seq_max = 2, params.kv_unified = true, params.swa_full = argc > 4;
    }
    if (way == "branched" && file == "q8_0") params.type_k = params.type_v = GGML_TYPE_Q8_0;
    p.context = llama_init_from_model(p.model, params);
    if (!p.context) return 2;
    Tokens a, b;
    const std::pair<const char*, void (*)(const Program&)> ways[] = {
        {"slots", slots},     {"rounded", rounded}, {"branched", branched}, {"checkpoint", checkpoints},
        {"garbled", garbled}, {"swap", swap},       {"copy", copy}};
    for (const auto& [name, go] : ways) {
        if (way != name) continue;
        go(p);
        llama_free(p.context);
        llama_model_free(p.model);
        return 0;
    }
    if (way == "load") {
        std::vector<llama_token> known(256);
        size_t n = 0;
        if (llama_state_seq_load_file(p.context, file.c_str(), 0, known.data(), known.size(), &n) == 0) return 3;
    } else {
        p.say(a, {11, 27, 3, 91, 45, 8}, 10);
    }
    if (way == "clear") {
        print(a);
        Tokens unread{60, 61, 62, 63};
        p.clear();
        if (llama_decode(p.context, llama_batch_get_one(unread.data(), static_cast<int>(unread.size()))) != 0) return 3;
        p.clear();
        a = unread;
        p.say(b, {70, 71}, 5);
    } else if (way == "restore") {
        const llama_state_seq_flags where =
            file == "there" ? LLAMA_STATE_SEQ_FLAGS_ON_DEVICE : LLAMA_STATE_SEQ_FLAGS_NONE;
        std::vector<uint8_t> state(llama_state_seq_get_size_ext(p.context, 0, where));
        llama_state_seq_get_data_ext(p.context, state.data(), state.size(), 0, where);
        p.clear();
        p.say(b, {60, 61, 62, 63}, 20);
        p.clear();
        if (llama_state_seq_set_data_ext(p.context, state.data(), state.size(), 0, where) == 0) return 3;
    } else if (way == "save") {
        if (llama_state_seq_save_file(p.context, file.c_str(), 0, a.data(), a.size()) == 0) return 3;
    } else if (way == "shift") {
        llama_memory_t memory = llama_get_memory(p.context);
        llama_memory_seq_rm(memory, 0, 4, 8);
        llama_memory_seq_add(memory, 0, 8, -1, -4);
    } else if (way == "again") {
        llama_memory_seq_rm(llama_get_memory(p.context), 0, 5, -1);
        b.assign(a.begin(), a.begin() + 5);
        p.say(b, {a[5]}, 4);
    } else if (way == "otherwise") {
        llama_memory_seq_rm(llama_get_memory(p.context), 0, 3, -1);
        b.assign(a.begin(), a.begin() + 3);
        p.say(b, {70}, 4);
    } else if (way == "fork") {
        if (const pid_t child = fork()) {
            int status = 0;
            if (waitpid(child, &status, 0) != child || status != 0) return 3;
        } else {
            p.say(a, {77}, 5);
            _exit(0);
        }
    }
    if (way != "save" && way != "again" && way != "otherwise" && way != "clear") p.say(a, {5}, 10);
    print(a);
    if (way == "load" || way == "shift") {
        p.clear();
        p.say(b, {60, 61, 62, 63}, 20);
    }
    if (!b.empty()) print(b);
    llama_free(p.context);
    llama_model_free(p.model);
    return 0;
}
