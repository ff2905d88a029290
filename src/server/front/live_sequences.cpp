#include "server/front/live_sequences.h"

#include "server/front/watch.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace attnscope::server {

namespace {
constexpr size_t most_lines = 1 << 16; // of a context: their tokens stay where their keys do not
constexpr int64_t chunk_columns = 256; // KeyStore::create
// How long a row waits at most until its token is looked for. Where nobody wants rows, to look is work for nothing, in a core that the
// engine may be using.
constexpr std::chrono::milliseconds between_rows{5};
} // namespace

LiveSequences::LiveSequences(Options options) : options_(options), wanted_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

LiveSequences::~LiveSequences() {
    if (wanted_ >= 0) close(wanted_);
}

void LiveSequences::context_begins(ContextId id, const Geometry& geometry, Piece piece) {
    const base::Lock lock(mutex_);
    if (const auto before = contexts_.find(id); before != contexts_.end()) end(before);
    Context& context = contexts_[id];
    context.geometry = geometry;
    context.piece = std::move(piece);
}

void LiveSequences::model_known(ContextId id, Model model) {
    const base::Lock lock(mutex_);
    const auto found = contexts_.find(id);
    if (found == contexts_.end()) return;
    model.geometry = found->second.geometry;
    found->second.model = std::move(model);
}

std::optional<LiveSequences::Model> LiveSequences::model(const std::string& file) const {
    const base::Lock lock(mutex_);
    for (auto at = contexts_.rbegin(); at != contexts_.rend(); ++at) {
        if (!file.empty() && at->second.model.file == file) return at->second.model;
    }
    return std::nullopt;
}

void LiveSequences::line_begins(LineId id, int64_t parent, int64_t n_shared) {
    const base::Lock lock(mutex_);
    const auto found = contexts_.find(id.context);
    if (found == contexts_.end()) return;
    Context& context = found->second;
    if (context.lines.size() >= most_lines) return; // its frames find no line, and have no rows
    Line line;
    line.parent = parent;
    line.n_shared = parent < 0 ? 0 : n_shared;
    if (parent < 0) {
        auto store = KeyStore::create(context.geometry, std::numeric_limits<int32_t>::max());
        if (store) line.store = std::move(*store);
    } else {
        const auto from = context.lines.find(parent);
        if (from == context.lines.end() || line.n_shared < 0 || from->second.length() < line.n_shared) return;
        if (from->second.store) {
            auto store = from->second.store->copy(line.n_shared);
            if (store) line.store = std::move(*store);
        }
    }
    if (const auto before = context.lines.find(id.line); before != context.lines.end()) forget(context, before->second);
    Line& placed = context.lines[id.line] = std::move(line);
    if (!placed.store) return;
    placed.used = by_use_.insert(by_use_.end(), id);
    key_bytes_ += own_bytes(context, placed);
    limit_keys();
}

size_t LiveSequences::own_bytes(const Context& context, const Line& line) const {
    if (!line.store) return 0;
    const auto shared = static_cast<size_t>(line.n_shared / chunk_columns * chunk_columns);
    return line.store->bytes() - std::min(line.store->bytes(), shared * context.geometry.k_bytes());
}

void LiveSequences::forget(Context& context, Line& line) {
    if (!line.store) return;
    key_bytes_ -= own_bytes(context, line);
    by_use_.erase(line.used);
    line.store.reset();
}

void LiveSequences::limit_keys() {
    while (key_bytes_ > options_.key_bytes && by_use_.size() > 1) {
        const LineId oldest = by_use_.front();
        Context& context = contexts_.at(oldest.context);
        forget(context, context.lines.at(oldest.line));
    }
}

void LiveSequences::frame(ContextId id, int32_t slot, const Frame& frame) {
    const base::Lock lock(mutex_);
    const auto found = contexts_.find(id);
    if (found == contexts_.end()) return;
    Context& context = found->second;
    if (++context.n_frames >= context.n_expected) taken_.notify_all();
    const auto at = context.lines.find(frame.sequence);
    if (at == context.lines.end() || at->second.length() != frame.index) return;
    Line& line = at->second;
    line.tokens.push_back(frame.token);
    if (slot >= 0) context.line_of_slot[slot] = frame.sequence;
    if (line.store) {
        const size_t before = own_bytes(context, line);
        if (line.store->append(frame)) {
            key_bytes_ += own_bytes(context, line) - before;
            by_use_.splice(by_use_.end(), by_use_, line.used);
            limit_keys();
        } else {
            forget(context, line);
        }
    }
    std::shared_ptr<const Frame> shared; // made for the first who wants it
    for (Watch* watch : watches_) watch->on_frame({id, frame.sequence}, slot, frame, shared);
}

void LiveSequences::frames_due(ContextId id, int64_t n) {
    const base::Lock lock(mutex_);
    const auto found = contexts_.find(id);
    if (found == contexts_.end()) return;
    found->second.n_expected = n;
    taken_.notify_all();
}

void LiveSequences::end(std::map<ContextId, Context>::iterator context) {
    for (auto& [number, line] : context->second.lines) forget(context->second, line);
    for (Watch* watch : watches_) watch->on_end(context->first);
    contexts_.erase(context);
    taken_.notify_all();
}

void LiveSequences::context_ends(ContextId id) {
    const base::Lock lock(mutex_);
    if (const auto found = contexts_.find(id); found != contexts_.end()) end(found);
}

void LiveSequences::program_ends(uint64_t program) {
    const base::Lock lock(mutex_);
    for (auto at = contexts_.begin(); at != contexts_.end();) {
        const auto context = at++;
        if (context->first.program == program) end(context);
    }
}

void LiveSequences::want() {
    if (eventfd_write(wanted_, 1) != 0) return; // as many as it can count have called
}

void LiveSequences::all_taken(std::chrono::milliseconds most, std::span<const int> calls) {
    {
        const base::Lock lock(mutex_);
        ++n_taken_;
        taken_.notify_all();
        if (n_waiting_ > 0) return;
        if (!watches_.empty() || wanted_ < 0) most = std::min(most, between_rows);
    }
    std::vector<pollfd> any{{wanted_, POLLIN, 0}};
    for (const int call : calls) any.push_back({call, POLLIN, 0});
    poll(any.data(), any.size(), static_cast<int>(most.count()));
    eventfd_t n = 0;
    if (any[0].revents != 0) eventfd_read(wanted_, &n);
}

std::optional<Geometry> LiveSequences::geometry() const {
    const base::Lock lock(mutex_);
    return contexts_.empty() ? std::nullopt : std::optional(contexts_.begin()->second.geometry);
}

std::string LiveSequences::piece(int32_t token) const {
    Piece piece;
    {
        const base::Lock lock(mutex_);
        if (contexts_.empty()) return {};
        piece = contexts_.begin()->second.piece;
    }
    return piece ? piece(token) : std::string();
}

std::optional<bool> LiveSequences::tells_slots_apart() const {
    const base::Lock lock(mutex_);
    std::optional<bool> any;
    for (const auto& [id, context] : contexts_) {
        if (context.n_frames > 0) any = any.value_or(false) || !context.line_of_slot.empty();
    }
    return any;
}

std::vector<int64_t> LiveSequences::beginnings(const std::vector<int32_t>& tokens, int32_t n_slots) const {
    std::vector<int64_t> out(static_cast<size_t>(std::max(n_slots, 0)));
    const base::Lock lock(mutex_);
    for (const auto& [id, context] : contexts_) {
        for (const auto& [slot, number] : context.line_of_slot) {
            if (slot >= n_slots) continue;
            // Where they first differ, of the line's parts from its end to its beginning.
            int64_t same = static_cast<int64_t>(tokens.size()), line = number;
            for (int64_t end = same; end > 0;) {
                const auto at = context.lines.find(line);
                if (at == context.lines.end()) break;
                const Line& l = at->second;
                end = std::min(end, l.length());
                same = std::min(same, end);
                for (int64_t i = l.n_shared; i < end; ++i) {
                    if (l.tokens[static_cast<size_t>(i - l.n_shared)] == tokens[static_cast<size_t>(i)]) continue;
                    same = std::min(same, i);
                    break;
                }
                end = std::min(end, l.n_shared);
                line = l.parent;
            }
            out[static_cast<size_t>(slot)] = std::max(out[static_cast<size_t>(slot)], same);
        }
    }
    return out;
}

bool LiveSequences::wait_for_all(std::chrono::milliseconds patience) {
    base::Lock lock(mutex_);
    // The first of them may have looked before what matters was told.
    const uint64_t wanted = n_taken_ + 2;
    const auto until = std::chrono::steady_clock::now() + patience;
    ++n_waiting_;
    want();
    while (n_taken_ < wanted && taken_.wait_until(lock, until) != std::cv_status::timeout) {}
    --n_waiting_;
    if (n_taken_ < wanted) return false;
    std::map<ContextId, int64_t> late;
    for (const auto& [id, context] : contexts_) {
        if (context.n_frames < context.n_expected) late[id] = context.n_expected;
    }
    const auto has_come = [&](const auto& one) REQUIRES(mutex_) {
        const auto context = contexts_.find(one.first);
        return context == contexts_.end() ||
               context->second.n_frames >= std::min(one.second, context->second.n_expected);
    };
    while (!std::all_of(late.begin(), late.end(), has_come)) {
        if (taken_.wait_until(lock, until) == std::cv_status::timeout) return false;
    }
    return true;
}

Result<std::unique_ptr<KeyStore>> LiveSequences::keys(LineId id, int64_t n) {
    const base::Lock lock(mutex_);
    const auto context = contexts_.find(id.context);
    if (context != contexts_.end()) {
        const auto line = context->second.lines.find(id.line);
        if (line != context->second.lines.end() && line->second.store && line->second.store->size() >= n)
            return line->second.store->copy(n);
    }
    return Error{ErrorKind::not_found, "the keys of the beginning of this text are not kept any more (--keys-mb)"};
}

void LiveSequences::line_recorded(LineId id, Result<RecordedLine> where) {
    const base::Lock lock(mutex_);
    const auto context = contexts_.find(id.context);
    if (context == contexts_.end()) return;
    const auto line = context->second.lines.find(id.line);
    if (line != context->second.lines.end()) line->second.recorded = std::move(where);
}

Result<RecordedLine> LiveSequences::recorded(LineId id) const {
    const base::Lock lock(mutex_);
    const auto context = contexts_.find(id.context);
    if (context != contexts_.end()) {
        const auto line = context->second.lines.find(id.line);
        if (line != context->second.lines.end() && line->second.recorded) return *line->second.recorded;
    }
    return Error{ErrorKind::not_found, "this server writes no recordings"};
}

bool LiveSequences::begins_with(const LineId& id, const std::vector<int32_t>& tokens) const {
    const auto context = contexts_.find(id.context);
    if (context == contexts_.end()) return false;
    int64_t line = id.line;
    for (auto end = static_cast<int64_t>(tokens.size()); end > 0;) {
        const auto at = context->second.lines.find(line);
        if (at == context->second.lines.end() || at->second.length() < end) return false;
        const Line& l = at->second;
        if (l.n_shared < end && !std::equal(tokens.begin() + l.n_shared, tokens.begin() + end, l.tokens.begin()))
            return false;
        end = std::min(end, l.n_shared);
        line = l.parent;
    }
    return true;
}

} // namespace attnscope::server
