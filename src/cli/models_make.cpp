// attnscope models make: a GGUF of any shape with random weights.
#include "cli/models.h"
#include "cli/output.h"
#include "cli/report.h"
#include "models/model_make.h"

#include <chrono>
#include <filesystem>
#include <memory>

namespace attnscope::cli {
namespace {

struct Options {
    std::string preset;
    std::string path;
    std::string type;
    models::ModelShape given; // only what was named on the command line is taken from it
    bool json = false, force = false;
};

models::WeightType weight_type(const std::string& name) {
    if (name == "f32") return models::WeightType::f32;
    if (name == "q8_0") return models::WeightType::q8_0;
    if (name == "q4_0") return models::WeightType::q4_0;
    return models::WeightType::f16;
}

// The preset with what was named on top; `verb` knows which options were.
Result<models::ModelShape> shape_of(const Options& o, const CLI::App& verb) {
    models::ModelShape shape;
    if (!o.preset.empty()) {
        auto preset = models::preset_shape(o.preset);
        if (!preset) return preset.error();
        shape = *preset;
    }
    const auto take = [&](const char* option, auto models::ModelShape::*field) {
        if (verb.count(option) > 0) shape.*field = o.given.*field;
    };
    take("--arch", &models::ModelShape::arch);
    take("--layers", &models::ModelShape::n_layer);
    take("--heads", &models::ModelShape::n_head);
    take("--kv-heads", &models::ModelShape::n_head_kv);
    take("--head-dim", &models::ModelShape::head_dim);
    take("--embd", &models::ModelShape::n_embd);
    take("--ff", &models::ModelShape::n_ff);
    take("--ctx", &models::ModelShape::n_ctx_train);
    take("--vocab-size", &models::ModelShape::n_vocab);
    take("--window", &models::ModelShape::window);
    take("--window-pattern", &models::ModelShape::window_pattern);
    take("--experts", &models::ModelShape::n_expert);
    take("--softcap", &models::ModelShape::softcap);
    take("--tied", &models::ModelShape::tied);
    take("--vocab", &models::ModelShape::vocab);
    take("--vocab-from", &models::ModelShape::vocab);
    take("--seed", &models::ModelShape::seed);
    take("--name", &models::ModelShape::name);
    if (!o.type.empty()) shape.type = weight_type(o.type);
    return shape;
}

int make(const Options& o, const CLI::App& verb) {
    const auto shape = shape_of(o, verb);
    if (!shape) return report(shape.error(), o.json);
    const std::string read = verb.count("--vocab-from") > 0 ? o.given.vocab : std::string();
    if (Result<void> r = may_write({o.path, o.force, "-o", read}); !r) return report(r.error(), o.json);
    const auto start = std::chrono::steady_clock::now();
    ProgressLine line;
    uint64_t bytes = 0;
    uint64_t shown = 0;
    const auto made = models::make_model(*shape, o.path, [&](uint64_t done, uint64_t total) {
        bytes = total;
        if (done - shown < (uint64_t(64) << 20)) return;
        shown = done;
        line("writing " + o.path, done, total);
    });
    line.end();
    if (!made) return report(made.error(), o.json);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (o.json) {
        const nlohmann::json body = {{"path", o.path}, {"bytes", bytes}, {"seconds", seconds}, {"seed", shape->seed}};
        std::printf("%s\n", body.dump(2).c_str());
    } else {
        std::printf("%s: %.1f MB in %.1f s\n", o.path.c_str(), double(bytes) / 1e6, seconds);
    }
    return exit_good;
}

constexpr const char* about =
    "Makes a GGUF model of any shape with random weights, for tests and measurements. It loads, decodes and "
    "attends\n"
    "like a model of its shape; what it writes is noise. The same options give the same file.\n\n"
    "  attnscope models make -o tiny.gguf             a llama of 4 layers, under 1 MB\n"
    "  attnscope models make --arch gemma3 --layers 6 -o g.gguf  sliding windows\n"
    "  attnscope models make --preset qwen2.5-0.5b -o half.gguf  as large as the real\n"
    "  attnscope models make --arch qwen2 --vocab qwen2 --heads 14 -o q.gguf";

} // namespace

CLI::App* add_models_make(CLI::App& models, Action& action) {
    auto o = std::make_shared<Options>();
    CLI::App* verb = models.add_subcommand("make", "Make a model with random weights");
    verb->footer(about);
    std::vector<std::string> archs, presets;
    for (const auto name : models::made_architectures()) archs.emplace_back(name);
    for (const auto name : models::shape_presets()) presets.emplace_back(name);
    verb->add_option("-o,--output", o->path, "The file to write")->required();
    add_force_flag(*verb, o->force);
    verb->add_option("--preset", o->preset, "Start from a known shape")->check(CLI::IsMember(presets));
    verb->add_option("--arch", o->given.arch, "Architecture (default llama): " + CLI::detail::join(archs, ", "))
        ->check(CLI::IsMember(archs))
        ->option_text("NAME");
    verb->add_option("--layers", o->given.n_layer, "Layers (default 4)");
    verb->add_option("--heads", o->given.n_head, "Query heads (default 4)");
    verb->add_option("--kv-heads", o->given.n_head_kv, "KV heads; divides --heads (default 2)");
    verb->add_option("--head-dim", o->given.head_dim, "Size of a head (default 32)");
    verb->add_option("--embd", o->given.n_embd, "Embedding size (default heads x head size)");
    verb->add_option("--ff", o->given.n_ff, "Feed-forward size (default the embedding size)");
    verb->add_option("--ctx", o->given.n_ctx_train, "Context the model says it was trained with (default 4096)");
    verb->add_option("--window", o->given.window, "Positions a sliding window holds (default 16)");
    verb->add_option("--window-pattern", o->given.window_pattern, "Every n-th layer has no window (default 2)");
    verb->add_option("--experts", o->given.n_expert, "Experts, of which 2 are used (default 4)");
    verb->add_option("--softcap", o->given.softcap, "Soft cap of attention scores, gemma2 and grok (default 6)");
    verb->add_option("--type", o->type, "Type of matrices (default f16)")
        ->check(CLI::IsMember({"f32", "f16", "q8_0", "q4_0"}));
    verb->add_flag("--tied", o->given.tied, "Use the embedding matrix as output matrix");
    CLI::Option* vocab =
        verb->add_option("--vocab", o->given.vocab,
                         "tiny (one token a byte, the default) or a tokeniser of llama.cpp: qwen2, gpt-2, ...");
    verb->add_option("--vocab-from", o->given.vocab, "Copy the tokeniser of this GGUF file")
        ->check(CLI::ExistingFile)
        ->excludes(vocab);
    verb->add_option("--vocab-size", o->given.n_vocab, "Pad the vocabulary to so many tokens");
    verb->add_option("--seed", o->given.seed, "Seed of the weights (default 1)");
    verb->add_option("--name", o->given.name, "The model's name in the file");
    verb->add_flag("--json", o->json, "Print JSON");
    verb->callback([o, verb, &action] { action = [o, verb] { return make(*o, *verb); }; });
    return verb;
}

} // namespace attnscope::cli
