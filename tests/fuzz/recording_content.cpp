// What lies behind the checksums: a well-formed file whose rows carry right checksums over invented content.
#include "recording/checksum.h"
#include "recording/codec.h"
#include "recording/database.h"
#include "recording/geometry_json.h"
#include "recording/schema.h"

#include <attnscope/attention_map.h>
#include <attnscope/recording.h>

#include <fuzzer/FuzzedDataProvider.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

using namespace attnscope;
using namespace attnscope::recording;
namespace fs = std::filesystem;

namespace {

void require(bool condition) {
    if (!condition) __builtin_trap();
}

const std::string& path() {
    static const std::string name = "/dev/shm/attnscope-fuzz-content-" + std::to_string(getpid()) + ".attn";
    return name;
}

std::string template_path(int32_t version) {
    return path() + ".empty" + std::to_string(version);
}

void make_template(int32_t version) {
    fs::remove(template_path(version));
    auto db = Database::open(template_path(version), SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "fuzz");
    require(db.ok());
    const std::string head = "PRAGMA page_size=1024; PRAGMA application_id=" + std::to_string(application_id) +
                             "; PRAGMA user_version=" + std::to_string(version) + ";";
    require((*db)->exec(head.c_str()).ok());
    for (const Table& table : tables_of(version)) require((*db)->exec(table.sql).ok());
}

using Input = FuzzedDataProvider;

// Usually a number that makes sense, sometimes any.
int64_t number(Input& in, int64_t low, int64_t high) {
    if (in.ConsumeIntegralInRange<int>(0, 15) == 0) return in.ConsumeIntegral<int64_t>();
    return in.ConsumeIntegralInRange<int64_t>(low, high);
}

std::vector<uint8_t> bytes(Input& in, size_t usual) {
    const size_t n = in.ConsumeIntegralInRange<int>(0, 15) == 0 ? in.ConsumeIntegralInRange<size_t>(0, 300) : usual;
    auto content = in.ConsumeBytes<uint8_t>(std::min<size_t>(n, 64));
    content.resize(std::min<size_t>(n, 1 << 16), uint8_t(n));
    return content;
}

// Any number comes out of any number: overflow is meant.
int32_t times(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

Geometry geometry_of(Input& in) {
    static constexpr DType types[] = {DType::f16, DType::f32, DType::bf16, DType::q8_0, DType::q4_0};
    Geometry geometry;
    geometry.n_mask_groups = static_cast<int32_t>(number(in, 1, 2));
    const int n = in.ConsumeIntegralInRange<int>(0, 4);
    for (int i = 0; i < n; ++i) {
        LayerInfo layer;
        layer.layer = i;
        layer.n_head_kv = static_cast<int32_t>(number(in, 1, 2));
        layer.n_head = times(layer.n_head_kv, in.ConsumeIntegralInRange(1, 2));
        layer.head_dim = layer.head_dim_v = times(static_cast<int32_t>(number(in, 1, 2)), 32);
        layer.k_type = types[in.ConsumeIntegralInRange<size_t>(0, 4)];
        layer.q_type = in.ConsumeBool() ? layer.k_type : types[in.ConsumeIntegralInRange<size_t>(0, 4)];
        layer.k_layer = in.ConsumeBool() ? i : static_cast<int32_t>(number(in, 0, n - 1));
        layer.mask_group = in.ConsumeBool() ? 0 : static_cast<int32_t>(number(in, 0, 1));
        layer.max_bias = in.ConsumeBool() ? 0.0f : 8.0f;
        layer.softcap = in.ConsumeBool() ? 0.0f : in.ConsumeFloatingPoint<float>();
        if (in.ConsumeIntegralInRange<int>(0, 7) == 0) layer.absent = "recurrent";
        if (in.ConsumeBool())
            layer.sinks.assign(layer.n_head >= 0 && layer.n_head < 100 ? size_t(layer.n_head) : 1, 0.5f);
        geometry.layers.push_back(layer);
    }
    return geometry;
}

void must(Result<void> result) {
    require(result.ok());
}

// The first sequence's row, and others that share what they like and hold nothing (or say that they do).
void fill_sequences(Input& in, Database& db, int64_t n, const auto& put_meta) {
    auto sequence_row = db.prepare("INSERT OR REPLACE INTO sequence VALUES (?,?,?,?,?,?,?,?,?,?)");
    auto media_row = db.prepare("INSERT OR REPLACE INTO media VALUES (?,?,?,?,?,?,?,?,?,?,?,?)");
    require(sequence_row.ok() && media_row.ok());
    const int64_t n_sequences = in.ConsumeIntegralInRange<int64_t>(1, 5);
    const int64_t n_media = in.ConsumeIntegralInRange<int64_t>(0, 2);
    put_meta("n_sequences", std::to_string(number(in, n_sequences, n_sequences)));
    put_meta("n_media", std::to_string(number(in, n_media, n_media)));
    for (int64_t i = 0; i < n_sequences; ++i) {
        Sequence s;
        s.id = number(in, i, i);
        s.parent = i == 0 ? -1 : number(in, -1, i - 1);
        s.n_shared = s.parent < 0 ? 0 : number(in, 0, n);
        const int64_t n_own = i == 0 ? n : in.ConsumeBool() ? 0 : number(in, 0, 1);
        // what is out of bounds is refused before its checksum is looked at, and has no sum that a number could hold
        const bool in_bounds = std::min(s.n_shared, n_own) >= 0 && std::max(s.n_shared, n_own) < max_index;
        s.n_frames = in_bounds ? s.n_shared + n_own : 0;
        s.keys_of = number(in, -1, i - 1);
        s.geometry = static_cast<int32_t>(number(in, 0, 0));
        s.ended = in.ConsumeBool();
        s.label = in.ConsumeRandomLengthString(8);
        const auto columns = {s.id, s.parent, s.n_shared, n_own, s.keys_of, int64_t(s.geometry), int64_t(s.ended)};
        int column = 0;
        for (const int64_t value : columns) sequence_row->bind(++column, value);
        must(sequence_row->bind(8, in_bounds ? sequence_checksum(s) : 0)
                 .bind(9, std::string_view(s.label))
                 .bind(10, std::string_view(""))
                 .run());
    }
    for (int64_t i = 0; i < n_media; ++i) {
        Media m;
        m.sequence = number(in, 0, n_sequences - 1);
        m.begin = number(in, 0, n);
        m.end = number(in, 0, n);
        m.n_patch_x = static_cast<int32_t>(number(in, 0, 3));
        m.n_patch_y = static_cast<int32_t>(number(in, 0, 3));
        const auto columns = {i,          m.sequence,           m.begin,
                              m.end,      int64_t(m.kind),      int64_t(0),
                              int64_t(0), int64_t(m.n_patch_x), int64_t(m.n_patch_y)};
        int column = 0;
        for (const int64_t value : columns) media_row->bind(++column, value);
        must(media_row->bind(10, media_checksum(i, m))
                 .bind(11, std::string_view(""))
                 .bind(12, std::string_view(""))
                 .run());
    }
}

void fill(Input& in, Database& db, int32_t version) {
    auto meta = db.prepare("INSERT OR REPLACE INTO meta VALUES (?,?,?)");
    auto frame_row =
        db.prepare(version == 1 ? "INSERT OR REPLACE INTO frame (idx, token, position, kind, verdict, checksum, "
                                  "q_checksum, visible, witnesses, q) VALUES (?,?,?,?,?,?,?,?,?,?)"
                                : "INSERT OR REPLACE INTO frame (id, token, position, kind, verdict, checksum, "
                                  "q_checksum, visible, witnesses, q, batched) VALUES (?,?,?,?,?,?,?,?,?,?,0)");
    auto block_row = db.prepare("INSERT OR REPLACE INTO k_block VALUES (?,?,?)");
    auto tail_row = db.prepare("INSERT OR REPLACE INTO k_tail VALUES (?,?,?)");
    auto text_row = db.prepare("INSERT OR REPLACE INTO token_text VALUES (?,?,?)");
    require(meta.ok() && frame_row.ok() && block_row.ok() && tail_row.ok() && text_row.ok());
    const auto put_meta = [&](const std::string& key, const std::string& value) {
        must(meta->bind(1, std::string_view(key))
                 .bind(2, std::string_view(value))
                 .bind(3, meta_checksum(key, value))
                 .run());
    };
    const Geometry geometry = geometry_of(in);
    const bool fits = geometry_problem(geometry).empty();
    const int64_t chunk = number(in, 1, 4);
    const int64_t n = in.ConsumeIntegralInRange<int64_t>(0, 9);
    const int64_t n_texts = in.ConsumeIntegralInRange<int64_t>(0, 2);
    put_meta("created", "now");
    put_meta("writer", "fuzz");
    put_meta("engine", in.ConsumeRandomLengthString(8));
    put_meta("entry", "");
    put_meta("model", in.ConsumeIntegralInRange(0, 15) == 0 ? in.ConsumeRandomLengthString(64) : model_to_json({}));
    put_meta("settings", in.ConsumeIntegralInRange(0, 15) == 0 ? in.ConsumeRandomLengthString(64) : "{}");
    std::string json = geometry_to_json(geometry);
    for (int i = in.ConsumeIntegralInRange(0, 15) == 0 ? 4 : 0; i > 0 && !json.empty(); --i) {
        json[in.ConsumeIntegralInRange<size_t>(0, json.size() - 1)] = in.ConsumeIntegral<char>();
    }
    put_meta("geometry", json);
    put_meta("chunk_frames", std::to_string(chunk));
    put_meta("n_frames", std::to_string(in.ConsumeIntegralInRange(0, 15) == 0 ? number(in, 0, 20) : n));
    put_meta("n_texts", std::to_string(n_texts));
    put_meta("complete", std::to_string(number(in, 0, 1)));
    if (in.ConsumeBool()) put_meta(in.ConsumeRandomLengthString(8), "x");

    for (int64_t i = 0; i < n_texts; ++i) {
        const int64_t token = number(in, i, i);
        const auto piece = bytes(in, 3);
        must(text_row->bind(1, token)
                 .bind(2, checksum(Summed::token_text, token, piece))
                 .bind(3, std::span<const uint8_t>(piece))
                 .run());
    }
    if (version == 2) fill_sequences(in, db, n, put_meta);
    const size_t q_usual = fits ? std::min<size_t>(geometry.q_bytes(), 1 << 16) : 8;
    const size_t k_usual = fits ? std::min<size_t>(geometry.k_bytes(), 1 << 16) : 8;
    for (int64_t i = 0; i < n; ++i) {
        Frame frame;
        frame.index = number(in, i, i);
        frame.token = static_cast<int32_t>(number(in, 0, 5));
        frame.position = static_cast<int32_t>(number(in, i, i));
        frame.kind = static_cast<FrameKind>(number(in, 0, 1));
        const auto q = bytes(in, q_usual);
        std::vector<uint8_t> visible;
        std::vector<uint8_t> witnesses;
        if (in.ConsumeIntegralInRange(0, 3) == 0) {
            visible = in.ConsumeBytes<uint8_t>(in.ConsumeIntegralInRange<size_t>(0, 12));
            witnesses = in.ConsumeBytes<uint8_t>(in.ConsumeIntegralInRange<size_t>(0, 44));
        } else {
            const size_t groups = fits ? size_t(geometry.n_mask_groups) : 1;
            const int64_t begin = in.ConsumeIntegralInRange<int64_t>(0, i);
            const int64_t end = i + 1 + (in.ConsumeIntegralInRange(0, 7) == 0 ? 2 : 0);
            encode_visible(std::vector<Ranges>(groups, Ranges{{begin, end}}), visible);
        }
        const bool has_q = in.ConsumeIntegralInRange(0, 7) != 0;
        const int64_t q_sum = has_q ? checksum(Summed::q, frame.index, q) : 0;
        frame_row->bind(1, frame.index)
            .bind(2, int64_t(frame.token))
            .bind(3, int64_t(frame.position))
            .bind(4, int64_t(frame.kind))
            .bind(5, int64_t(frame.verdict))
            .bind(6, frame_checksum(frame, has_q ? q.size() : 0, q_sum, visible, witnesses, version))
            .bind(7, q_sum)
            .bind(8, std::span<const uint8_t>(visible))
            .bind(9, std::span<const uint8_t>(witnesses));
        if (has_q)
            frame_row->bind(10, std::span<const uint8_t>(q));
        else
            frame_row->bind_null(10);
        must(frame_row->run());
    }
    const bool sane = fits && chunk >= 1 && chunk <= 4;
    const int64_t n_sealed = sane ? (in.ConsumeBool() ? n / chunk : (n + chunk - 1) / chunk) : 1;
    for (int64_t c = 0; c < n_sealed; ++c) {
        for (int32_t layer = 0; layer < geometry.n_layer(); ++layer) {
            if (sane && !geometry.owns_k(layer)) continue;
            const int64_t id = number(in, c * geometry.n_layer() + layer, c * geometry.n_layer() + layer);
            const auto rows = static_cast<size_t>(sane ? std::min(chunk, n - c * chunk) : 1);
            const auto data = bytes(in, sane ? geometry.layers[size_t(layer)].k_bytes() * rows : 8);
            must(block_row->bind(1, id)
                     .bind(2, checksum(Summed::k_block, id, data))
                     .bind(3, std::span<const uint8_t>(data))
                     .run());
        }
    }
    for (int64_t i = sane ? n_sealed * chunk : 0; i < n; ++i) {
        const int64_t index = number(in, i, i);
        const auto data = bytes(in, k_usual);
        must(tail_row->bind(1, index)
                 .bind(2, checksum(Summed::k_tail, index, data))
                 .bind(3, std::span<const uint8_t>(data))
                 .run());
    }
}

template <typename T> bool fine(const Result<T>& result) {
    require(result.ok() || !result.error().message.empty());
    return result.ok();
}

void read_everything() {
    auto opened = Recording::open(path());
    if (!fine(opened)) return;
    Recording& recording = **opened;
    const Geometry& geometry = recording.info().geometry;
    const int64_t n = recording.info().n_frames;
    require(n <= 9); // no more than were written
    bool all_good = fine(recording.frames(0, n));
    for (int64_t i = 0; i < n; ++i) {
        auto frame = recording.frame(i, true, true);
        all_good = fine(frame) && all_good;
        if (frame) require(frame->k.size() == geometry.k_bytes());
        const std::vector<int32_t> heads{0};
        if (geometry.n_layer() == 0 || geometry.max_heads() == 0) continue;
        auto rows = recording.rows(i, {{}, heads});
        if (fine(rows)) require(rows->weights.size() == size_t(rows->n_columns) * rows->layers.size());
    }
    for (int32_t layer = 0; layer < geometry.n_layer(); ++layer) {
        auto keys = recording.keys(layer, n / 2, n);
        if (fine(keys))
            require(keys->size() == geometry.layers[size_t(layer)].k_bytes() * size_t(n - n / 2));
        else if (geometry.owns_k(layer))
            all_good = false;
    }
    // Rows of many tokens take another way to the same bytes.
    if (n > 0 && geometry.max_heads() > 0) {
        auto source = AttentionSource::of(recording);
        MapRequest request{
            .rows = {.heads = {0}}, .tokens = {std::max<int64_t>(0, n - 20), n}, .columns_per_tile = 3, .n_threads = 1};
        for (const bool each_row : {false, true}) {
            request.each_row = each_row;
            request.exact = !each_row;
            if (fine(source)) (void)fine(attention_map(**source, request));
        }
    }
    const std::vector<Sequence> sequences = recording.sequences();
    require(!sequences.empty() && sequences[0].n_frames == n);
    for (size_t s = 1; s < sequences.size(); ++s) {
        const int64_t columns = sequences[s].n_frames;
        all_good = fine(recording.frames(0, columns, int64_t(s))) && all_good;
        for (int32_t layer = 0; layer < geometry.n_layer(); ++layer) {
            if (geometry.owns_k(layer)) all_good = fine(recording.keys(layer, 0, columns, int64_t(s))) && all_good;
        }
        if (columns > 0) (void)fine(recording.rows({columns - 1, int64_t(s)}));
    }
    const bool checked = fine(recording.check());
    require(!checked || all_good); // what check() passes can be read
    (void)fine(recording.refresh());
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    make_template(1);
    make_template(2);
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input in(data, size);
    const int32_t version = in.ConsumeBool() ? 2 : 1;
    fs::copy_file(template_path(version), path(), fs::copy_options::overwrite_existing);
    {
        auto db = Database::open(path(), SQLITE_OPEN_READWRITE, "fuzz");
        require(db.ok());
        must((*db)->exec("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN"));
        fill(in, **db, version);
        must((*db)->exec("COMMIT"));
    }
    read_everything();
    return 0;
}
