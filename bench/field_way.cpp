// What the field's way of getting attention out of llama.cpp costs, against the plain run, in turns in one process:
// flash attention off, the public cb_eval callback that wants every kq_soft_max, and a copy of each layer's rows to the
// host while the graph stands still. It gives the right rows, unlike pointers read after the run (docs/oscillation.md).
// llama.cpp's public API only: nothing of attnscope's is in this program, least of all its interposed symbols.
//   bench_field_way -m model.gguf [--contexts 512,8192,30000] [--turns 12] [--tokens 8] [--json]
#include "cli/paired_ratio.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <ggml-backend.h>
#include <llama-cpp.h>
#include <nlohmann/json.hpp>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

using attnscope::cli::spread;
using attnscope::cli::Spread;

struct Flags {
    std::string model;
    std::vector<int32_t> contexts = {512, 8192, 30000};
    int n_gpu_layers = -1, threads = 0, turns = 12, tokens = 8, ubatch = 512;
    bool json = false;
};

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Rows of the token that was decoded last, as they came: (layer, head, n_kv) float32.
struct Rows {
    bool wanted = false; // not while a prompt is read
    std::vector<std::vector<float>> layers;
    size_t n_seen = 0;

    static bool eval(ggml_tensor* t, bool ask, void* self) {
        auto& rows = *static_cast<Rows*>(self);
        if (!rows.wanted || std::strncmp(t->name, "kq_soft_max", 11) != 0) return !ask; // false: I do not need it
        if (ask) return true;
        if (rows.n_seen == rows.layers.size()) rows.layers.emplace_back();
        std::vector<float>& layer = rows.layers[rows.n_seen++];
        layer.resize(static_cast<size_t>(ggml_nelements(t))); // memory is kept from token to token
        ggml_backend_tensor_get(t, layer.data(), 0, ggml_nbytes(t));
        return true; // go on
    }
};

enum Way { plain, no_flash, field };
constexpr std::array<const char*, 3> way_names = {"plain", "plain, flash attention off", "field's way"};

// One context that decodes one token after the other.
struct Runner {
    llama_context_ptr context;
    Rows rows;
    int32_t n_vocab = 0;
    uint64_t next = 1; // tokens are drawn, not sampled: the same for all, and the vocabulary's size costs nothing

    bool open(llama_model* model, const Flags& f, int32_t n_ctx, Way way) {
        llama_context_params p = llama_context_default_params();
        p.n_ctx = static_cast<uint32_t>(n_ctx);
        p.n_batch = p.n_ubatch = static_cast<uint32_t>(std::min(f.ubatch, n_ctx));
        p.n_seq_max = 1;
        p.no_perf = true;
        const auto cores = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
        p.n_threads = p.n_threads_batch = f.threads > 0 ? f.threads : cores;
        p.flash_attn_type = way == plain ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        if (way == field) {
            p.cb_eval = Rows::eval;
            p.cb_eval_user_data = &rows;
        }
        context.reset(llama_init_from_model(model, p));
        n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
        return context != nullptr;
    }
    llama_token draw() {
        next = next * 6364136223846793005u + 1442695040888963407u;
        return static_cast<llama_token>((next >> 33) % static_cast<uint64_t>(n_vocab));
    }
    bool fill(int32_t n, int32_t batch) {
        std::vector<llama_token> tokens;
        for (int32_t at = 0; at < n; at += batch) {
            tokens.resize(static_cast<size_t>(std::min(batch, n - at)));
            for (llama_token& t : tokens) t = draw();
            if (llama_decode(context.get(), llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()))) !=
                0)
                return false;
        }
        llama_synchronize(context.get());
        return true;
    }
    // Milliseconds a token; nothing if the engine failed.
    std::optional<double> turn(int n) {
        const double start = seconds();
        for (int i = 0; i < n; ++i) {
            llama_token token = draw();
            rows.n_seen = 0;
            if (llama_decode(context.get(), llama_batch_get_one(&token, 1)) != 0) return std::nullopt;
            llama_synchronize(context.get());
        }
        return 1e3 * (seconds() - start) / n;
    }
};

nlohmann::json to_json(const Spread& s) {
    return {{"low", s.low}, {"median", s.median}, {"high", s.high}};
}

// Empty with a sentence in `problem` when it could not be done.
std::optional<nlohmann::json> measure(llama_model* model, const Flags& f, int32_t context, std::string& problem) {
    const int32_t room = (f.turns + 1) * f.tokens + 8;
    std::array<Runner, 3> runners;
    for (const Way way : {plain, no_flash, field}) {
        Runner& r = runners[way];
        if (!r.open(model, f, context + room, way)) {
            problem =
                fmt::format("llama.cpp could not make a context of {} positions ({})", context + room, way_names[way]);
            return std::nullopt;
        }
        if (!r.fill(context, std::min(f.ubatch, context + room))) {
            problem = fmt::format("llama.cpp failed to read {} tokens ({})", context, way_names[way]);
            return std::nullopt;
        }
        r.rows.wanted = true;
    }
    std::array<std::vector<double>, 3> ms;
    std::vector<double> ratios, ratios_no_flash;
    for (int i = 0; i <= f.turns; ++i) { // the first turn warms up
        std::array<double, 3> t{};
        for (int k = 0; k < 3; ++k) {
            const auto way = static_cast<size_t>((i + k) % 3); // each comes first equally often
            const std::optional<double> taken = runners[way].turn(f.tokens);
            if (!taken) {
                problem = fmt::format("llama.cpp failed to decode after {} positions ({})", context, way_names[way]);
                return std::nullopt;
            }
            t[way] = *taken;
        }
        if (i == 0) continue;
        for (size_t way = 0; way < 3; ++way) ms[way].push_back(t[way]);
        ratios.push_back(t[field] / t[plain]);
        ratios_no_flash.push_back(t[no_flash] / t[plain]);
    }
    size_t bytes = 0;
    for (const std::vector<float>& layer : runners[field].rows.layers) bytes += layer.size() * sizeof(float);
    if (bytes == 0) {
        problem = "no tensor named kq_soft_max was seen: this model has no attention that the field's way could find";
        return std::nullopt;
    }
    return nlohmann::json{{"context", context},
                          {"plain_ms", spread(ms[plain]).median},
                          {"plain_no_flash_ms", spread(ms[no_flash]).median},
                          {"capturing_ms", spread(ms[field]).median},
                          {"ratio", to_json(spread(ratios))},
                          {"ratio_no_flash", to_json(spread(ratios_no_flash))},
                          {"bytes_per_token", bytes}};
}

int run(const Flags& f) {
    llama_backend_init();
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    llama_model_params p = llama_model_default_params();
    p.n_gpu_layers = f.n_gpu_layers;
    const llama_model_ptr model(llama_model_load_from_file(f.model.c_str(), p));
    if (!model) {
        fmt::print(stderr, "error: {} could not be loaded\n", f.model);
        return 2;
    }
    std::string devices;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        devices += (i ? ", " : "") + std::string(ggml_backend_dev_description(ggml_backend_dev_get(i)));
    }
    if (!f.json) {
        fmt::print("{}, {} turns of {} tokens, on {}\n", f.model, f.turns, f.tokens, devices);
        fmt::print("{:>8} {:>10} {:>13} {:>10} {:>23} {:>23}\n", "context", "plain ms", "flash off ms", "field ms",
                   "field/plain (quartiles)", "flash off/plain");
    }
    nlohmann::json runs = nlohmann::json::array();
    int status = 0;
    for (const int32_t context : f.contexts) {
        std::string problem;
        const auto m = measure(model.get(), f, context, problem);
        if (!m) { // a longer context may not fit where a shorter one did: keep what there is
            fmt::print(stderr, "error: {}\n", problem);
            status = 2;
            break;
        }
        runs.push_back(*m);
        if (f.json) continue;
        const auto shown = [](const nlohmann::json& s) {
            return fmt::format("{:.3f} ({:.3f}-{:.3f})", s["median"].get<double>(), s["low"].get<double>(),
                               s["high"].get<double>());
        };
        fmt::print("{:>8} {:>10.2f} {:>13.2f} {:>10.2f} {:>23} {:>23}\n", context, (*m)["plain_ms"].get<double>(),
                   (*m)["plain_no_flash_ms"].get<double>(), (*m)["capturing_ms"].get<double>(), shown((*m)["ratio"]),
                   shown((*m)["ratio_no_flash"]));
        std::fflush(stdout);
    }
    if (f.json) {
        fmt::print("{}\n", nlohmann::json{{"way", "field"},
                                          {"model", f.model},
                                          {"devices", devices},
                                          {"turns", f.turns},
                                          {"tokens", f.tokens},
                                          {"runs", runs}}
                               .dump(2));
    }
    return status;
}

} // namespace

int main(int argc, char** argv) {
    Flags f;
    CLI::App app("What it costs to get attention by cb_eval with flash attention off, in turns with the plain run");
    app.add_option("-m,--model", f.model, "GGUF file")->required()->check(CLI::ExistingFile);
    app.add_option("--n-gpu-layers,--ngl", f.n_gpu_layers, "Layers to put on GPUs (default: all that fit)");
    app.add_option("-t,--threads", f.threads, "Threads (default: the number of cores)")->check(CLI::Range(1, 1024));
    app.add_option("-b,--ubatch-size", f.ubatch, "Prompt tokens computed at once")->check(CLI::Range(1, 1 << 16));
    app.add_option("--contexts", f.contexts, "Context lengths to measure at")
        ->delimiter(',')
        ->check(CLI::Range(8, 1 << 20));
    app.add_option("--turns", f.turns, "Rounds of turns at each length")
        ->capture_default_str()
        ->check(CLI::Range(3, 1000));
    app.add_option("--tokens", f.tokens, "Tokens of a turn")->capture_default_str()->check(CLI::Range(1, 4096));
    app.add_flag("--json", f.json, "Print a JSON object");
    CLI11_PARSE(app, argc, argv);
    return run(f);
}
