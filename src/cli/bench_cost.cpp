#include "cli/bench_cost.h"

#include "cli/machine.h"

#include <attnscope/session_recorder.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>

#include <unistd.h>

namespace attnscope::cli {
namespace {

namespace fs = std::filesystem;

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Removes the recording however the measurement ends.
struct TemporaryRecording {
    explicit TemporaryRecording(std::string p) : path(std::move(p)) {}
    TemporaryRecording(const TemporaryRecording&) = delete;
    TemporaryRecording& operator=(const TemporaryRecording&) = delete;
    ~TemporaryRecording() {
        std::error_code ec;
        for (const char* end : {"", "-wal", "-shm"}) fs::remove(path + end, ec);
    }
    const std::string path;
};

// A session that decodes in turns, and where its frames go.
struct Runner {
    std::unique_ptr<Session> session;
    std::unique_ptr<SessionRecorder> recorder; // null: plain
    int64_t pushed = 0;

    Result<void> feed(std::span<const int32_t> tokens, int n_predict, const GenerateOptions& base,
                      const TextSink& text = {}) {
        GenerateOptions o = base;
        o.n_predict = n_predict;
        o.ignore_eos = true;
        o.sampling.temperature = 0;
        FrameSink sink = [](Frame&&) -> Result<void> { return {}; };
        if (recorder) {
            sink = [this](Frame&& f) {
                ++pushed;
                return recorder->push(std::move(f));
            };
        }
        Result<GenerateResult> r = session->generate(tokens, o, sink, text);
        if (!r) return r.error();
        return {};
    }
    // Frames go into a file of this name from now on. It is made outside of all times.
    Result<void> record(const std::string& path) {
        recorder = std::make_unique<SessionRecorder>(*session, path);
        pushed = 0;
        return recorder->open();
    }
    // Waits for the disk, while it makes progress. An error of the writer's comes out at the next push or at close().
    void drain() const {
        int64_t seen = -1;
        for (double since = seconds(); recorder && recorder->recorded() < pushed && seconds() - since < 10;) {
            if (recorder->recorded() != seen) {
                seen = recorder->recorded();
                since = seconds();
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    }
    // Seconds a token of a turn. From the third token on each of them is timed from choice to choice, without the first:
    // on a GPU the end of the other one's last token still runs under it, and a frame may come one token late.
    Result<double> turn(int n, const GenerateOptions& base) {
        double start = seconds(), end = 0;
        int chosen = 0;
        if (n < 3) {
            if (Result<void> r = feed({}, n, base); !r) return r.error();
            return (seconds() - start) / n;
        }
        const auto text = [&](int32_t, const std::string&) {
            end = seconds();
            if (++chosen == 2) start = end;
            return true;
        };
        if (Result<void> r = feed({}, n, base, text); !r) return r.error();
        if (chosen < n)
            return Error{ErrorKind::engine, fmt::format("{} tokens were generated where {} were asked for", chosen, n)};
        return (end - start) / (n - 2);
    }
};

Result<Runner> open_runner(const CostOptions& o, int32_t n_ctx, std::span<const int32_t> prompt,
                           const std::string& recording) {
    SessionOptions s = o.session;
    s.n_ctx = n_ctx;
    s.capture = !recording.empty();
    Result<std::unique_ptr<Session>> session = Session::open(s);
    if (!session) return session.error();
    Runner runner;
    runner.session = std::move(*session);
    // One token, both kinds alike: afterwards the session can tell the settings, which the file states.
    if (Result<void> r = runner.feed(prompt.first(1), 0, o.generate); !r) return r.error();
    runner.session->reset();
    if (s.capture) {
        if (Result<void> r = runner.record(recording); !r) return r.error();
    }
    return runner;
}

struct PromptTime {
    double first_token = 0, frames = 0; // seconds until the first token is chosen, until all frames have come
};

// Reads the prompt and generates one token, which waits for a GPU to be done.
Result<PromptTime> fill(Runner& runner, std::span<const int32_t> prompt, const GenerateOptions& base) {
    const double start = seconds();
    PromptTime t;
    const auto text = [&](int32_t, const std::string&) {
        t.first_token = seconds() - start;
        return true;
    };
    if (Result<void> r = runner.feed(prompt, 1, base, text); !r) return r.error();
    t.frames = seconds() - start;
    runner.drain();
    return t;
}

// The prompt again and again, in turns; each time into a recording of its own, which is not closed inside the time.
Result<void> read_prompts(Runner& plain, Runner& capturing, std::span<const int32_t> prompt, const CostOptions& o,
                          const std::string& path, Cost& cost) {
    if (o.prompts == 0) return {};
    std::vector<double> ratios, frames_ratios, plain_ms;
    for (int i = 0; i < o.prompts; ++i) {
        std::array<PromptTime, 2> times;
        for (size_t k = 0; k < 2; ++k) {
            Runner& runner = (static_cast<size_t>(i) + k) % 2 ? capturing : plain;
            runner.session->reset();
            const TemporaryRecording file(path);
            if (&runner == &capturing && !o.control && !o.drop_prompts) {
                if (Result<void> r = runner.record(path); !r) return r.error();
            }
            Result<PromptTime> t = fill(runner, prompt, o.generate);
            if (!t) return t.error();
            if (runner.recorder) {
                if (Result<void> r = runner.recorder->close(); !r) return r.error();
                runner.recorder.reset();
            }
            times[&runner == &capturing] = *t;
        }
        ratios.push_back(times[1].first_token / times[0].first_token);
        frames_ratios.push_back(times[1].frames / times[0].frames);
        plain_ms.push_back(1e3 * times[0].first_token);
    }
    cost.prompt_ratio = spread(ratios);
    cost.prompt_frames_ratio = spread(frames_ratios).median;
    cost.prompt_ms = spread(plain_ms).median;
    return {};
}

// Plain, capturing, capturing, plain, ...: each kind follows the other as often as itself, so that both find the caches
// equally cold, and a drift of the machine's speed hits both alike. One ratio for two pairs.
Result<void> take_turns(std::array<Runner*, 2> runners, const CostOptions& o, Cost& cost) {
    constexpr int warm_up = 4;
    std::vector<double> ratios;
    std::array<std::vector<double>, 2> ms;
    std::array<double, 2> sum{};
    for (int i = -warm_up; i < o.pairs; ++i) {
        for (size_t k = 0; k < 2; ++k) {
            const size_t which = (static_cast<size_t>(i + warm_up) + k) % 2;
            Result<double> t = runners[which]->turn(o.tokens, o.generate);
            if (!t) return t.error();
            sum[which] += *t;
            if (i >= 0) ms[which].push_back(1e3 * *t);
        }
        if (i % 2 == 0) continue;
        if (i >= 0) ratios.push_back(sum[1] / sum[0]);
        sum = {};
    }
    cost.ratio = spread(ratios);
    cost.plain_ms = spread(ms[0]).median;
    cost.capturing_ms = spread(ms[1]).median;
    return {};
}

} // namespace

Result<Cost> measure_cost(const CostOptions& o, std::span<const int32_t> prompt) {
    Cost cost;
    cost.context = static_cast<int32_t>(prompt.size());
    const int32_t n_ctx = cost.context + (o.pairs + 6) * o.tokens + 8;
    const TemporaryRecording file(
        (fs::path(o.folder) / fmt::format("attnscope-bench-{}-{}.attn", getpid(), cost.context)).string());

    std::array<MemoryUse, 3> memory = {memory_use(), {}, {}}; // before; with the plain one; with both
    Result<Runner> plain = open_runner(o, n_ctx, prompt, "");
    if (!plain) return plain.error();
    const Result<PromptTime> plain_prompt = fill(*plain, prompt, o.generate);
    if (!plain_prompt) return plain_prompt.error();
    memory[1] = memory_use();
    Result<Runner> capturing = open_runner(o, n_ctx, prompt, o.control ? "" : file.path);
    if (!capturing) return capturing.error();
    const Result<PromptTime> capturing_prompt = fill(*capturing, prompt, o.generate);
    if (!capturing_prompt) return capturing_prompt.error();
    memory[2] = memory_use();
    cost.prompt_ratio = spread({capturing_prompt->first_token / plain_prompt->first_token});
    cost.prompt_frames_ratio = capturing_prompt->frames / plain_prompt->frames;
    cost.prompt_ms = 1e3 * plain_prompt->first_token;
    cost.memory_bytes = memory[2].host_bytes - 2 * memory[1].host_bytes + memory[0].host_bytes;
    cost.device_bytes = memory[2].device_bytes - 2 * memory[1].device_bytes + memory[0].device_bytes;

    SessionRecorder* writer = capturing->recorder.get(); // null in a control
    const double writer_before = writer ? writer->cpu_seconds() : 0;
    const int64_t frames_before = capturing->pushed;
    if (Result<void> r = take_turns({&*plain, &*capturing}, o, cost); !r) return r.error();
    capturing->drain();
    cost.growth_bytes = memory_use().host_bytes - memory[2].host_bytes;
    const std::string prompt_path = file.path + ".prompt";
    if (!writer) {
        if (Result<void> r = read_prompts(*plain, *capturing, prompt, o, prompt_path, cost); !r) return r.error();
        return cost;
    }
    const double writer_in_pairs = writer->cpu_seconds() - writer_before;
    const auto frames_in_pairs = static_cast<double>(capturing->pushed - frames_before);
    if (Result<void> r = writer->close(); !r) return r.error();
    // Few pairs may end before the log has to be written into the file, which the whole recording's rate includes; the
    // prompt's frames come in bulk and cost less each. The larger of the two rates.
    cost.writer_ms = 1e3 * std::max(writer_in_pairs / frames_in_pairs,
                                    writer->cpu_seconds() / static_cast<double>(capturing->pushed));
    std::error_code ec;
    cost.file_bytes = static_cast<int64_t>(fs::file_size(file.path, ec));
    capturing->recorder.reset();
    if (Result<void> r = read_prompts(*plain, *capturing, prompt, o, prompt_path, cost); !r) return r.error();
    return cost;
}

} // namespace attnscope::cli
