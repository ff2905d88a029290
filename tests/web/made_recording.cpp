// Recordings for the tests of the page.
//   made_recording hostile OUT        token texts of somebody who means no good
//   made_recording long OUT [tokens]  30 layers x 9 heads, random queries and keys (32,768 tokens)
//   made_recording tree OUT           several sequences that share beginnings
//   made_recording grow OUT           one sequence, and for every line of the input one more that goes on from the last; closed at its end
#include "recording/tree.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

using namespace attnscope;

namespace {

const std::vector<std::string>& hostile_pieces() {
    static const std::vector<std::string> pieces = {
        "<script>window.attacked = 1</script>",
        "<img src=x onerror=\"window.attacked = 2\">",
        "\"><svg onload=window.attacked=3>",
        "</script><script>window.attacked = 4</script>",
        "<!--",
        "javascript:window.attacked=5",
        " \xD7\xA9\xD7\x9C\xD7\x95\xD7\x9D", // Hebrew: right to left
        "\xE2\x80\xAE"
        "evil",                                         // right-to-left override
        "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80", // woman, joiner, rocket
        "\xF0\x9F\x91",                                 // the beginning of a character ...
        "\xA9",                                         // ... and its end
        "e\xCC\x81\xCC\x81\xCC\x81",                    // marks
        "\xCC\x81",                                     // a mark alone
        std::string("\x00\x01\x1b[31m\x7f", 8),         // control characters
        "\xFF\xFE\xC0\xAF",                             // no UTF-8
        std::string(10000, 'a'),
        "\n",
        "\t",
        "   ",
        "",
        "{{constructor.constructor('window.attacked=6')()}}",
        "=cmd|' /C calc'!A0",
        "\xE2\x80\x8B",
        "\xEF\xBB\xBF",                     // nothing to see
        "\xF0\x9F\x87\xB3\xF0\x9F\x87\xB4", // a flag
    };
    return pieces;
}

int fail(const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.message.c_str());
    return 2;
}

int write(const std::string& path, const Geometry& geometry, int64_t n, bool hostile) {
    RecordingInfo info = test::make_info();
    if (hostile) info.model.name = "<script>window.attacked = 7</script>";
    Result<std::unique_ptr<RecordingWriter>> writer = RecordingWriter::create(path, info, {.overwrite = true});
    if (!writer) return fail(writer.error());
    if (Result<void> r = (*writer)->begin(geometry); !r) return fail(r.error());
    const auto n_texts = static_cast<int32_t>(hostile ? hostile_pieces().size() : 50);
    for (int32_t t = 0; t < n_texts; ++t) {
        (*writer)->token_text(t, hostile        ? hostile_pieces()[static_cast<size_t>(t)]
                                 : t % 11 == 10 ? ".\n"
                                                : " word" + std::to_string(t));
    }
    for (int64_t i = 0; i < n; ++i) {
        Frame frame = test::make_frame(geometry, i);
        if (hostile) frame.token = static_cast<int32_t>(i % n_texts);
        if (frame.q.empty()) frame.q = test::make_frame(geometry, 21).q;
        frame.verdict = verdict_ok;
        frame.witnesses.clear();
        if (Result<void> r = (*writer)->push(std::move(frame)); !r) return fail(r.error());
    }
    if (Result<void> r = (*writer)->close(); !r) return fail(r.error());
    return 0;
}

int write_tree(const std::string& path) {
    const Geometry geometry = test::uniform_geometry({});
    Result<std::unique_ptr<RecordingWriter>> writer =
        RecordingWriter::create(path, test::make_info(), {.overwrite = true});
    if (!writer) return fail(writer.error());
    if (Result<void> r = (*writer)->begin(geometry); !r) return fail(r.error());
    test::push_tree(**writer, geometry, test::make_tree(), test::make_media());
    if (Result<void> r = (*writer)->close(); !r) return fail(r.error());
    return 0;
}

// A sequence that shares 20 tokens with its parent and adds 15; the first has 30.
int write_growing(const std::string& path) {
    const Geometry geometry = test::uniform_geometry({});
    Result<std::unique_ptr<RecordingWriter>> writer =
        RecordingWriter::create(path, test::make_info(), {.overwrite = true});
    if (!writer) return fail(writer.error());
    if (Result<void> r = (*writer)->begin(geometry); !r) return fail(r.error());
    Sequence s;
    s.n_frames = 30;
    for (std::string line; s.id == 0 || std::getline(std::cin, line); ++s.id) {
        if (s.id > 0) {
            s.parent = s.id - 1;
            s.n_shared = 20;
            s.n_frames = 35;
            if (Result<void> r = (*writer)->begin_sequence(s); !r) return fail(r.error());
        }
        for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
            Frame frame = test::make_frame(geometry, FramePlace{i, s.id});
            (*writer)->token_text(frame.token, test::piece_of(frame.token));
            if (Result<void> r = (*writer)->push(std::move(frame)); !r) return fail(r.error());
        }
    }
    if (Result<void> r = (*writer)->close(); !r) return fail(r.error());
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: made_recording hostile|long|tree|grow OUT [tokens]\n");
        return 2;
    }
    if (std::strcmp(argv[1], "hostile") == 0)
        return write(argv[2], test::uniform_geometry({}), 2 * int64_t(hostile_pieces().size()), true);
    if (std::strcmp(argv[1], "tree") == 0) return write_tree(argv[2]);
    if (std::strcmp(argv[1], "grow") == 0) return write_growing(argv[2]);
    return write(argv[2], test::smollm2_geometry(), argc > 3 ? std::atoll(argv[3]) : 32768, false);
}
