// Prints the table of docs/fidelity.md: rows from captured Q and K against the engine's own kq_soft_max, and the
// witnesses with flash attention. Usage: bench_fidelity NAME=MODEL.gguf ... [--prompt N] [--predict N] [--types T] [--fa on|off]
// [--callback] [--device-mean] [--tolerance T]
#include "support/engine_rows.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <string>

using namespace attnscope;
using namespace attnscope::test;

int main(int argc, char** argv) {
    size_t n_prompt = 300;
    int n_predict = 200;
    bool device_mean = false;
    double tolerance = 1e-6;
    std::vector<std::pair<std::string, std::string>> models;
    std::vector<std::string> types{"f16", "q8_0"};
    std::vector<std::string> fas{"off", "on"};
    std::vector<Entry> entries{Entry::interposed};
    for (int i = 1; i < argc; ++i) {
        const std::string a = argv[i];
        if (a == "--prompt" && i + 1 < argc)
            n_prompt = static_cast<size_t>(std::atol(argv[++i]));
        else if (a == "--predict" && i + 1 < argc)
            n_predict = std::atoi(argv[++i]);
        else if (a == "--types" && i + 1 < argc)
            types = {argv[++i]};
        else if (a == "--fa" && i + 1 < argc)
            fas = {argv[++i]};
        else if (a == "--device-mean")
            device_mean = true;
        else if (a == "--tolerance" && i + 1 < argc)
            tolerance = std::atof(argv[++i]); // of rows: GPUs round differently
        else if (a == "--callback")
            entries = {Entry::callback};
        else if (const size_t eq = a.find('='); eq != std::string::npos)
            models.emplace_back(a.substr(0, eq), a.substr(eq + 1));
    }
    fmt::print("{:<14} {:<3} {:<6} {:>6} {:>9} {:>10} {:>9} {:>9} {:>7} {:>9} {:>9}\n", "model", "fa", "k", "tokens",
               "rows", "max diff", "padding", "|sum-1|", "not ok", "witness", "proven");
    bool good = true;
    for (const auto& [name, path] : models) {
        for (const auto& fa : fas) {
            for (const auto& type : types) {
                for (const Entry entry : entries) {
                    SessionOptions o;
                    o.model_path = path;
                    o.n_ctx = static_cast<int32_t>(n_prompt) + n_predict + 8;
                    o.entry = entry;
                    o.device_mean = device_mean;
                    o.flash_attention = fa == "on" ? FlashAttention::on : FlashAttention::off;
                    o.cache_type_k = type;
                    if (fa == "on" && type != "f16") o.cache_type_v = type;
                    auto session = Session::open(o);
                    if (!session) {
                        fmt::print("{:<14} {:<3} {:<6} error: {}\n", name, fa, type, session.error().message);
                        good = false;
                        continue;
                    }
                    const auto prompt = prompt_tokens(**session, n_prompt);
                    (*session)->reset();
                    const size_t n = n_prompt + static_cast<size_t>(n_predict);
                    // Every generated token, and every token of the prompt.
                    const RowsDifference d = compare_with_engine(o, prompt, n_predict, [&](size_t i) { return i < n; });
                    if (!d.error.empty()) fmt::print("error: {}\n", d.error);
                    fmt::print(
                        "{:<14} {:<3} {:<6} {:>6} {:>9} {:>10.2g} {:>9.2g} {:>9.2g} {:>7} {:>9.2g} {:>4}/{:<4}\n", name,
                        fa, type, d.tokens, d.rows, d.max_difference, d.max_padding, d.max_sum_error, d.not_ok,
                        d.max_witness, d.witnessed, d.pairs);
                    if (device_mean)
                        fmt::print("    means of {} tokens, largest difference {:.2g}\n", d.means, d.max_mean);
                    good =
                        good && d.error.empty() && d.max_difference <= tolerance && d.not_ok == 0 && d.max_padding == 0;
                }
            }
        }
    }
    return good ? 0 : 1;
}
