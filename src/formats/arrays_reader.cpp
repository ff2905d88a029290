#include "formats/arrays_reader.h"

#include "formats/row_mark.h"

#include <algorithm>
#include <array>

namespace attnscope::formats {

namespace {

class ArraysReader final : public DumpReader {
public:
    ArraysReader(DumpInfo info, std::vector<ArrayGroup> groups) : info_(std::move(info)), groups_(std::move(groups)) {
        one_text_ = std::all_of(groups_.begin(), groups_.end(), [this](const ArrayGroup& group) {
            return !group.front()->stacked() && group.front()->n_context() == info_.n_tokens;
        });
    }
    const DumpInfo& info() const override { return info_; }
    bool at_end() const override { return group_ >= groups_.size(); }

    Result<const DumpToken*> next() override {
        if (at_end()) return static_cast<const DumpToken*>(nullptr);
        ArrayGroup& group = groups_[group_];
        const ArrayTokens& first = *group.front();
        turn_ ^= 1;
        auto& [token, values] = slots_[turn_];
        token = DumpToken{};
        token.index = token.number = index_++;
        token.source = first.stacked() ? first.name() + "[" + std::to_string(in_group_) + "]" : first.name();
        token.n_head = first.n_head();
        token.n_context = first.n_context();
        if (first.queries() && first.n_tokens() == first.n_context()) token.own_column = in_group_;
        if (one_text_) token.own_column = token.index;
        int64_t elements = 0;
        for (const auto& array : group) {
            token.n_layer += array->n_layer();
            elements += array->elements();
        }
        const int64_t n_tokens = first.n_tokens();
        Result<void> done = {};
        if (elements > max_token_elements) {
            done = Error{ErrorKind::damaged, "its layers together are larger than what is read"};
        } else {
            values.resize(static_cast<size_t>(elements));
            float* out = values.data();
            for (const auto& array : group) {
                if (done) done = array->next(out);
                out += array->elements();
            }
        }
        const std::string source = token.source;
        if (!done || ++in_group_ == n_tokens) {
            groups_[group_++].clear();
            in_group_ = 0;
        }
        if (!done) return Error{done.error().kind, source + ": " + done.error().message};
        const MissingRows missing = clear_marked_rows({values.data(), static_cast<size_t>(elements)}, token.n_context);
        token.missing_rows = missing.n;
        token.missing_tail = missing.tail;
        token.values = values.values();
        return &token;
    }

private:
    DumpInfo info_;
    std::vector<ArrayGroup> groups_;
    bool one_text_ =
        false; // as many arrays, of a token each, as each has columns: of an encoder, which sees all of its text
    size_t group_ = 0;
    int64_t in_group_ = 0;
    int64_t index_ = 0;
    struct Slot {
        DumpToken token;
        base::TokenBuffer values;
    };
    std::array<Slot, 2> slots_; // in turns: the token before is still looked at
    size_t turn_ = 0;
};

} // namespace

std::unique_ptr<DumpReader> read_arrays(DumpInfo info, std::vector<ArrayGroup> groups) {
    info.n_tokens = 0;
    for (const ArrayGroup& group : groups) {
        info.n_tokens += group.front()->n_tokens();
        info.rectangular = info.rectangular || group.front()->stacked();
        info.prompt = info.prompt || group.front()->queries();
    }
    return std::make_unique<ArraysReader>(std::move(info), std::move(groups));
}

} // namespace attnscope::formats
