#include "support/capture_maker.h"

#include <gtest/gtest.h>

#include <cstdio>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::string findings_of(const Diagnosis& diagnosis) {
    std::string text;
    for (const Finding& finding : diagnosis.findings) {
        text += std::string(cause_name(finding.cause)) + ": ";
        for (const std::string& evidence : finding.evidence) text += evidence + "; ";
        text += "\n";
    }
    return text;
}

constexpr uint64_t instances = 20; // of each way of spoiling a capture

} // namespace

// Prints the table of docs/diagnose.md.
TEST(Diagnose, NamesEveryCauseAndConfusesNone) {
    std::printf("| cause | how it was made | instances | rightly named, and nothing else | named wrongly | \"unknown\" "
                "|\n|---|---|---|---|---|---|\n");
    for (const Damage& damage : damages()) {
        int right = 0, wrong = 0, unknown = 0;
        for (uint64_t seed = 1; seed <= instances; ++seed) {
            const Diagnosis diagnosis = make_damaged(damage, seed).diagnose();
            const bool named = diagnosis.cause() == damage.cause && diagnosis.findings.size() == 1;
            right += named;
            if (!named) ++(diagnosis.cause() == Cause::unknown ? unknown : wrong);
            EXPECT_TRUE(named) << damage.name << ", seed " << seed << "\n" << findings_of(diagnosis);
        }
        std::printf("| %s | %s | %d | %d | %d | %d |\n", cause_name(damage.cause), damage.name.c_str(), int(instances),
                    right, wrong, unknown);
    }
}

// A recording names its columns, and its rows are computed of its own queries: encoders look both ways, and sparse attention at what it
// chooses, which looks like cells of a ring or like a token too late where nobody knows better.
TEST(Diagnose, ColumnsOfARecordingAreNotTakenForCells) {
    int n_doubtful = 0;
    for (const Damage& damage : damages()) {
        if (damage.cause != Cause::cells_for_positions) continue;
        for (uint64_t seed = 1; seed <= 4; ++seed) {
            SyntheticCapture capture = make_damaged(damage, seed);
            ++n_doubtful;
            capture.info.format = "attn";
            for (const Finding& f : capture.diagnose().findings) {
                EXPECT_NE(f.cause, Cause::cells_for_positions) << damage.name << ", seed " << seed;
                EXPECT_NE(f.cause, Cause::stale_frame) << damage.name << ", seed " << seed;
            }
        }
    }
    EXPECT_GT(n_doubtful, 0);
}

// Models whose attention looks odd and is right.
TEST(Diagnose, RaisesNoFalseAlarmOverTenThousandCleanTokens) {
    std::vector<SyntheticShape> shapes;
    for (uint64_t seed = 1; seed <= 7; ++seed) shapes.push_back(random_shape(seed));
    const auto add = [&](auto change) {
        SyntheticShape shape;
        change(shape);
        shapes.push_back(shape);
    };
    add([](SyntheticShape& s) { s.sinks = true; });
    add([](SyntheticShape& s) { s.softcap = 30; });
    add([](SyntheticShape& s) { s.alibi = true; });
    add([](SyntheticShape& s) { s.alibi = s.half = true; });
    add([](SyntheticShape& s) { s.window = 16; });
    add([](SyntheticShape& s) { s.window = 24, s.window_everywhere = true; });
    add([](SyntheticShape& s) { s.window = 16, s.sinks = s.half = true; });
    add([](SyntheticShape& s) { s.pure_sink_heads = 2; });
    add([](SyntheticShape& s) { s.uniform_heads = 2; });
    add([](SyntheticShape& s) { s.pure_sink_heads = s.n_head; });
    add([](SyntheticShape& s) { s.uniform_heads = s.n_head; });
    add([](SyntheticShape& s) { s.pure_sink_heads = s.n_head, s.n_layer = 2; });
    add([](SyntheticShape& s) { s.n_layer = 1; });
    add([](SyntheticShape& s) { s.n_layer = 1, s.n_head = s.n_head_kv = 1; });
    add([](SyntheticShape& s) { s.n_layer = 2, s.n_head = s.n_head_kv = 1, s.half = true; });
    add([](SyntheticShape& s) { s.half = true; });
    add([](SyntheticShape& s) { s.n_head = s.n_head_kv = 1; });
    int64_t tokens = 0, alarms = 0;
    // every shape in the forms that are right, too: a prompt's map, padded, not causal, evicted, stored in steps
    size_t forms = 0;
    for (const Damage& damage : damages()) {
        if (cause_is_damage(damage.cause) || damage.name == "nothing" || damage.name == "learned sinks") continue;
        ++forms;
        for (size_t i = 0; i < shapes.size(); ++i) {
            const SyntheticCapture capture = make_damaged(damage, shapes[i], 16, i + 1);
            const Diagnosis diagnosis = capture.diagnose();
            tokens += int64_t(capture.tokens.size());
            alarms += !diagnosis.good();
            EXPECT_TRUE(diagnosis.good()) << damage.name << ", shape " << i << "\n" << findings_of(diagnosis);
        }
    }
    EXPECT_GE(forms, 9u);
    for (uint64_t round = 0; tokens < 13500; ++round) {
        for (size_t i = 0; i < shapes.size(); ++i) {
            const int64_t first = round % 4 == 0 ? 0 : int64_t(round % 4) * 53 + int64_t(i);
            const int64_t n = round % 5 == 4 ? 1 + int64_t(i % 3) : 40;
            const SyntheticCapture capture = make_clean(shapes[i], first, n, round * 1000 + i + 1);
            const Diagnosis diagnosis = capture.diagnose();
            tokens += n;
            alarms += !diagnosis.good();
            EXPECT_TRUE(diagnosis.good()) << "shape " << i << ", round " << round << "\n" << findings_of(diagnosis);
            if (shapes[i].sinks) {
                EXPECT_EQ(diagnosis.cause(), Cause::learned_sinks);
            }
        }
    }
    std::printf("%d clean tokens of %d models, %d false alarms\n", int(tokens), int(shapes.size()), int(alarms));
}
