#include "server/view/viewed.h"

#include "base/parallel_for.h"
#include "recording/missing_rows.h"
#include "server/view/readers.h"

#include <attnscope/dump_reader.h>
#include <attnscope/rows.h>

#include <fmt/format.h>

#include <filesystem>

namespace attnscope::server {

namespace {
constexpr size_t most_pictures = 6; // 22 MB each at most

// Why the selection holds no row: what the recording has instead.
Error no_such_rows(const Geometry& geometry, const view::Selection& s) {
    const auto none = [](const char* what, int32_t asked, int32_t n) {
        return Error{ErrorKind::not_found, fmt::format("there is no {} {}; the recording has {}", what, asked, n)};
    };
    if (s.layer >= geometry.n_layer()) return none("layer", s.layer, geometry.n_layer());
    if (s.head >= geometry.max_heads()) return none("head", s.head, geometry.max_heads());
    return {ErrorKind::not_found, "no row of that layer and head exists"};
}

// Of an encoder's layers a decoder's token has no row, nor the other way round.
Error token_without_rows(const Geometry& geometry, const Frame& token, const view::Selection& s) {
    RowSelection rows;
    if (s.layer >= 0) rows.layers.push_back(s.layer);
    if (s.head >= 0) rows.heads.push_back(s.head);
    return {ErrorKind::not_found, recording::why_no_rows(geometry, rows, token.index, token.visible)};
}

} // namespace

Viewed::Viewed(std::string path, Kind kind, int64_t sequence, std::shared_ptr<SequenceList> list)
    : path_(std::move(path)), kind_(kind), sequence_(sequence), list_(std::move(list)) {
    std::filesystem::path p(path_);
    if (!p.has_filename()) p = p.parent_path(); // a folder's name, with or without the slash
    name_ = p.filename().string();
}

Result<std::shared_ptr<Viewed>> Viewed::open(const std::string& path) {
    Result<std::unique_ptr<Recording>> recording = Recording::open_sequence(path, 0);
    if (recording) {
        std::shared_ptr<Viewed> made(new Viewed(path, Kind::recording, 0, std::make_shared<SequenceList>(path)));
        made->hold(std::move(*recording));
        return made;
    }
    const ErrorKind why = recording.error().kind;
    std::error_code ec;
    if (why != ErrorKind::not_ours && !std::filesystem::is_directory(path, ec)) return recording.error();
    Result<std::unique_ptr<DumpReader>> capture = DumpReader::open(path);
    if (!capture) return capture.error();
    return std::shared_ptr<Viewed>(new Viewed(path, Kind::capture, 0, nullptr));
}

Result<std::shared_ptr<Viewed>> Viewed::open_sequence(int64_t sequence) {
    if (kind_ != Kind::recording)
        return Error{ErrorKind::not_found, name_ + " is a capture by another program: it has no sequences"};
    if (Result<void> there = list_->check(sequence); !there) return there.error();
    std::shared_ptr<Viewed> made(new Viewed(path_, Kind::recording, sequence, list_));
    Result<std::unique_ptr<Recording>> recording = made->reader();
    if (!recording) return recording.error();
    made->hold(std::move(*recording));
    return made;
}

void Viewed::hold(std::unique_ptr<Recording> recording) {
    n_frames_ = recording->info().n_frames;
    recording_ = std::move(recording);
}

Result<RecordingInfo> Viewed::info() {
    if (kind_ != Kind::recording)
        return Error{ErrorKind::unsupported, name_ + " is a capture by another program: only its health can be shown"};
    bool grown = false;
    RecordingInfo info;
    {
        const std::lock_guard lock(recording_mutex_);
        if (!recording_->info().complete) {
            if (Result<void> r = recording_->refresh(); !r) return r.error();
        }
        info = recording_->info();
        grown = info.n_frames != n_frames_;
        n_frames_ = info.n_frames;
        if (grown) tokens_ = nullptr;
    }
    if (grown) {
        passes_.end_all(); // over what was there before: not to be put beside what is there now
        std::unique_ptr<Job> ahead;
        {
            const std::lock_guard lock(keys_mutex_);
            keys_ = nullptr;
            ahead = std::move(reading_ahead_);
        }
        ahead = nullptr; // waited for without the lock
        {
            const std::lock_guard lock(tensors_mutex_);
            tensors_ready_ = false;
            if (tensors_) before_ = std::move(tensors_);
            tensors_ = nullptr;
        }
        {
            const std::lock_guard lock(pictures_mutex_);
            pictures_.clear();
        }
        // A pass over all heads goes on: started again at every token it would never end. What it gives says how many rows it had.
        const std::lock_guard lock(heads_mutex_);
        if (heads_ && heads_->result()) heads_ = nullptr;
    }
    if (info.complete) read_ahead();
    return info;
}

Result<std::shared_ptr<view::RecordedKeys>> Viewed::keys() {
    const std::lock_guard lock(keys_mutex_);
    if (keys_) return keys_;
    const auto readers = std::make_shared<Readers>(path_, sequence_);
    const Result<Readers::Taken> reader = readers->take();
    if (!reader) return reader.error();
    const RecordingInfo& info = (*reader)->info();
    const size_t each = info.geometry.k_bytes();
    if (each > 0 && static_cast<size_t>(info.n_frames) > most_tensor_bytes / each)
        return std::shared_ptr<view::RecordedKeys>();
    keys_ = std::make_shared<view::RecordedKeys>(
        info.geometry, info.n_frames,
        [readers](int32_t layer, int64_t begin, int64_t end) -> Result<std::vector<uint8_t>> {
            const Result<Readers::Taken> one = readers->take();
            if (!one) return one.error();
            return (*one)->keys(layer, begin, end);
        });
    bytes_ = each * static_cast<size_t>(info.n_frames);
    return keys_;
}

// Whoever opens a recording will want the row of its last token.
void Viewed::read_ahead() {
    const Result<std::shared_ptr<view::RecordedKeys>> keys = this->keys();
    if (!keys || !*keys) return;
    const std::lock_guard lock(keys_mutex_);
    if (reading_ahead_) return;
    reading_ahead_ = std::make_unique<Job>(
        [keys = *keys](const view::Progress& said) -> Result<Json> {
            const Geometry& geometry = keys->geometry();
            if (geometry.k_bytes() * static_cast<size_t>(keys->size()) > most_bytes_ahead) return Json();
            base::parallel_for_all(geometry.layers.size(), [&](size_t l) {
                const auto layer = static_cast<int32_t>(l);
                // An error is told to whoever asks for a row.
                if (said(0) && geometry.owns_k(layer)) (void)keys->layer(layer);
            });
            return Json();
        },
        0);
}

void Viewed::begin() {
    if (kind_ != Kind::recording || beginning_) return;
    beginning_ = std::make_unique<Job>(
        [this](const view::Progress&) -> Result<Json> {
            (void)info(); // errors are told to whoever asks
            (void)tokens();
            return Json();
        },
        0);
}

Result<Json> Viewed::tokens() {
    const std::lock_guard lock(recording_mutex_);
    if (!recording_)
        return Error{ErrorKind::unsupported, name_ + " is a capture by another program: its texts are not known"};
    if (!tokens_.is_null()) return tokens_;
    Result<Json> made = tokens_json(*recording_);
    if (made) tokens_ = *made;
    return made;
}

Result<std::vector<float>> Viewed::row(int64_t token, const view::Selection& s) {
    const view::AtWork at_work(*courtesy_);
    std::vector<float> out;
    if (tensors_ready_) {
        Result<std::shared_ptr<const view::RecordedTensors>> t = tensors();
        if (!t) return t.error();
        if (token < 0 || token >= (*t)->size()) return Error{ErrorKind::not_found, "there is no such token"};
        if (Result<void> r = (*t)->check(s); !r) return r.error();
        if (Result<void> r = (*t)->reduced(token, s, out); !r) return r.error();
        return out;
    }
    if (kind_ != Kind::recording) return Error{ErrorKind::unsupported, name_ + " is no recording"};
    const Result<std::shared_ptr<view::RecordedKeys>> keys = this->keys();
    if (!keys) return keys.error();
    if (!*keys) return row_of_file(token, s);
    const Geometry& geometry = (*keys)->geometry();
    std::vector<view::LayerHeads> layers;
    bool by_distance = false;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& info = geometry.layers[static_cast<size_t>(l)];
        const Range heads = s.head < 0 ? Range{0, info.n_head} : Range{s.head, s.head + 1};
        if ((s.layer >= 0 && s.layer != l) || !info.captured() || heads.begin >= info.n_head) continue;
        layers.push_back({l, heads});
        by_distance = by_distance || info.by_distance();
    }
    if (layers.empty()) return no_such_rows(geometry, s);
    std::vector<int32_t> positions;
    const Result<Frame> frame = [&]() -> Result<Frame> {
        const std::lock_guard lock(recording_mutex_);
        Result<Frame> read = recording_->frame(token, true);
        if (!read || !by_distance) return read;
        const Result<std::vector<Frame>> before = recording_->frames(0, view::columns_of_rows(*read));
        if (!before) return before.error();
        for (const Frame& f : *before) positions.push_back(f.position);
        return read;
    }();
    if (!frame) return frame.error();
    if (frame->q.size() != geometry.q_bytes() || frame->q.empty())
        return Error{ErrorKind::not_found, "token " + std::to_string(token) + " was recorded without its queries"};
    std::erase_if(layers, [&](const view::LayerHeads& l) {
        return !has_rows(geometry.layers[static_cast<size_t>(l.layer)], frame->visible);
    });
    if (layers.empty()) return token_without_rows(geometry, *frame, s);
    const int64_t n_columns = view::columns_of_rows(*frame);
    if (n_columns > (*keys)->size())
        return Error{ErrorKind::not_found, "token " + std::to_string(token) + " sees tokens that are not there"};
    if (Result<void> r =
            view::reduced_row(geometry, **keys, {&*frame, frame->q.data(), n_columns, positions}, layers, s.max, out);
        !r) {
        return r.error();
    }
    return out;
}

// Where keys are too many for the memory: a layer after the other from the file.
Result<std::vector<float>> Viewed::row_of_file(int64_t token, const view::Selection& s) {
    std::vector<float> out;
    const std::lock_guard lock(recording_mutex_);
    if (!recording_) return Error{ErrorKind::unsupported, name_ + " is no recording"};
    const Geometry& geometry = recording_->info().geometry;
    std::vector<int32_t> layers, heads;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        if ((s.layer < 0 || s.layer == l) && geometry.layers[static_cast<size_t>(l)].captured()) layers.push_back(l);
    }
    if (s.head >= 0) heads.push_back(s.head);
    if (layers.empty()) return no_such_rows(geometry, s);
    const Result<Frame> frame = recording_->frame(token, false);
    if (!frame) return frame.error();
    std::erase_if(layers,
                  [&](int32_t l) { return !has_rows(geometry.layers[static_cast<size_t>(l)], frame->visible); });
    if (layers.empty()) return token_without_rows(geometry, *frame, s);
    Result<FrameRows> rows = recording_->rows(token, {layers, heads});
    if (!rows) return rows.error();
    std::vector<float> existing; // rows of heads that this layer does not have are no rows
    const auto n = static_cast<size_t>(rows->n_columns);
    for (size_t l = 0; l < rows->layers.size(); ++l) {
        for (size_t h = 0; h < rows->heads.size(); ++h) {
            if (rows->heads[h] >= geometry.layers[static_cast<size_t>(rows->layers[l])].n_head) continue;
            const auto from = rows->weights.begin() + static_cast<ptrdiff_t>((l * rows->heads.size() + h) * n);
            existing.insert(existing.end(), from, from + static_cast<ptrdiff_t>(n));
        }
    }
    out.resize(n);
    if (s.max)
        reduce_max(existing, rows->n_columns, out);
    else
        reduce_mean(existing, rows->n_columns, out);
    return out;
}

Result<std::shared_ptr<const view::RecordedTensors>> Viewed::tensors() {
    const std::lock_guard lock(tensors_mutex_);
    if (tensors_) return tensors_;
    if (kind_ != Kind::recording) return Error{ErrorKind::unsupported, name_ + " is no recording"};
    Result<std::unique_ptr<Recording>> own = reader(); // so that rows can be asked for meanwhile
    if (!own) return own.error();
    const Result<std::shared_ptr<view::RecordedKeys>> held = keys();
    if (!held) return held.error();
    const bool same = *held && (*held)->size() == (*own)->info().n_frames; // the file may have grown meanwhile
    Result<std::shared_ptr<const view::RecordedTensors>> loaded =
        view::RecordedTensors::load(**own, most_tensor_bytes, {}, {same ? *held : nullptr, before_, courtesy_});
    before_ = nullptr;
    if (!loaded) return loaded.error();
    tensors_ = *loaded;
    bytes_ = tensors_->bytes();
    tensors_ready_ = true;
    return tensors_;
}

std::optional<Result<std::shared_ptr<const view::Picture>>> Viewed::picture(const view::Selection& s,
                                                                            double& progress) {
    using Made = Result<std::shared_ptr<const view::Picture>>;
    const auto held = [&]() -> std::shared_ptr<const view::Picture> {
        const std::lock_guard lock(pictures_mutex_);
        for (auto it = pictures_.begin(); it != pictures_.end(); ++it) {
            if (it->first != s) continue;
            pictures_.splice(pictures_.begin(), pictures_, it);
            return it->second;
        }
        return nullptr;
    };
    if (auto picture = held()) return Made(picture);
    const auto done = passes_.ask(
        s, Passes::For::picture,
        [this, s](const view::Progress& said) -> Result<Json> {
            Result<std::shared_ptr<const view::RecordedTensors>> t = tensors();
            if (!t) return t.error();
            Made made = view::Picture::make(*t, s, said);
            if (!made) return made.error();
            const std::lock_guard lock(pictures_mutex_);
            pictures_.emplace_front(s, *made);
            if (pictures_.size() > most_pictures) pictures_.pop_back();
            return Json();
        },
        progress);
    if (!done) return std::nullopt;
    if (!*done) return Made(done->error());
    if (auto picture = held()) return Made(picture);
    return std::nullopt; // the recording grew meanwhile: asked for again
}

std::optional<Result<void>> Viewed::denominators(const view::Selection& s, double& progress) {
    if (tensors_ready_) {
        const auto t = tensors();
        if (!t) return Result<void>(t.error());
        if ((*t)->has_denominators(s)) return Result<void>();
    }
    const auto done = passes_.ask(
        s, Passes::For::denominators,
        [this, s](const view::Progress& said) -> Result<Json> {
            Result<std::shared_ptr<const view::RecordedTensors>> t = tensors();
            if (!t) return t.error();
            if (Result<void> r = (*t)->check(s); !r) return r.error();
            if (Result<void> r = (*t)->prepare_denominators(s, said); !r) return r.error();
            return Json();
        },
        progress);
    if (!done) return std::nullopt;
    return *done ? Result<void>() : Result<void>(done->error());
}

std::optional<Result<Json>> Viewed::heads(double& progress) {
    Result<RecordingInfo> now = info();
    if (!now) return Result<Json>(now.error());
    const std::lock_guard lock(heads_mutex_);
    if (!heads_) {
        heads_ = std::make_unique<Job>([this, info = *now](const view::Progress& said) -> Result<Json> {
            if (Result<Json> cached = cached_heads(path_, sequence_, info)) return cached;
            Result<std::shared_ptr<const view::RecordedTensors>> t = tensors();
            if (!t) return t.error();
            Result<view::HeadMetrics> metrics = view::head_metrics(**t, said);
            if (!metrics) return metrics.error();
            const Json json = heads_json(*metrics);
            if (info.complete && (*t)->damage().empty()) cache_heads(path_, sequence_, info, json);
            return json;
        });
    }
    progress = heads_->progress();
    return heads_->result();
}

Result<Json> Viewed::health() {
    const std::lock_guard lock(health_mutex_);
    if (!health_.is_null()) return health_;
    if (kind_ == Kind::capture) {
        Result<Json> made = capture_health(path_);
        if (made) health_ = *made;
        return made;
    }
    Result<std::unique_ptr<Recording>> own = reader();
    if (!own) return own.error();
    const Result<SequenceList::Counts> counts = list_->counts();
    if (!counts) return counts.error();
    Result<Json> made = recording_health(**own, counts->n_frames);
    if (made && (*own)->info().complete) health_ = *made;
    return made;
}

} // namespace attnscope::server
