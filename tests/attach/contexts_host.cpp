// Programs with more than one context: attach_contexts_host WAY MODEL [OTHER]. One line of tokens a text, as far as it was decoded.
//   drafts   a small model (OTHER) guesses tokens, the large one takes what it would have said itself and forgets the rest
//   two      two models that read and write in turns
//   again    contexts that are freed and made again, also of another size, six times
//   threads  four contexts of two models, each on a thread of its own
//   embed    embeddings between the tokens of a text: of an encoder (OTHER), and of the same model (their texts are printed, too)
//   forks    two texts that share their beginning, all of it in one batch; then another text
//   f32keys  a cache of f32 with flash attention
//   eyes     before a text a graph of the program's own, which reads no text, as those for pictures do
//   looks    a text, behind it a picture that is seen both ways and forgotten again, and the text goes on; the same once more
//   stays    the same with a picture that stays, and words behind it, which are not printed; then another text
//   moves    a text whose middle is taken out and the rest moved up while its scheduler is made anew; goes on as in stays
//   apart    a text whose scheduler is made anew for a decode that fails; another context's text; the first one goes on
//   twice    a text in two sequences, read alike; the scheduler is made anew, and each goes on in its own way
//   swaps    a text; its context and model go, OTHER is loaded, and reads a text
//   freed    a text, whose context is freed; then nothing, until somebody ends the program
//   endless  one text, a token in 20 ms, until somebody ends the program
// ATTACH_HOST_NO_MMAP: files are read, and then closed. ATTACH_HOST_LOAD_ALL: has ggml load its back ends, as llama.cpp's own programs do.
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace {

using Tokens = std::vector<llama_token>;

llama_model* load(const char* path) {
    llama_model_params params = llama_model_default_params();
    if (std::getenv("ATTACH_HOST_NO_MMAP")) params.load_mode = LLAMA_LOAD_MODE_NONE;
    llama_model* model = llama_model_load_from_file(path, params);
    if (!model) _exit(2);
    return model;
}

class Context {
public:
    explicit Context(llama_model* model, uint32_t n_ctx = 512, bool embeddings = false, bool f32_keys = false)
        : model_(model) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = n_ctx;
        params.n_threads = params.n_threads_batch = 1;
        params.embeddings = embeddings;
        params.n_seq_max = 2;
        params.kv_unified = true;
        if (f32_keys) {
            params.type_k = GGML_TYPE_F32;
            params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        }
        if (embeddings) params.pooling_type = LLAMA_POOLING_TYPE_MEAN;
        context_ = llama_init_from_model(model, params);
        if (!context_) _exit(2);
    }
    ~Context() { llama_free(context_); }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    const Tokens& text() const { return text_; }
    // The model's choice after each of `tokens`, which become part of the text.
    Tokens read(const Tokens& tokens) {
        llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
        for (const llama_token t : tokens) {
            const auto i = static_cast<size_t>(batch.n_tokens++);
            batch.token[i] = t, batch.pos[i] = static_cast<llama_pos>(text_.size());
            batch.n_seq_id[i] = 1, batch.seq_id[i][0] = sequence_, batch.logits[i] = 1;
            text_.push_back(t);
        }
        if (llama_decode(context_, batch) != 0) _exit(3);
        const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model_));
        Tokens choices;
        for (int32_t i = 0; i < batch.n_tokens; ++i) {
            const float* logits = llama_get_logits_ith(context_, i);
            choices.push_back(static_cast<llama_token>(std::max_element(logits, logits + n_vocab) - logits));
        }
        llama_batch_free(batch);
        return choices;
    }
    // Reads `next`, then writes `n` tokens of its own; the one that would follow.
    llama_token write(llama_token next, int n) {
        for (; n >= 0; --n) next = read({next}).back();
        return next;
    }
    // So many patches, which all see each other, behind the text: llama.cpp makes a new scheduler before and after.
    void look(int32_t n) {
        const int n_embd = llama_model_n_embd_inp(model_);
        llama_batch batch = llama_batch_init(n, n_embd, 1);
        batch.n_tokens = n;
        for (int32_t i = 0; i < n; ++i) {
            for (int d = 0; d < n_embd; ++d)
                batch.embd[i * n_embd + d] = 0.01F * static_cast<float>((i * 7 + d) % 13 - 6);
            batch.pos[i] = static_cast<llama_pos>(text_.size()) + i;
            batch.n_seq_id[i] = 1, batch.seq_id[i][0] = 0, batch.logits[i] = 0;
        }
        llama_set_causal_attn(context_, false);
        if (llama_decode(context_, batch) != 0) _exit(3);
        llama_set_causal_attn(context_, true);
        llama_batch_free(batch);
    }
    // The next decode makes a new scheduler.
    void blink() {
        llama_set_causal_attn(context_, false);
        llama_set_causal_attn(context_, true);
    }
    void take_out(int32_t begin, int32_t end) {
        llama_memory_seq_rm(llama_get_memory(context_), 0, begin, end);
        llama_memory_seq_add(llama_get_memory(context_), 0, end, -1, begin - end);
        text_.erase(text_.begin() + begin, text_.begin() + end);
    }
    // As many tokens as there are cells, behind those that the text has: there is no room.
    void fail() {
        Tokens all(llama_n_ctx(context_), 1);
        if (llama_decode(context_, llama_batch_get_one(all.data(), static_cast<int32_t>(all.size()))) != 1) _exit(3);
    }
    // Goes on in another sequence, which holds `text`; what the one before it holds.
    Tokens change_to(llama_seq_id sequence, Tokens text) {
        sequence_ = sequence;
        return std::exchange(text_, std::move(text));
    }
    // Positions that something else than text has taken.
    void skip(size_t n) { text_.resize(text_.size() + n); }
    void forget_from(size_t n) {
        llama_memory_seq_rm(llama_get_memory(context_), 0, static_cast<llama_pos>(n), -1);
        text_.resize(n);
    }
    // What a text without answers is given.
    void embed(const Tokens& tokens) {
        llama_memory_t memory = llama_get_memory(context_);
        if (memory) llama_memory_clear(memory, true);
        Tokens all = tokens;
        const llama_batch batch = llama_batch_get_one(all.data(), static_cast<int32_t>(all.size()));
        if ((memory ? llama_decode(context_, batch) : llama_encode(context_, batch)) != 0) _exit(3);
        if (!llama_get_embeddings_seq(context_, 0)) _exit(3);
        text_ = tokens;
    }
    // `common` in two sequences, then a token of each.
    void fork(const Tokens& common, llama_token a, llama_token b) {
        llama_batch batch = llama_batch_init(static_cast<int32_t>(common.size()) + 2, 0, 2);
        const auto add = [&](llama_token t, size_t position, std::vector<llama_seq_id> sequences) {
            const auto i = static_cast<size_t>(batch.n_tokens++);
            batch.token[i] = t, batch.pos[i] = static_cast<llama_pos>(position), batch.logits[i] = 1;
            batch.n_seq_id[i] = static_cast<int32_t>(sequences.size());
            std::copy(sequences.begin(), sequences.end(), batch.seq_id[i]);
        };
        for (size_t i = 0; i < common.size(); ++i) add(common[i], i, {0, 1});
        add(a, common.size(), {0}), add(b, common.size(), {1});
        if (llama_decode(context_, batch) != 0) _exit(3);
        llama_batch_free(batch);
        text_ = common;
        text_.push_back(a);
    }
    void clear() {
        llama_memory_clear(llama_get_memory(context_), true);
        text_.clear();
    }
    void print() const {
        std::string line;
        for (const llama_token t : text_) line += std::to_string(t) + " ";
        std::printf("%s\n", line.c_str());
    }

private:
    llama_model* model_;
    llama_context* context_ = nullptr;
    Tokens text_;
    llama_seq_id sequence_ = 0;
};

// What was read last is printed wherever a part of it is forgotten.
void drafts(llama_model* large, llama_model* small) {
    constexpr size_t n_guesses = 4;
    Context writer(large), guesser(small);
    const Tokens prompt = {11, 27, 3, 91, 45, 8};
    llama_token next = writer.read(prompt).back();
    guesser.read(prompt);
    for (int i = 0; i < 12; ++i) {
        const size_t before = writer.text().size();
        Tokens batch = {next};
        for (size_t n = 0; n < n_guesses; ++n) batch.push_back(guesser.read({batch.back()}).back());
        // Made models of random weights agree on nothing: every third time the guesses are the writer's own words.
        if (i % 3 == 0) {
            for (size_t n = 1; n < batch.size(); ++n) {
                const Tokens known(batch.begin(), batch.begin() + static_cast<ptrdiff_t>(n));
                batch[n] = writer.read(known).back();
                writer.print();
                writer.forget_from(before);
            }
        }
        const Tokens choices = writer.read(batch);
        size_t n_good = 0;
        while (n_good + 1 < batch.size() && choices[n_good] == batch[n_good + 1]) ++n_good;
        next = choices[n_good];
        const size_t kept = before + 1 + n_good;
        if (writer.text().size() > kept) writer.print(), writer.forget_from(kept);
        const size_t same = std::min<size_t>(guesser.text().size(), before + 1 + (i % 3 == 0 ? 0 : n_good));
        if (guesser.text().size() > same) guesser.print(), guesser.forget_from(same);
        const Tokens missing(writer.text().begin() + static_cast<ptrdiff_t>(same), writer.text().end());
        if (!missing.empty()) guesser.read(missing);
    }
    writer.read({next}), guesser.read({next});
    writer.print(), guesser.print();
}

void two(llama_model* a, llama_model* b) {
    Context first(a), second(b);
    llama_token x = first.read({11, 27, 3, 91, 45, 8}).back(), y = second.read({60, 61, 62}).back();
    for (int i = 0; i < 15; ++i) x = first.write(x, 0), y = second.write(y, 1);
    first.print(), second.print();
}

void again(llama_model* model) {
    for (int i = 0; i < 6; ++i) {
        Context context(model, i % 2 == 0 ? 256 : 512);
        context.write(context.read({11, 27, 3, 91 + i}).back(), 12);
        context.print();
    }
}

void threads(llama_model* a, llama_model* b) {
    std::vector<std::thread> all;
    for (int i = 0; i < 4; ++i) {
        all.emplace_back([i, model = i % 2 == 0 ? a : b] {
            Context context(model);
            context.write(context.read({20 + i, 27, 3, 91, 45}).back(), 40);
            context.print();
        });
    }
    for (std::thread& t : all) t.join();
}

void embed(llama_model* model, llama_model* encoder) {
    Context text(model), of_encoder(encoder, 512, true), of_model(model, 512, true);
    llama_token next = text.read({11, 27, 3, 91, 45, 8}).back();
    for (int i = 0; i < 5; ++i) {
        next = text.write(next, 1);
        of_encoder.embed({30, 31 + i, 32, 33});
        of_model.embed({40, 41 + i, 42, 43});
        of_model.print();
    }
    text.print();
}

void looks(llama_model* model) {
    Context context(model);
    llama_token next = context.write(context.read({11, 27, 3, 91}).back(), 6);
    for (int i = 0; i < 2; ++i) {
        context.look(5);
        context.forget_from(context.text().size());
        next = context.write(next, 6);
    }
    context.print();
}

void another(Context& context) {
    context.clear();
    context.write(context.read({60, 61, 62}).back(), 12);
    context.print();
}

void stays(llama_model* model) {
    Context context(model);
    const llama_token next = context.write(context.read({11, 27, 3, 91}).back(), 6);
    context.print();
    context.look(5);
    context.skip(5);
    context.write(next, 6);
    another(context);
}

void moves(llama_model* model) {
    Context context(model);
    const llama_token next = context.write(context.read({11, 27, 3, 91}).back(), 12);
    context.print();
    context.take_out(4, 8);
    context.blink();
    context.write(next, 6);
    another(context);
}

void apart(llama_model* model) {
    Context first(model), second(model);
    const llama_token next = first.write(first.read({11, 27, 3, 91}).back(), 6);
    first.blink();
    first.fail();
    second.write(second.read({60, 61, 62}).back(), 12);
    first.write(next, 6);
    first.print(), second.print();
}

void twice(llama_model* model) {
    Context context(model);
    const Tokens text = {11, 27, 3, 91, 45, 8};
    context.read(text);
    const Tokens first = context.change_to(1, {});
    context.read(text);
    context.blink();
    const Tokens second = context.change_to(0, first);
    context.write(50, 6);
    context.print();
    context.change_to(1, second);
    context.write(60, 6);
    context.print();
}

void swaps(const char* path, const char* other) {
    for (const char* each : {path, other}) {
        llama_model* model = load(each);
        {
            Context context(model);
            context.write(context.read({11, 27, 3, 91}).back(), 12);
            context.print();
        }
        llama_model_free(model);
    }
}

[[noreturn]] void freed(llama_model* model) {
    {
        Context context(model);
        context.write(context.read({11, 27, 3, 91}).back(), 12);
        context.print();
    }
    std::fflush(stdout);
    for (;;) pause();
}

void forks(llama_model* model) {
    Context context(model);
    context.fork({11, 27, 3, 91}, 45, 46);
    context.print();
    context.clear();
    context.write(context.read({60, 61, 62}).back(), 12);
    context.print();
}

void f32_keys(llama_model* model) {
    Context context(model, 512, false, true);
    context.write(context.read({60, 61, 62}).back(), 12);
    context.print();
}

void eyes(llama_model* model) {
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_sched_t sched = ggml_backend_sched_new(&cpu, nullptr, 1, 64, false, true);
    ggml_context* c = ggml_init({8 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    ggml_tensor *a = ggml_new_tensor_2d(c, GGML_TYPE_F32, 8, 4), *b = ggml_new_tensor_2d(c, GGML_TYPE_F32, 8, 2);
    ggml_set_input(a), ggml_set_input(b);
    ggml_tensor* product = ggml_mul_mat(c, a, b);
    ggml_set_output(product);
    ggml_cgraph* graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, product);
    if (!ggml_backend_sched_alloc_graph(sched, graph)) _exit(3);
    const std::vector<float> ones(32, 1.0F);
    ggml_backend_tensor_set(a, ones.data(), 0, 32 * sizeof(float));
    ggml_backend_tensor_set(b, ones.data(), 0, 16 * sizeof(float));
    if (ggml_backend_sched_graph_compute(sched, graph) != GGML_STATUS_SUCCESS) _exit(3);
    float first = 0;
    ggml_backend_tensor_get(product, &first, 0, sizeof first);
    if (first != 8) _exit(3);
    ggml_backend_sched_free(sched);
    ggml_free(c);
    ggml_backend_free(cpu);
    Context text(model);
    text.write(text.read({11, 27, 3, 91}).back(), 12);
    text.print();
}

[[noreturn]] void endless(llama_model* model) {
    Context context(model, 4096);
    llama_token next = 11;
    for (;;) {
        std::printf("%d ", next);
        std::fflush(stdout);
        next = context.write(next, 0);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const std::string way = argv[1];
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    if (std::getenv("ATTACH_HOST_LOAD_ALL")) ggml_backend_load_all();
    if (way == "swaps" && argc > 3) return swaps(argv[2], argv[3]), 0;
    llama_model* model = load(argv[2]);
    llama_model* other = argc > 3 ? load(argv[3]) : nullptr;
    if (way == "drafts" && other) drafts(model, other);
    if (way == "two" && other) two(model, other);
    if (way == "again") again(model);
    if (way == "threads" && other) threads(model, other);
    if (way == "embed" && other) embed(model, other);
    if (way == "forks") forks(model);
    if (way == "looks") looks(model);
    if (way == "stays") stays(model);
    if (way == "moves") moves(model);
    if (way == "apart") apart(model);
    if (way == "twice") twice(model);
    if (way == "freed") freed(model);
    if (way == "f32keys") f32_keys(model);
    if (way == "eyes") eyes(model);
    if (way == "endless") endless(model);
    llama_model_free(other);
    llama_model_free(model);
    return 0;
}
