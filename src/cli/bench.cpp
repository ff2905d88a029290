// attnscope bench: what capturing costs, against the plain run, in turns in one process.
#include "cli/report.h"
#include "cli/session_flags.h"
#include "cli/verbs.h"

#include <attnscope/recording.h>

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags : SessionFlags {
    std::string contexts = "128,512,2048,8192", output;
    int turns = 12, tokens = 16;
    bool json = false;
};

double wall() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
// Of all threads of this process: on a machine without idle cores this is what the run really costs.
double cpu() {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

int64_t memory_peak_kb() {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.rfind("VmRSS:", 0) == 0) return std::atoll(line.c_str() + 6);
    }
    return 0;
}

struct Spread {
    double low = 0, median = 0, high = 0;
};
Spread spread(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return {x[x.size() / 4], x[x.size() / 2], x[x.size() * 3 / 4]};
}

struct Turn {
    double wall = 0, cpu = 0;
};

// A session that decodes in turns, and where its frames go.
struct Runner {
    std::unique_ptr<Session> session;
    std::unique_ptr<RecordingWriter> writer;
    std::string path;
    int64_t pushed = 0;

    Result<void> feed(std::span<const int32_t> tokens, int n_predict, const GenerateOptions& base) {
        GenerateOptions o = base;
        o.n_predict = n_predict;
        o.ignore_eos = true;
        o.sampling.temperature = 0;
        FrameSink sink;
        if (writer) {
            sink = [this](Frame&& f) {
                ++pushed;
                return writer->push(std::move(f));
            };
        }
        Result<GenerateResult> r = session->generate(tokens, o, sink);
        if (!r) return r.error();
        return {};
    }
    void drain() const {
        while (writer && writer->recorded() < pushed) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    Result<Turn> turn(int n_predict, const GenerateOptions& base) {
        const double w = wall(), c = cpu();
        if (Result<void> r = feed({}, n_predict, base); !r) return r.error();
        Turn t;
        t.wall = wall() - w;
        drain(); // what the writer still has to do counts as work, but nobody waited for it
        t.cpu = cpu() - c;
        return t;
    }
};

Result<nlohmann::json> measure(const Flags& f, int32_t context) {
    const int32_t room = (f.turns + 1) * f.tokens + 8;
    SessionOptions o = f.session;
    o.n_ctx = context + room;
    Runner plain, capturing;
    o.capture = false;
    auto a = Session::open(o);
    if (!a) return a.error();
    plain.session = std::move(*a);
    o.capture = true;
    auto b = Session::open(o);
    if (!b) return b.error();
    capturing.session = std::move(*b);

    namespace fs = std::filesystem;
    const std::string folder = f.output.empty() ? fs::temp_directory_path().string() : f.output;
    capturing.path = (fs::path(folder) / fmt::format("attnscope-bench-{}-{}.attn", getpid(), context)).string();
    auto writer = RecordingWriter::create(capturing.path, capturing.session->recording_info());
    if (!writer) return writer.error();
    capturing.writer = std::move(*writer);
    if (Result<void> r = capturing.writer->begin(capturing.session->geometry()); !r) return r.error();

    Result<std::vector<int32_t>> seed = plain.session->tokenize("The sea was calm, and nine ships passed the light. ", true, false);
    if (!seed) return seed.error();
    std::vector<int32_t> prompt;
    while (prompt.size() < size_t(context)) prompt.insert(prompt.end(), seed->begin(), seed->end());
    prompt.resize(size_t(context));
    double prompt_plain = wall();
    if (Result<void> r = plain.feed(prompt, 0, f.generate); !r) return r.error();
    prompt_plain = wall() - prompt_plain;
    double prompt_capturing = wall();
    if (Result<void> r = capturing.feed(prompt, 0, f.generate); !r) return r.error();
    prompt_capturing = wall() - prompt_capturing;
    capturing.drain();
    std::vector<double> ratios, cpu_ratios, plain_ms, capturing_ms;
    const int64_t memory_before = memory_peak_kb();
    for (int i = 0; i <= f.turns; ++i) {
        // A B, B A, A B ...: drift of the machine's speed hits both alike. The first pair warms up.
        Turn t[2];
        for (int k = 0; k < 2; ++k) {
            const bool captures = (i + k) % 2 == 1;
            Result<Turn> turn = (captures ? capturing : plain).turn(f.tokens, f.generate);
            if (!turn) return turn.error();
            t[captures] = *turn;
        }
        if (i == 0) continue;
        ratios.push_back(t[1].wall / t[0].wall);
        cpu_ratios.push_back(t[1].cpu / t[0].cpu);
        plain_ms.push_back(1e3 * t[0].wall / f.tokens);
        capturing_ms.push_back(1e3 * t[1].wall / f.tokens);
    }
    const int64_t memory_growth = memory_peak_kb() - memory_before;
    if (Result<void> r = capturing.writer->close(); !r) return r.error();
    capturing.writer.reset();
    std::error_code ec;
    const auto bytes = static_cast<int64_t>(fs::file_size(capturing.path, ec));
    fs::remove(capturing.path, ec);
    const Spread r = spread(ratios), c = spread(cpu_ratios);
    return nlohmann::json{{"context", context}, {"plain_ms", spread(plain_ms).median},
                          {"capturing_ms", spread(capturing_ms).median},
                          {"ratio", {{"low", r.low}, {"median", r.median}, {"high", r.high}}},
                          {"cpu_ratio", {{"low", c.low}, {"median", c.median}, {"high", c.high}}},
                          {"prompt_ratio", prompt_capturing / prompt_plain}, {"file_bytes", bytes},
                          {"memory_growth_kb", memory_growth}};
}

int run(Flags& f) {
    if (Result<void> r = resolve(f); !r) return report(r.error(), f.json);
    Result<std::vector<int32_t>> contexts = parse_selection("--contexts", f.contexts);
    if (!contexts) return report(contexts.error(), f.json);
    nlohmann::json all = nlohmann::json::array();
    if (!f.json) {
        fmt::print("{}, flash attention {}, {} turns of {} tokens\n", std::filesystem::path(f.session.model_path).filename().string(),
                   f.flash_attention, f.turns, f.tokens);
        fmt::print("{:>8} {:>10} {:>10} {:>22} {:>22} {:>9}\n", "context", "plain ms", "captur. ms", "time ratio (quartiles)",
                   "CPU ratio (quartiles)", "prompt");
    }
    for (const int32_t context : *contexts) {
        Result<nlohmann::json> m = measure(f, std::max(context, 8));
        if (!m) return report(m.error(), f.json);
        all.push_back(*m);
        if (f.json) continue;
        const auto quartiles = [](const nlohmann::json& s) {
            return fmt::format("{:.3f} ({:.3f}-{:.3f})", s["median"].get<double>(), s["low"].get<double>(), s["high"].get<double>());
        };
        fmt::print("{:>8} {:>10.2f} {:>10.2f} {:>22} {:>22} {:>9.3f}\n", context, (*m)["plain_ms"].get<double>(),
                   (*m)["capturing_ms"].get<double>(), quartiles((*m)["ratio"]), quartiles((*m)["cpu_ratio"]),
                   (*m)["prompt_ratio"].get<double>());
        std::fflush(stdout);
    }
    if (f.json) fmt::print("{}\n", nlohmann::json{{"model", f.session.model_path}, {"runs", all}}.dump(2));
    return exit_good;
}

} // namespace

void add_bench(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("bench", "Measure what capturing costs, in turns with the plain run");
    verb->footer("Two contexts of one model decode in turns, one plain, one capturing everything to disk.\n"
                 "The ratio is the median over the turns, with its quartiles. CPU counts all threads, the writer's too.");
    verb->add_option("--contexts", f->contexts, "Context lengths to measure at")->capture_default_str();
    verb->add_option("--turns", f->turns, "Pairs of turns at each length")->capture_default_str()->check(CLI::Range(3, 1000));
    verb->add_option("--tokens", f->tokens, "Tokens of a turn")->capture_default_str()->check(CLI::Range(1, 4096));
    verb->add_option("-o,--output", f->output, "Folder for the recording (default: the temporary folder)");
    verb->add_flag("--json", f->json, "Print a JSON object");
    verb->add_flag("--no-witness{false}", f->session.witness, "Capture without proving (to see what the proof costs)");
    add_model_flags(*verb, *f);
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
