#include "tree.h"

#include <stdexcept>

namespace attnscope::test {

std::vector<Sequence> make_tree() {
    std::vector<Sequence> tree(7);
    for (size_t i = 0; i < tree.size(); ++i) tree[i].id = int64_t(i);
    const auto grow = [&](size_t id, int64_t parent, int64_t n_shared, int64_t n_frames) {
        tree[id].parent = parent;
        tree[id].n_shared = n_shared;
        tree[id].n_frames = n_frames;
    };
    grow(0, -1, 0, 100);
    grow(1, 0, 37, 107);
    grow(2, 1, 50, 80); // 37 from 0, 13 from 1
    grow(3, -1, 0, 90);
    grow(4, 2, 20, 25); // all from 0, by way of 2 and 1
    grow(5, 0, 64, 64); // nothing of its own
    grow(6, 3, 64, 64 + 64);
    tree[0].label = "slot 0";
    tree[3].label = "request \"x\" \xc3\xa4\n";
    tree[6].keys_of = 3;
    return tree;
}

std::vector<Media> make_media() {
    Media picture;
    picture.sequence = 1;
    picture.begin = 40;
    picture.end = 46;
    picture.width = 1920;
    picture.height = 1080;
    picture.n_patch_x = 3;
    picture.n_patch_y = 2;
    picture.name = "cat.png";
    picture.sha256 = "00ff";
    Media sound;
    sound.sequence = 3;
    sound.begin = 0;
    sound.end = 7;
    sound.kind = MediaKind::audio;
    return {picture, sound};
}

FramePlace owner_in(const std::vector<Sequence>& sequences, const FramePlace& place) {
    int64_t id = place.sequence;
    while (place.index < sequences[size_t(id)].n_shared) id = sequences[size_t(id)].parent;
    return {place.index, id};
}

int64_t frames_of(const std::vector<Sequence>& sequences) {
    int64_t n = 0;
    for (const Sequence& s : sequences) n += s.n_own();
    return n;
}

bool push_tree(RecordingWriter& writer, const Geometry& geometry, const std::vector<Sequence>& sequences,
               const std::vector<Media>& media, int64_t most) {
    const auto must = [](const Result<void>& r) {
        if (!r) throw std::runtime_error(r.error().message);
    };
    std::vector<int64_t> n{0}; // columns of those that have begun
    must(writer.begin_sequence(sequences[0]));
    for (bool any = true; any;) {
        any = false;
        for (size_t i = 0; i < sequences.size(); ++i) {
            const Sequence& s = sequences[i];
            if (i == n.size()) {
                if (s.parent >= 0 && n[size_t(s.parent)] < s.n_shared) break;
                must(writer.begin_sequence(s));
                n.push_back(s.n_shared);
                for (const Media& m : media) {
                    if (m.sequence == s.id) must(writer.add_media(m));
                }
                any = true;
            }
            if (n[i] == s.n_frames) continue;
            if (most-- == 0) return false;
            Frame frame = make_frame(geometry, FramePlace{n[i]++, s.id});
            writer.token_text(frame.token, piece_of(frame.token));
            must(writer.push(std::move(frame)));
            any = true;
        }
    }
    return true;
}

} // namespace attnscope::test
