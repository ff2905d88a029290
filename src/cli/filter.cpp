// attnscope filter: what a diagnosis allows to be kept, labelled. Reads twice: to judge, and to write.
#include "cli/capture_arguments.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "diagnose/filter_token.h"
#include "formats/export_halo_weave.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>

namespace attnscope::cli {

namespace {

struct Options {
    DumpArguments capture;
    std::string out;
    bool json = false;
};

struct Filtered {
    int64_t kept = 0;
    std::vector<std::string> labels;
};

// Labels of the whole folder: what an earlier filter said stays, what this one found is added.
std::vector<std::string> folder_labels(const Diagnosis& diagnosis, int64_t kept) {
    std::vector<std::string> labels = diagnosis.dump.labels;
    for (const Finding& finding : diagnosis.findings) {
        if (!cause_is_damage(finding.cause)) continue;
        std::string label = fmt::format("{}: {} of {} tokens affected, {} kept ({})", cause_name(finding.cause),
                                        finding.n_tokens, diagnosis.tokens.size(), kept, finding.keep);
        if (std::find(labels.begin(), labels.end(), label) == labels.end()) labels.push_back(std::move(label));
    }
    return labels;
}

Result<Filtered> write_kept(const Options& options, const Diagnosis& diagnosis) {
    auto reader = open_dump(options.capture);
    if (!reader) return reader.error();
    StatedModel model = diagnosis.dump.model;
    auto writer = formats::HaloWeaveFolderWriter::create(options.out, model, false);
    if (!writer) return writer.error();
    for (size_t i = 0; i < diagnosis.keep.size() && !(*reader)->at_end(); ++i) {
        auto token = (*reader)->next();
        if (!token) continue; // diagnosed as unreadable
        if (!*token) break;
        auto kept = diagnose::keep_token(**token, diagnosis.tokens[i], diagnosis.keep[i]);
        if (!kept) continue;
        DumpToken out = **token;
        if (kept->n_layer != out.n_layer || kept->n_head != out.n_head) out.missing_rows = out.missing_tail = 0;
        out.n_layer = kept->n_layer;
        out.n_head = kept->n_head;
        out.n_context = kept->n_context;
        const bool reshaped = diagnosis.keep[i] == Keep::transposed;
        if (reshaped || out.stated_context > out.n_context) out.stated_context = out.n_context;
        out.values = kept->values;
        if (!kept->label.empty()) out.kept_as += (out.kept_as.empty() ? "" : "; ") + kept->label;
        if (auto done = (*writer)->add(out); !done) return done.error();
    }
    Filtered filtered;
    filtered.kept = (*writer)->n_tokens();
    filtered.labels = folder_labels(diagnosis, filtered.kept);
    for (const std::string& label : filtered.labels) (*writer)->add_label(label);
    if (auto done = (*writer)->close(); !done) return done.error();
    return filtered;
}

int run(const Options& options) {
    auto diagnosis = diagnose_path(options.capture);
    if (!diagnosis) return report(diagnosis.error(), options.json);
    const bool any =
        std::any_of(diagnosis->keep.begin(), diagnosis->keep.end(), [](Keep k) { return k != Keep::nothing; });
    Filtered filtered;
    if (any) {
        auto written = write_kept(options, *diagnosis);
        if (!written) return report(written.error(), options.json);
        filtered = std::move(*written);
    }
    if (options.json) {
        const nlohmann::json body = {{"output", any ? nlohmann::json(options.out) : nlohmann::json(nullptr)},
                                     {"tokens", diagnosis->tokens.size()},
                                     {"kept", filtered.kept},
                                     {"labels", filtered.labels},
                                     {"cause", cause_name(diagnosis->cause())},
                                     {"conclusion", diagnosis->conclusion}};
        std::printf("%s\n", body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else if (any) {
        std::printf("%lld of %zu tokens kept in %s\n", static_cast<long long>(filtered.kept), diagnosis->tokens.size(),
                    options.out.c_str());
        for (const std::string& label : filtered.labels) std::printf("label: %s\n", label.c_str());
    } else {
        std::printf("nothing can be kept. %s\n", diagnosis->conclusion.c_str());
    }
    return any ? exit_good : exit_no;
}

} // namespace

void add_filter(CLI::App& app, Action& action) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("filter", "Keep what is sound of a capture, labelled as what it is");
    add_dump_arguments(*verb, options->capture);
    verb->add_option("-o,--output", options->out, "Halo Weave folder to write")->required()->option_text("FOLDER");
    verb->add_flag("--json", options->json, "Print a JSON object");
    verb->footer("Examples:\n"
                 "  attnscope filter somebody-elses-capture/ -o kept\n"
                 "  attnscope diagnose kept                   what was kept, looked at again\n"
                 "Exit code: 0 something was kept, 1 nothing can be, 2 it could not be done.");
    verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

} // namespace attnscope::cli
