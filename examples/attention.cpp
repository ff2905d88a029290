// Generates a few tokens, records their attention, and prints what each generated token looked at most.
//   example_attention MODEL.gguf "The capital of France is"
#include <attnscope/attention_view.h>
#include <attnscope/recording.h>
#include <attnscope/session_recorder.h>

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
    SessionRecorder recorder(**session, path, writing);

    GenerateOptions generate;
    generate.n_predict = 8;
    generate.sampling.temperature = 0;
    uint32_t verdict = verdict_ok;
    auto result = (*session)->generate(*tokens, generate, [&](Frame&& frame) {
        verdict |= frame.verdict;
        return recorder.push(std::move(frame));
    });
    if (!result) return fail(result.error());
    if (auto r = recorder.close(); !r) return fail(r.error());

    auto recording = Recording::open(path);
    if (!recording) return fail(recording.error());
    auto source = AttentionSource::of(**recording);
    if (!source) return fail(source.error());
    auto view = AttentionView::create(**source, {.reduce = Reduce::top_k, .top_k = 4});
    auto frames = (*recording)->frames(0, (*recording)->info().n_frames);
    if (!view || !frames) return fail(view ? frames.error() : view.error());
    const auto text = [&](int64_t column) { return (*recording)->token_text((*frames)[size_t(column)].token); };
    auto told =
        (*view)->each({result->n_prompt, (*recording)->info().n_frames}, [&](AttentionAnswer&& answer) -> Result<void> {
            std::printf("%12s looked at", text(answer.index).c_str());
            // the first position takes most of the weight, and means nothing
            for (size_t i = 0; i < answer.columns.size(); ++i)
                if (answer.columns[i] != 0)
                    std::printf(" '%s' (%.1f%%)", text(answer.columns[i]).c_str(), 100 * double(answer.values[i]));
            std::printf("\n");
            return {};
        });
    if (!told) return fail(told.error());
    std::printf("recorded %lld tokens, verdict %s\n", (long long)(*recording)->info().n_frames,
                verdict_text(verdict).c_str());
}
