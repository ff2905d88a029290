// attnscope diagnose: what is wrong with a capture.
#include "cli/capture_arguments.h"
#include "cli/diagnosis_report.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "formats/write_whole.h"

#include <attnscope/diagnose.h>

#include <cstdio>
#include <memory>

namespace attnscope::cli {

namespace {

struct Options {
    DumpArguments capture;
    std::string html;
    bool json = false;
    bool all = false;
    bool force = false;
};

int run(const Options& options) {
    if (!options.html.empty()) {
        const OutputName page{options.html, options.force, "--html", options.capture.path};
        if (Result<void> r = may_write(page); !r) return report(r.error(), options.json);
    }
    auto diagnosis = diagnose_path(options.capture);
    if (!diagnosis) return report(diagnosis.error(), options.json);
    if (!options.html.empty()) {
        if (auto done = formats::write_whole(options.html, diagnosis_html(*diagnosis)); !done)
            return report(done.error(), options.json);
    }
    if (options.json) {
        const auto replace = nlohmann::json::error_handler_t::replace;
        std::printf("%s\n", diagnosis_json(*diagnosis).dump(-1, ' ', false, replace).c_str());
    } else {
        std::fputs(diagnosis_text(*diagnosis, options.all).c_str(), stdout);
    }
    return diagnosis->good() ? exit_good : exit_no;
}

} // namespace

void add_diagnose(CLI::App& app, Action& action) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("diagnose", "Say what is wrong with a capture of attention that anybody made");
    add_dump_arguments(*verb, options->capture);
    verb->add_flag("--json", options->json, "Print a JSON object");
    verb->add_option("--html", options->html, "Also write a page that needs nothing else")->option_text("OUT");
    add_force_flag(*verb, options->force, "--html: replace an existing file");
    verb->add_flag("--all", options->all, "A line for every token, not for every run of equal ones");
    verb->footer("Examples:\n"
                 "  attnscope diagnose somebody-elses-capture/ --html report.html\n"
                 "  attnscope diagnose attention.npz --array 'layer_*' --axes layer,head,query,key\n"
                 "  attnscope diagnose rows.bin --shape 28,28,512\n"
                 "Exit code: 0 nothing wrong, 1 something is wrong, 2 it could not be read.");
    verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

} // namespace attnscope::cli
