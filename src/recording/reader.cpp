#include "recording/reader.h"
#include "recording/checksum.h"
#include "recording/geometry_json.h"
#include "recording/identity.h"
#include "recording/schema.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <limits>
#include <new>
#include <numeric>

namespace attnscope::recording {

namespace {

using Meta = std::map<std::string, std::string>;

const std::string* find(const Meta& meta, const char* key) {
    const auto it = meta.find(key);
    return it == meta.end() ? nullptr : &it->second;
}

std::optional<int64_t> number(const Meta& meta, const char* key, int64_t max) {
    const std::string* text = find(meta, key);
    int64_t value = 0;
    if (!text) return std::nullopt;
    const auto [end, failed] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (failed != std::errc() || end != text->data() + text->size() || value < 0 || value > max) return std::nullopt;
    return value;
}

} // namespace

Reader::Reader(std::string path, OpenedFile opened) : path_(std::move(path)), db_(std::move(opened.db)) {
    info_.notice = std::move(opened.notice);
}

Error Reader::damaged(const std::string& what) const {
    return {ErrorKind::damaged, fmt::format("{} is damaged: {}", path_, what)};
}

Error Reader::no_such_frame(const FramePlace& place) const {
    if (place.sequence < 0 || place.sequence >= static_cast<int64_t>(sequences_.size())) {
        return {ErrorKind::not_found,
                fmt::format("{} has no sequence {}: it has {}", path_, place.sequence, sequences_.size())};
    }
    return {ErrorKind::not_found,
            fmt::format("{} has no frame {}: {} {}", path_, place.index,
                        place.sequence == 0 ? "it has" : fmt::format("sequence {} has", place.sequence),
                        sequence(place.sequence).n_frames)};
}

std::string valid_utf8(const std::string& text) {
    const nlohmann::json json = text;
    return nlohmann::json::parse(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
        .get<std::string>();
}

Result<void> Reader::load() {
    auto id = db_->integer("PRAGMA application_id");
    if (!id) return id.error();
    if (*id != application_id) {
        return Error{ErrorKind::not_ours,
                     fmt::format("{} is no recording: it is another program's SQLite file", path_)};
    }
    auto version = db_->integer("PRAGMA user_version");
    if (!version) return version.error();
    if (*version > format_version) {
        return Error{ErrorKind::too_new, fmt::format("{} has format {}; this program reads up to {}: use a newer one",
                                                     path_, *version, format_version)};
    }
    if (*version < 1) return damaged(fmt::format("its header says format {}", *version));
    info_.format_version = static_cast<int32_t>(*version);

    const Snapshot snapshot(*db_);
    if (!snapshot.began()) return snapshot.began().error();
    if (auto r = verify_schema(); !r) return r.error();
    sqlite3_limit(db_->handle(), SQLITE_LIMIT_LENGTH, static_cast<int>(max_meta_bytes + 4096));
    if (auto r = prepare(); !r) return r.error();
    auto meta = read_meta();
    if (!meta) return meta.error();
    if (auto r = load_info(*meta); !r) return r.error();
    if (auto r = load_geometry(*meta); !r) return r.error();
    return load_counts(*meta);
}

Result<void> Reader::verify_schema() {
    auto schema = db_->prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid");
    if (!schema) return schema.error();
    for (const Table& table : tables_of(info_.format_version)) {
        auto row = schema->step();
        if (!row) return row.error();
        if (!*row || schema->text(0) != "table" || schema->text(1) != table.name || schema->text(2) != table.name ||
            schema->text(3) != table.sql) {
            return damaged(fmt::format("table {} is not what format {} says", table.name, info_.format_version));
        }
    }
    auto row = schema->step();
    if (!row) return row.error();
    if (*row) return damaged(fmt::format("it has tables that format {} does not know", info_.format_version));
    return {};
}

Result<void> Reader::prepare() {
    const bool first = info_.format_version == 1; // its kind holds `batched`, too
    const std::string id = first ? "idx" : "id";
    const std::string fields =
        fmt::format("SELECT {}, token, position, kind, {}, verdict, checksum, q_checksum, visible, "
                    "witnesses, length(q) FROM frame WHERE {} ",
                    id, first ? "0" : "batched", id);
    const std::string last = "SELECT {0} FROM {1} WHERE {0} >= ? AND {0} < ? ORDER BY {0} DESC LIMIT 1";
    const std::pair<Statement*, std::string> statements[] = {
        {&select_meta_, "SELECT key, value, checksum FROM meta ORDER BY key"},
        {&select_frame_, fields + "= ?"},
        {&select_frames_, fields + fmt::format(">= ? AND {} < ? ORDER BY 1", id)},
        {&select_q_, fmt::format("SELECT q FROM frame WHERE {} = ?", id)},
        {&last_frame_, fmt::format(fmt::runtime(last), id, "frame")},
        {&last_block_, fmt::format(fmt::runtime(last), "id", "k_block")},
        {&select_block_, "SELECT checksum, data FROM k_block WHERE id = ?"},
        {&select_tail_,
         fmt::format("SELECT {0}, checksum, data FROM k_tail WHERE {0} >= ? AND {0} < ? ORDER BY {0}", id)},
    };
    for (const auto& [statement, sql] : statements) {
        auto prepared = db_->prepare(sql);
        if (!prepared) return prepared.error();
        *statement = std::move(*prepared);
    }
    return {};
}

Result<Meta> Reader::read_meta() {
    const ResetOnExit reset(select_meta_);
    Meta meta;
    for (;;) {
        auto row = select_meta_.step();
        if (!row) return row.error();
        if (!*row) return meta;
        const std::string key(select_meta_.text(0));
        const std::string value(select_meta_.text(1));
        if (meta_checksum(key, value) != select_meta_.integer(2)) {
            return damaged(fmt::format("table meta, row {}: checksum", meta.size()));
        }
        if ((!meta.empty() && key <= meta.rbegin()->first) || meta.size() == size_t(max_meta_rows)) {
            return damaged("table meta: its rows are out of order");
        }
        meta.emplace(key, value);
    }
}

Result<void> Reader::load_info(const Meta& meta) {
    const std::pair<const char*, std::string*> texts[] = {{"created", &info_.created},
                                                          {"writer", &info_.writer},
                                                          {"engine", &info_.engine},
                                                          {"entry", &info_.entry},
                                                          {"settings", &info_.settings_json}};
    for (const auto& [key, value] : texts) {
        const std::string* text = find(meta, key);
        if (!text) return damaged(fmt::format("table meta: {} is missing", key));
        *value = valid_utf8(*text);
    }
    if (!nlohmann::json::parse(info_.settings_json, nullptr, false).is_object()) {
        return damaged("table meta: settings is no JSON object");
    }
    const std::string* model = find(meta, "model");
    auto identity = model ? model_from_json(*model) : std::nullopt;
    if (!identity) return damaged("table meta: model is not readable");
    info_.model = std::move(*identity);
    info_.identity = identity_of(*db_);
    return {};
}

Result<void> Reader::load_geometry(const Meta& meta) {
    const std::string* text = find(meta, "geometry");
    const auto chunk_frames = number(meta, "chunk_frames", max_chunk_frames);
    if (!text || !chunk_frames) return damaged("table meta: geometry or chunk_frames is missing");
    if (text->empty()) return {}; // not stated yet
    std::string unknown;
    auto geometry = geometry_from_json(*text, unknown);
    if (!geometry) return damaged("table meta: geometry is not readable");
    if (!unknown.empty()) {
        return Error{ErrorKind::unsupported,
                     fmt::format("{} has layers with a rule that this program does not know ({}): use a "
                                 "newer one",
                                 path_, valid_utf8(unknown))};
    }
    const std::string problem = geometry_problem(*geometry);
    if (!problem.empty()) return damaged("table meta: geometry: " + problem);
    if (*chunk_frames < 1) return damaged("table meta: chunk_frames is 0");

    size_t largest = std::max({geometry->q_bytes(), geometry->k_bytes(), max_visible_bytes, max_meta_bytes});
    for (const LayerInfo& layer : geometry->layers) {
        const size_t block = layer.k_bytes() * static_cast<size_t>(*chunk_frames);
        if (block > max_block_bytes) return damaged("table meta: a block of keys would be too large");
        largest = std::max(largest, block);
    }
    sqlite3_limit(
        db_->handle(), SQLITE_LIMIT_LENGTH,
        static_cast<int>(std::min<size_t>(2 * largest + max_visible_bytes + 4096, std::numeric_limits<int>::max())));
    info_.geometry = std::move(*geometry);
    chunk_frames_ = static_cast<int32_t>(*chunk_frames);
    return {};
}

Result<void> Reader::load_counts(const Meta& meta) {
    const auto n_frames = number(meta, "n_frames", int64_t(1) << 40);
    const auto n_texts = number(meta, "n_texts", int64_t(1) << 32);
    const auto complete = number(meta, "complete", 1);
    if (!n_frames || !n_texts || !complete) return damaged("table meta: a count is missing");
    std::vector<Sequence> sequences(1);
    std::vector<Media> media;
    if (info_.format_version == 1) {
        sequences[0].n_frames = *n_frames;
    } else {
        const auto n_sequences = number(meta, "n_sequences", max_sequences);
        const auto n_media = number(meta, "n_media", max_media);
        if (!n_sequences || !n_media) return damaged("table meta: a count is missing");
        auto read = read_sequences(*n_sequences);
        if (!read) return read.error();
        sequences = std::move(*read);
        auto pictures = read_media(*n_media, sequences);
        if (!pictures) return pictures.error();
        media = std::move(*pictures);
    }
    const int64_t counted = std::accumulate(sequences.begin(), sequences.end(), int64_t(0),
                                            [](int64_t sum, const Sequence& s) { return sum + s.n_own(); });
    if (counted != *n_frames)
        return damaged(fmt::format("table sequence: {} frames where {} are due", counted, *n_frames));
    if (auto r = last_frames_fit(sequences); !r) return r.error();
    if (*n_frames > 0 && chunk_frames_ == 0) return damaged("table meta: frames without a geometry");
    // What a file claims must fit into it; everything that is allocated later is bounded by this.
    auto pages = db_->integer("PRAGMA page_count");
    if (!pages) return pages.error();
    auto page_bytes = db_->integer("PRAGMA page_size");
    if (!page_bytes) return page_bytes.error();
    const int64_t file_bytes = *pages * *page_bytes;
    const auto frame_bytes = std::max<int64_t>(min_frame_row_bytes, static_cast<int64_t>(info_.geometry.k_bytes()));
    if (*n_frames > file_bytes / frame_bytes) return damaged(fmt::format("{} frames do not fit into it", *n_frames));
    n_frames_ = *n_frames;
    sequences_ = std::move(sequences);
    media_ = std::move(media);
    info_.n_frames = sequences_[0].n_frames;
    info_.complete = *complete == 1;
    for (Sequence& s : sequences_) s.ended = s.ended || info_.complete;
    if (*n_texts == n_texts_) return {};
    n_texts_ = *n_texts;
    return load_texts();
}

Result<void> Reader::load_texts() {
    auto select = db_->prepare("SELECT token, checksum, piece FROM token_text ORDER BY token");
    if (!select) return select.error();
    std::map<int32_t, std::string> texts;
    size_t bytes = 0;
    for (;;) {
        auto row = select->step();
        if (!row) return row.error();
        if (!*row) break;
        const int64_t token = select->integer(0);
        const auto piece = select->blob(2);
        if (token < std::numeric_limits<int32_t>::min() || token > std::numeric_limits<int32_t>::max() ||
            (!texts.empty() && token <= texts.rbegin()->first) || static_cast<int64_t>(texts.size()) >= n_texts_) {
            return damaged("table token_text: its rows are not the ones that were written");
        }
        bytes += piece.size();
        if (checksum(Summed::token_text, token, piece) != select->integer(1) || piece.size() > max_piece_bytes ||
            bytes > max_text_bytes) {
            return damaged(fmt::format("table token_text, row {}: checksum", token));
        }
        texts.emplace_hint(texts.end(), static_cast<int32_t>(token), std::string(piece.begin(), piece.end()));
    }
    if (static_cast<int64_t>(texts.size()) != n_texts_) return damaged("table token_text: rows are missing");
    texts_ = std::move(texts);
    nlohmann::json json = nlohmann::json::object();
    for (const auto& [token, piece] : texts_) json[std::to_string(token)] = piece;
    // pieces can be parts of a character; token_text() has the bytes
    info_.text_json = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return {};
}

Result<void> Reader::refresh() {
    const Snapshot snapshot(*db_);
    if (!snapshot.began()) return snapshot.began().error();
    auto meta = read_meta();
    if (!meta) return meta.error();
    if (chunk_frames_ == 0) {
        if (auto r = load_geometry(*meta); !r) return r.error();
    }
    return load_counts(*meta);
}

std::string Reader::token_text(int32_t token) const {
    const auto it = texts_.find(token);
    return it == texts_.end() ? std::string() : it->second;
}

} // namespace attnscope::recording

namespace attnscope {

Result<std::unique_ptr<Recording>> Recording::open(const std::string& path) {
    try {
        auto opened = recording::open_for_reading(path);
        if (!opened) return opened.error();
        auto reader = std::make_unique<recording::Reader>(path, std::move(*opened));
        if (auto r = reader->load(); !r) return r.error();
        return std::unique_ptr<Recording>(std::move(reader));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path)};
    }
}

} // namespace attnscope
