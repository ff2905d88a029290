// A table of every architecture: bench_archs FOLDER, with models that `arch_models FOLDER` made.
//
// Each model is captured with flash attention off and on, with a quantised cache, through both ways in, past the end of a wrapped
// sliding window. Every run has a process of its own: an abort of the engine is a result.
#include "gguf/gguf_check.h"
#include "support/engine_rows.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int n_prompt = 280, n_generated = 40; // the ring of a window of 32 has 256 cells

struct Run {
    const char* name;
    FlashAttention flash;
    Entry entry;
    const char* k_type;
};
constexpr Run runs[] = {
    {"off", FlashAttention::off, Entry::interposed, "f16"},
    {"on", FlashAttention::on, Entry::interposed, "f16"},
    {"q8_0", FlashAttention::on, Entry::interposed, "q8_0"},
    {"callback off", FlashAttention::off, Entry::callback, "f16"},
    {"callback on", FlashAttention::on, Entry::callback, "f16"},
};

struct Outcome {
    std::string layers, verdict, difference, reason;
};

SessionOptions options_of(const std::string& path, const Run& run) {
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = 512;
    o.n_batch = 64;
    o.n_threads = 1;
    o.flash_attention = run.flash;
    o.entry = run.entry;
    o.cache_type_k = run.k_type;
    if (run.flash == FlashAttention::on) o.cache_type_v = run.k_type;
    return o;
}

// Captured layers of all, and why the others are not. What does not generate text is taken as a reader of it.
Result<std::pair<std::string, std::string>> layers_of(SessionOptions& o) {
    const auto summary = gguf::check_gguf(o.model_path);
    o.encoder_decoder = summary && summary->encoder_decoder;
    auto session = Session::open(o);
    if (!session && !o.encoder_decoder) {
        o.only_read = true;
        session = Session::open(o);
    }
    if (!session) return session.error();
    const Geometry& g = (*session)->geometry();
    int captured = 0;
    std::set<std::string> reasons;
    for (const LayerInfo& l : g.layers) {
        captured += l.captured();
        if (!l.captured()) reasons.insert(l.absent);
    }
    std::string why;
    for (const std::string& r : reasons) why += (why.empty() ? "" : "; ") + r;
    return std::pair(fmt::format("{}/{}", captured, g.n_layer()), why);
}

// Frames that are not ok of a text and what a decoder writes after it.
Result<int64_t> not_ok_of(const SessionOptions& o, const std::vector<int32_t>& text) {
    auto session = Session::open(o);
    if (!session) return session.error();
    GenerateOptions options;
    options.n_predict = n_generated;
    options.ignore_eos = true;
    int64_t n = 0;
    const auto done = (*session)->generate(text, options, [&](Frame&& frame) -> Result<void> {
        n += frame.verdict != verdict_ok;
        return {};
    });
    if (!done) return done.error();
    return n;
}

// One line: layers, verdict, difference and reason, separated by tabs.
std::string captured(const std::string& path, const Run& run) {
    SessionOptions o = options_of(path, run);
    const auto layers = layers_of(o);
    if (!layers) return "-\t-\t-\t" + layers.error().message;
    std::vector<int32_t> prompt;
    for (int i = 0; i < n_prompt; ++i) prompt.push_back(5 + i * 7 % 101);
    SessionOptions compared = o;
    compared.only_read = o.only_read || o.encoder_decoder; // of both halves rows are compared of the encoder's here
    const int n_predict = compared.only_read ? 0 : n_generated;
    RowsDifference d =
        compare_with_engine(compared, prompt, n_predict, [](size_t i) { return i % 8 == 0 || i >= n_prompt; });
    if (o.encoder_decoder && d.error.empty()) {
        const Result<int64_t> not_ok = not_ok_of(o, prompt);
        if (!not_ok) return layers->first + "\t-\t-\t" + not_ok.error().message;
        d.not_ok += *not_ok;
    }
    if (!d.error.empty()) return layers->first + "\t-\t-\t" + d.error;
    const std::string verdict =
        d.not_ok == 0 ? "ok" : fmt::format("{} of {} not ok", d.not_ok, n_prompt + (o.only_read ? 0 : n_generated));
    return fmt::format("{}\t{}\t{}\t{}", layers->first, verdict,
                       d.rows > 0 ? fmt::format("{:.1e}", d.max_difference) : "-", layers->second);
}

std::string in_child(const std::string& path, const Run& run) {
    int ends[2];
    if (pipe(ends) != 0) return "-\t-\t-\tno pipe";
    const pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        if (!std::freopen("/dev/null", "w", stderr)) _exit(1);
        alarm(120);
        const std::string line = captured(path, run);
        _exit(write(ends[1], line.data(), line.size()) == static_cast<ssize_t>(line.size()) ? 0 : 1);
    }
    close(ends[1]);
    std::string line;
    char buffer[4096];
    for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) line.append(buffer, size_t(n));
    close(ends[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) return fmt::format("-\t-\t-\tended by signal {}", WTERMSIG(status));
    return line;
}

Outcome outcome_of(const std::string& line) {
    Outcome o;
    std::string* const fields[] = {&o.layers, &o.verdict, &o.difference, &o.reason};
    size_t field = 0;
    for (const char c : line) {
        if (c == '\t' && field < 3)
            ++field;
        else
            *fields[field] += c == '|' || c == '\n' ? ' ' : c;
    }
    return o;
}

std::string row_of(const std::string& path) {
    std::string cells, reason, layers, difference = "-";
    for (const Run& run : runs) {
        const Outcome o = outcome_of(in_child(path, run));
        if (layers.empty()) layers = o.layers;
        if (o.difference != "-" && (difference == "-" || std::stod(o.difference) > std::stod(difference)))
            difference = o.difference;
        std::string why = o.reason;
        if (const size_t at = why.find(path); at != std::string::npos) why.replace(at, path.size(), "it");
        if (!why.empty() && reason.find(why) == std::string::npos)
            reason += (reason.empty() ? "" : "; ") + fmt::format("{}: {}", run.name, why);
        cells += fmt::format(" {} |", o.verdict == "ok" && o.layers != layers ? o.layers : o.verdict);
    }
    return fmt::format("| {} | {} |{} {} | {} |", std::filesystem::path(path).stem().string(), layers, cells,
                       difference, reason);
}

// Everything of a row but its largest difference and its reason.
std::string standing(const std::string& row) {
    size_t end = 0;
    for (int bars = 0; bars < 8 && end != std::string::npos; ++bars) end = row.find('|', end + (bars > 0));
    return row.substr(0, end);
}

std::map<std::string, std::string> rows_in(const std::string& path) {
    std::map<std::string, std::string> rows;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("| ")) rows[line.substr(2, line.find(' ', 2) - 2)] = line;
    }
    return rows;
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app{"A table of every architecture, made of models in a folder (arch_models FOLDER makes them)"};
    std::string folder, before;
    app.add_option("folder", folder, "Models")->required();
    app.add_option("--check", before, "A document with such a table: exit 1 where a row's standing changed");
    CLI11_PARSE(app, argc, argv);
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() == ".gguf") paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    const std::map<std::string, std::string> known =
        before.empty() ? std::map<std::string, std::string>() : rows_in(before);
    fmt::print("| architecture | layers | flash attention off | on | on, q8_0 | off, callback | on, callback | largest "
               "difference | why not |\n"
               "|---|---|---|---|---|---|---|---|---|\n");
    int changed = 0;
    for (const std::string& path : paths) {
        const std::string row = row_of(path);
        fmt::print("{}\n", row);
        std::fflush(stdout);
        const auto at = known.find(std::filesystem::path(path).stem().string());
        if (before.empty() || (at != known.end() && standing(at->second) == standing(row))) continue;
        fmt::print(stderr, "changed, was:\n{}\n", at == known.end() ? "not in the table" : at->second);
        ++changed;
    }
    return changed == 0 ? 0 : 1;
}
