// attnscope bench: what capturing costs, against the plain run, in turns in one process.
#include "cli/bench_cost.h"
#include "cli/machine.h"
#include "cli/report.h"
#include "cli/session_flags.h"
#include "cli/verbs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

namespace attnscope::cli {
namespace {

struct Flags : SessionFlags {
    std::string contexts = "128,512,2048,8192", output;
    int pairs = 0, tokens = 0; // 0: as fits the machine
    int prompts = 0;
    bool json = false, control = false, drop_prompts = false;
};

// Text of `n` tokens. The session it takes is closed again: the engine's one-time needs of memory are met before the
// first measurement begins.
Result<std::vector<int32_t>> make_prompt(const Flags& f, size_t n) {
    SessionOptions o = f.session;
    o.capture = false;
    o.n_ctx = 64;
    Result<std::unique_ptr<Session>> session = Session::open(o);
    if (!session) return session.error();
    Result<std::vector<int32_t>> line =
        (*session)->tokenize("The sea was calm, and nine ships passed the light. ", true, false);
    if (!line) return line.error();
    if (line->empty()) return Error{ErrorKind::engine, "the model's tokeniser makes no tokens of a text"};
    std::vector<int32_t> prompt;
    while (prompt.size() < n) prompt.insert(prompt.end(), line->begin(), line->end());
    prompt.resize(n);
    return prompt;
}

// Turns of one token are the finest comb, where a call of generate() ends with the token. A GPU runs on after it, and
// frames come one token late: there a turn is several tokens, timed inside (see Runner::turn).
Result<void> choose_turns(Flags& f) {
    // Servers of --rpc are devices too: their frames come late as well.
    const bool gpu = f.session.n_gpu_layers != 0 && (has_gpu() || !f.session.rpc_servers.empty());
    if (f.tokens == 0) f.tokens = gpu ? 10 : 1;
    if (f.pairs == 0) f.pairs = gpu ? 40 : 200;
    f.pairs += f.pairs % 2;
    if (gpu && f.tokens < 3) {
        return Error{ErrorKind::invalid_argument,
                     "on a GPU a turn takes at least 3 tokens (--tokens): it is timed from the second on"};
    }
    return {};
}

nlohmann::json to_json(const Cost& c) {
    return {{"context", c.context},
            {"plain_ms", c.plain_ms},
            {"capturing_ms", c.capturing_ms},
            {"ratio",
             {{"low", c.ratio.low},
              {"median", c.ratio.median},
              {"high", c.ratio.high},
              {"sure_low", c.ratio.sure_low},
              {"sure_high", c.ratio.sure_high}}},
            {"writer_ms", c.writer_ms},
            {"at_most", c.at_most()},
            {"at_most_sure", c.at_most_sure()},
            {"prompt_ms", c.prompt_ms},
            {"prompt_ratio",
             {{"median", c.prompt_ratio.median},
              {"sure_low", c.prompt_ratio.sure_low},
              {"sure_high", c.prompt_ratio.sure_high}}},
            {"prompt_frames_ratio", c.prompt_frames_ratio},
            {"file_bytes", c.file_bytes},
            {"memory_bytes", c.memory_bytes},
            {"device_bytes", c.device_bytes},
            {"growth_bytes", c.growth_bytes}};
}

void print_head(const Flags& f) {
    fmt::print("{}, flash attention {}, {} pairs of turns of {} token{}\n",
               std::filesystem::path(f.session.model_path).filename().string(), f.flash_attention, f.pairs, f.tokens,
               f.tokens == 1 ? "" : "s");
    fmt::print("{:>7} {:>8} {:>8} {:>21} {:>7} {:>8} {:>7} {:>8}\n", "context", "plain ms", "captures",
               "time ratio (95% sure)", "writer", "all told", "prompt", "memory");
}

void print_line(const Cost& c) {
    fmt::print("{:>7} {:>8.2f} {:>8.2f} {:>21} {:>6.1f}% {:>8.3f} {:>7.3f} {:>5.1f} MB\n", c.context, c.plain_ms,
               c.capturing_ms,
               fmt::format("{:.3f} ({:.3f}-{:.3f})", c.ratio.median, c.ratio.sure_low, c.ratio.sure_high),
               100 * c.writer_share(), c.at_most(), c.prompt_ratio.median, double(c.memory_bytes) / 1e6);
    std::fflush(stdout);
}

int run(Flags& f) {
    if (Result<void> r = resolve(f); !r) return report(r.error(), f.json);
    Result<std::vector<int32_t>> contexts = parse_selection("--contexts", f.contexts);
    if (!contexts) return report(contexts.error(), f.json);
    if (contexts->empty()) return report(Error{ErrorKind::invalid_argument, "--contexts names no length"}, f.json);
    if (Result<void> r = choose_turns(f); !r) return report(r.error(), f.json);
    Result<std::vector<int32_t>> prompt = make_prompt(f, static_cast<size_t>(std::max(contexts->back(), 8)));
    if (!prompt) return report(prompt.error(), f.json);
    CostOptions o;
    o.session = f.session;
    o.generate = f.generate;
    o.pairs = f.pairs;
    o.tokens = f.tokens;
    o.prompts = f.prompts;
    o.drop_prompts = f.drop_prompts;
    o.control = f.control;
    o.folder = f.output.empty() ? std::filesystem::temp_directory_path().string() : f.output;
    nlohmann::json all = nlohmann::json::array();
    if (!f.json) print_head(f);
    for (const int32_t context : *contexts) {
        Result<Cost> cost = measure_cost(o, std::span(*prompt).first(static_cast<size_t>(std::max(context, 8))));
        if (!cost) return report(cost.error(), f.json);
        all.push_back(to_json(*cost));
        if (!f.json) print_line(*cost);
    }
    if (f.json) {
        fmt::print("{}\n", nlohmann::json{{"way", f.control ? "control" : "attnscope"},
                                          {"model", f.session.model_path},
                                          {"flash_attn", f.flash_attention},
                                          {"devices", device_names()},
                                          {"pairs", f.pairs},
                                          {"tokens", f.tokens},
                                          {"runs", all}}
                               .dump(2));
    }
    return exit_good;
}

} // namespace

void add_bench(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("bench", "Measure what capturing costs, in turns with the plain run");
    verb->footer(
        "Two contexts of one model decode in turns, one plain, one capturing everything to disk.\n"
        "time ratio: what the caller waits, the median over the pairs and the interval that holds the true\n"
        "median with 95% confidence; writer: processor time of the recording's own thread as a share of a plain\n"
        "token; all told: the sum, as if no core had been idle to write; prompt: the ratio of the times until the\n"
        "first token is chosen; memory: what capturing holds more than plain. docs/performance.md says why it is\n"
        "measured this way.\n"
        "Examples:\n"
        "  attnscope bench -m model.gguf --contexts 512,4096\n"
        "  attnscope bench --control              how far off the measurement itself is");
    verb->add_option("--contexts", f->contexts, "Context lengths to measure at")->capture_default_str();
    verb->add_option("--pairs,--turns", f->pairs, "Pairs of turns at each length (default: 200; on a GPU 40)")
        ->check(CLI::Range(4, 100000));
    verb->add_option("--tokens", f->tokens, "Tokens of a turn (default: 1; on a GPU 10)")->check(CLI::Range(1, 4096));
    verb->add_option("--prompts", f->prompts,
                     "Times that each reads the prompt, in turns (default: 0, once, behind one another)")
        ->check(CLI::Range(0, 1000));
    verb->add_flag("--drop-prompts", f->drop_prompts,
                   "Do not record the prompts of --prompts: what capturing costs without a disk");
    verb->add_option("-o,--output", f->output, "Folder for the recording (default: the temporary folder)")
        ->check(CLI::ExistingDirectory);
    verb->add_option("--prompt-rows", f->prompt_rows,
                     "Whose rows of the prompt to keep: all, last:N or none (a long prompt "
                     "on a GPU comes faster than a disk takes it)")
        ->capture_default_str();
    verb->add_flag("--control", f->control,
                   "Let a second plain context stand in for the capturing one: what is measured then "
                   "is the measurement itself");
    verb->add_flag("--json", f->json, "Print a JSON object");
    verb->add_flag("--device-mean", f->session.device_mean,
                   "Have what decodes, GPU or CPU, compute the mean of all rows of every token as well");
    verb->add_flag_callback(
        "--no-witness", [f] { f->session.witness = false; }, "Capture without proving (to see what the proof costs)");
    add_model_flags(*verb, *f);
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
