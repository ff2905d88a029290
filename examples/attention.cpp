// Generates a few tokens, records their attention, and prints what each generated token looked at most.
//   example_attention MODEL.gguf "The capital of France is"
#include <attnscope/recording.h>
#include <attnscope/rows.h>
#include <attnscope/session.h>

#include <cstdio>

using namespace attnscope;

static int fail(const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.message.c_str());
    return 1;
}

int main(int argc, char** argv) {
    if (argc != 3) return fail({ErrorKind::invalid_argument, "usage: example_attention MODEL.gguf PROMPT"});
    SessionOptions options;
    options.model_path = argv[1];
    auto session = Session::open(options);
    if (!session) return fail(session.error());
    auto tokens = (*session)->tokenize(argv[2], true, false);
    if (!tokens) return fail(tokens.error());

    const char* path = "example.attn";
    WriterOptions writing;
    writing.overwrite = true;
    auto writer = RecordingWriter::create(path, (*session)->recording_info(), writing);
    if (!writer) return fail(writer.error());
    if (auto r = (*writer)->begin((*session)->geometry()); !r) return fail(r.error());

    GenerateOptions generate;
    generate.n_predict = 8;
    generate.sampling.temperature = 0;
    uint32_t verdict = verdict_ok;
    auto result = (*session)->generate(*tokens, generate, [&](Frame&& frame) {
        verdict |= frame.verdict;
        (*writer)->token_text(frame.token, (*session)->piece(frame.token));
        return (*writer)->push(std::move(frame));
    });
    if (!result) return fail(result.error());
    if (auto r = (*writer)->close(); !r) return fail(r.error());

    auto recording = Recording::open(path);
    if (!recording) return fail(recording.error());
    for (int64_t i = result->n_prompt; i < (*recording)->info().n_frames; ++i) {
        auto rows = (*recording)->rows(i, {}, {}); // (layers, heads, i + 1)
        auto all = (*recording)->frames(0, i + 1);
        if (!rows || !all) return fail(rows ? all.error() : rows.error());
        std::vector<float> mean(size_t(rows->n_columns));
        reduce_mean(rows->weights, rows->n_columns, mean);
        const auto text = [&](int64_t j) { return (*recording)->token_text((*all)[size_t(j)].token); };
        std::printf("%12s looked at", text(i).c_str());
        for (const ColumnWeight& w : row_top_k(std::span(mean).subspan(1), 3))
            std::printf(" '%s' (%.1f%%)", text(w.column + 1).c_str(), 100 * double(w.weight));
        std::printf("\n");
    }
    std::printf("recorded %lld tokens, verdict %s\n", (long long)(*recording)->info().n_frames, verdict_text(verdict).c_str());
}
