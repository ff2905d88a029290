#include "cli/session_flags.h"

#include "models/model_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <sstream>

namespace attnscope::cli {

void add_model_flags(CLI::App& app, SessionFlags& f) {
    app.add_option("-m,--model", f.session.model_path,
                   "GGUF file, or a name from 'attnscope models' (default: smollm2)");
    app.add_option("-c,--ctx-size", f.session.n_ctx, "Positions of the context; 0: as the model was trained")
        ->capture_default_str()
        ->check(CLI::Range(0, 1 << 24));
    app.add_option("-b,--batch-size", f.batch_size, "Prompt tokens handed over at once; -ub is at most this")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 20));
    app.add_option("--ubatch-size", f.session.n_batch, "Prompt tokens computed at once (-ub)")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 16));
    app.add_option("-t,--threads", f.session.n_threads, "Threads (default: the number of cores)")
        ->check(CLI::Range(1, 1024));
    app.add_option("--n-gpu-layers", f.session.n_gpu_layers, "Layers to put on GPUs (-ngl; default: all that fit)");
    app.add_option("--device", f.session.devices, "Devices to use, e.g. CUDA0,CUDA1, or none (-dev; default: all)");
    app.add_option("--rpc", f.session.rpc_servers,
                   "Spread the model over rpc-servers: host:port,... (trusted networks only)");
    app.add_option("--flash-attn", f.flash_attention, "Flash attention: on, off or auto (-fa)")
        ->capture_default_str()
        ->check(CLI::IsMember({"on", "off", "auto"}));
    app.add_option("--cache-type-k", f.session.cache_type_k,
                   "Type of the K cache: f16, bf16, f32, q8_0, q4_0, ... (-ctk)")
        ->capture_default_str();
    app.add_option("--cache-type-v", f.session.cache_type_v, "Type of the V cache (-ctv)")->capture_default_str();
    app.add_option("--entry", f.entry, "Way into the engine: interposed, callback or auto")
        ->capture_default_str()
        ->check(CLI::IsMember({"auto", "interposed", "callback"}));
    app.add_flag("-v,--verbose", f.verbose, "Show llama.cpp's own log");
}

void add_sampling_flags(CLI::App& app, SessionFlags& f) {
    SamplingOptions& s = f.generate.sampling;
    const std::string group = "Sampling";
    app.add_option("-n,--n-predict", f.generate.n_predict,
                   "Tokens to generate; 0: none; -1: until the model stops or the context is full")
        ->capture_default_str()
        ->check(CLI::Range(-1, INT32_MAX));
    app.add_option("--temp,--temperature", s.temperature, "Temperature; 0: always the likeliest token")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 100.0))
        ->group(group);
    app.add_option("--top-k", s.top_k, "Choose among the K likeliest; 0: all")->capture_default_str()->group(group);
    app.add_option("--top-p", s.top_p, "Choose among the likeliest that hold this much")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0))
        ->group(group);
    app.add_option("--min-p", s.min_p, "Drop tokens below this share of the likeliest")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0))
        ->group(group);
    app.add_option("--repeat-penalty", s.repeat_penalty, "Penalty for repeated tokens; 1: none")
        ->capture_default_str()
        ->check(CLI::Range(0.01, 100.0))
        ->group(group);
    app.add_option("--repeat-last-n", s.repeat_last_n, "How far back repetition counts")
        ->capture_default_str()
        ->group(group);
    app.add_option("-s,--seed", s.seed, "Seed (default: a random one, recorded)")->group(group);
    app.add_flag("--ignore-eos", f.generate.ignore_eos, "Go on after the end-of-text token")->group(group);
    app.add_option("--prompt-rows", f.prompt_rows, "Whose rows of the prompt to keep: all, last:N or none")
        ->capture_default_str();
}

Result<void> resolve(SessionFlags& f) {
    f.session.flash_attention = flash_attention_from_name(f.flash_attention).value();
    f.session.entry = entry_from_name(f.entry).value(); // both were checked on the way in
    f.session.quiet = !f.verbose;
    f.session.n_batch = std::min(f.session.n_batch, f.batch_size); // as llama.cpp does
    // A write to a server that died would end this process without a word; llama.cpp notices the failed write.
    if (!f.session.rpc_servers.empty()) std::signal(SIGPIPE, SIG_IGN);
    if (f.prompt_rows == "none") {
        f.generate.prompt_rows.last = 0;
    } else if (f.prompt_rows.rfind("last:", 0) == 0) {
        const char* begin = f.prompt_rows.data() + 5;
        const char* end = f.prompt_rows.data() + f.prompt_rows.size();
        const auto [at, ec] = std::from_chars(begin, end, f.generate.prompt_rows.last);
        if (ec != std::errc() || at != end || f.generate.prompt_rows.last < 0) {
            return Error{ErrorKind::invalid_argument,
                         "--prompt-rows " + f.prompt_rows + ": N must be a number, as in last:16"};
        }
    } else if (f.prompt_rows != "all") {
        return Error{ErrorKind::invalid_argument, "--prompt-rows takes all, last:N or none, not " + f.prompt_rows};
    }
    Result<std::string> path = models::find_model(f.session.model_path);
    if (!path) return path.error();
    f.session.model_path = *path;
    return {};
}

Result<std::vector<int32_t>> parse_selection(const std::string& option, const std::string& text) {
    constexpr int32_t limit = 65536;
    std::vector<int32_t> numbers;
    std::stringstream parts(text);
    std::string part;
    const auto bad = [&] {
        return Error{ErrorKind::invalid_argument,
                     option + " takes numbers and ranges such as 0,4-7, not '" + text + "'"};
    };
    while (std::getline(parts, part, ',')) {
        int32_t first = 0;
        const char* end = part.data() + part.size();
        auto [at, ec] = std::from_chars(part.data(), end, first);
        int32_t last = first;
        if (ec == std::errc() && at != end && *at == '-') {
            const auto second = std::from_chars(at + 1, end, last);
            at = second.ptr, ec = second.ec;
        }
        if (ec != std::errc() || at != end || first < 0 || last < first || last >= limit) return bad();
        for (int32_t i = first; i <= last; ++i) numbers.push_back(i);
    }
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    if (numbers.empty() && !text.empty()) return bad();
    return numbers;
}

Result<std::string> read_text_file(const std::string& path, size_t limit) {
    std::ifstream in(path, std::ios::binary);
    if (!in) return Error{ErrorKind::not_found, "cannot read " + path};
    std::string text;
    std::vector<char> buffer(size_t(1) << 16);
    while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
        text.append(buffer.data(), static_cast<size_t>(in.gcount()));
        if (text.size() > limit) {
            return Error{ErrorKind::invalid_argument, fmt::format("{} is larger than {} MB", path, limit >> 20)};
        }
    }
    if (in.bad()) return Error{ErrorKind::io, "reading " + path + " failed"};
    return text;
}

Result<std::vector<int32_t>> read_token_file(const std::string& path) {
    Result<std::string> text = read_text_file(path);
    if (!text) return text.error();
    std::vector<int32_t> tokens;
    const char* at = text->data();
    const char* end = at + text->size();
    while (at != end) {
        if (std::string_view(" \t\r\n,[]").find(*at) != std::string_view::npos) {
            ++at;
            continue;
        }
        int32_t token = 0;
        const auto [next, ec] = std::from_chars(at, end, token);
        if (ec != std::errc() || next == at) {
            return Error{ErrorKind::invalid_argument,
                         fmt::format("{}: byte {} is not part of a list of token ids", path, at - text->data())};
        }
        tokens.push_back(token);
        at = next;
    }
    return tokens;
}

} // namespace attnscope::cli
