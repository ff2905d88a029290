// The sequences and pictures of a recording, and which of its sequences holds a column.
#include "recording/checksum.h"
#include "recording/codec.h"
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace attnscope::recording {

namespace {

bool fits_int32(int64_t value) {
    return value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max();
}

} // namespace

Result<std::vector<Sequence>> Reader::read_sequences(int64_t n) {
    auto select =
        db_->prepare("SELECT id, parent, n_shared, n_own, keys_of, geometry, ended, checksum, label, end_reason "
                     "FROM sequence ORDER BY id");
    if (!select) return select.error();
    std::vector<Sequence> sequences; // grows with the rows that are there, whatever the file says of their number
    for (;;) {
        auto row = select->step();
        if (!row) return row.error();
        if (!*row) break;
        const auto place = fmt::format("table sequence, row {}: ", sequences.size());
        if (static_cast<int64_t>(sequences.size()) == n) return damaged(place + "it should not be there");
        Sequence s;
        s.id = select->integer(0);
        s.parent = select->integer(1);
        s.n_shared = select->integer(2);
        const int64_t n_own = select->integer(3);
        s.keys_of = select->integer(4);
        const int64_t geometry = select->integer(5);
        const int64_t ended = select->integer(6);
        if (s.n_shared < 0 || s.n_shared >= max_index || n_own < 0 || n_own >= max_index || !fits_int32(geometry) ||
            ended < 0 || ended > 1) {
            return damaged(place + "a number is out of bounds");
        }
        s.n_frames = s.n_shared + n_own;
        s.geometry = static_cast<int32_t>(geometry);
        s.ended = ended == 1;
        s.label = std::string(select->text(8));
        s.end_reason = std::string(select->text(9));
        if (sequence_checksum(s) != select->integer(7)) return damaged(place + "checksum");
        if (const std::string problem = sequence_problem(s, sequences); !problem.empty())
            return damaged(place + problem);
        if (s.geometry != 0) {
            return Error{
                ErrorKind::unsupported,
                fmt::format("{} has sequences of another geometry, which this program cannot read: use a newer one",
                            path_)};
        }
        s.label = valid_utf8(s.label);
        s.end_reason = valid_utf8(s.end_reason);
        sequences.push_back(std::move(s));
    }
    if (sequences.empty() || static_cast<int64_t>(sequences.size()) != n)
        return damaged("table sequence: rows are missing");
    return sequences;
}

Result<std::vector<Media>> Reader::read_media(int64_t n, const std::vector<Sequence>& sequences) {
    auto select =
        db_->prepare("SELECT id, sequence, begin, \"end\", kind, width, height, n_patch_x, n_patch_y, checksum, name, "
                     "sha256 FROM media ORDER BY id");
    if (!select) return select.error();
    std::vector<Media> media;
    for (;;) {
        auto row = select->step();
        if (!row) return row.error();
        if (!*row) break;
        const auto id = static_cast<int64_t>(media.size());
        const auto place = fmt::format("table media, row {}: ", id);
        if (id == n || select->integer(0) != id) return damaged(place + "it is not the one that was written");
        for (int column = 4; column < 9; ++column) {
            if (!fits_int32(select->integer(column))) return damaged(place + "a number is out of bounds");
        }
        const auto at = [&](int column) { return static_cast<int32_t>(select->integer(column)); };
        Media m;
        m.sequence = select->integer(1);
        m.begin = select->integer(2);
        m.end = select->integer(3);
        m.kind = static_cast<MediaKind>(at(4));
        m.width = at(5);
        m.height = at(6);
        m.n_patch_x = at(7);
        m.n_patch_y = at(8);
        m.name = std::string(select->text(10));
        m.sha256 = std::string(select->text(11));
        if (media_checksum(id, m) != select->integer(9)) return damaged(place + "checksum");
        if (const std::string problem = media_problem(m, sequences); !problem.empty()) return damaged(place + problem);
        m.name = valid_utf8(m.name);
        m.sha256 = valid_utf8(m.sha256);
        media.push_back(std::move(m));
    }
    if (static_cast<int64_t>(media.size()) != n) return damaged("table media: rows are missing");
    return media;
}

Result<int64_t> Reader::last_row(Statement& last, int64_t sequence) {
    const ResetOnExit reset(last);
    auto row = last.bind(1, row_number(sequence, 0)).bind(2, row_number(sequence + 1, 0)).step();
    if (!row) return row.error();
    return *row ? last.integer(0) - row_number(sequence, 0) : -1;
}

// Rows that vanished at the end of a sequence are missed at once, others when they are asked for.
Result<void> Reader::last_frames_fit(const std::vector<Sequence>& sequences) {
    for (const Sequence& s : sequences) {
        auto last = last_row(last_frame_, s.id);
        if (!last) return last.error();
        const int64_t due = s.n_own() > 0 ? s.n_frames - 1 : -1;
        if (*last != due) {
            return damaged(
                fmt::format("table frame: the last row of sequence {} is {} where {} is due", s.id, *last, due));
        }
    }
    return {};
}

Result<std::vector<Reader::Segment>> Reader::segments(int64_t id, int64_t begin, int64_t end) const {
    if (id < 0 || id >= static_cast<int64_t>(sequences_.size()) || begin < 0) return no_such_frame({begin, id});
    if (end < begin || end > sequence(id).n_frames) return no_such_frame({end, id});
    std::vector<Segment> found; // from the end on: what a sequence does not hold itself it has from its parent
    for (const Sequence* s = &sequence(id); end > begin; s = &sequence(s->parent)) {
        const int64_t first = std::max(begin, s->n_shared);
        if (first < end) found.push_back({s->id, first, end});
        end = std::min(end, s->n_shared);
        if (s->parent < 0) break; // shares nothing
    }
    std::reverse(found.begin(), found.end());
    return found;
}

Result<Reader::Segment> Reader::owner(const FramePlace& place) const {
    if (place.index < 0 || place.index == std::numeric_limits<int64_t>::max()) return no_such_frame(place);
    if (place.sequence >= 0 && place.sequence < static_cast<int64_t>(sequences_.size()) &&
        place.index >= sequence(place.sequence).n_frames) {
        return no_such_frame(place);
    }
    auto found = segments(place.sequence, place.index, place.index + 1);
    if (!found) return found.error();
    return found->front();
}

} // namespace attnscope::recording
