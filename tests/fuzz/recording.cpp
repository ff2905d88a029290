// A file from anybody, opened as a recording. Input: the bytes of a .attn file; or "ATTNLOG", the length of
// the file in 4 bytes, the file, and the -wal file beside it.
//
// With ATTNSCOPE_WRITE_SEEDS=FOLDER in the environment the seeds are written instead.
#include "recording/writer.h"

#include <attnscope/attention_map.h>
#include <attnscope/recording.h>

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

using namespace attnscope;
namespace fs = std::filesystem;

namespace {

constexpr char log_mark[] = "ATTNLOG";
constexpr size_t mark_bytes = sizeof log_mark - 1;

const std::string& path() {
    static const std::string name = "/dev/shm/attnscope-fuzz-" + std::to_string(getpid()) + ".attn";
    return name;
}

void put(const std::string& name, const uint8_t* data, size_t size) {
    std::ofstream(name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
}

void remove_files() {
    std::error_code ignored;
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(path() + suffix, ignored);
}

void require(bool condition) {
    if (!condition) __builtin_trap();
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
    (void)recording.token_text(3);
    (void)fine(recording.frames(0, std::min<int64_t>(n, 64)));
    const std::vector<Sequence> sequences = recording.sequences();
    require(!sequences.empty() && sequences[0].n_frames == n);
    for (size_t s = 1; s < std::min<size_t>(sequences.size(), 4); ++s) {
        const int64_t columns = sequences[s].n_frames;
        (void)fine(recording.frames(0, std::min<int64_t>(columns, 64), int64_t(s)));
        for (int64_t i = std::max<int64_t>(0, columns - 6); i < columns; ++i) {
            auto frame = recording.frame({i, int64_t(s)}, true, true);
            if (fine(frame)) require(frame->k.size() == geometry.k_bytes() && frame->sequence <= int64_t(s));
            if (geometry.max_heads() > 0) (void)fine(recording.rows({i, int64_t(s)}, RowSelection{{0}, {0}}));
        }
        (void)fine(recording.keys(0, 0, columns, int64_t(s)));
    }
    for (int64_t i = 0; i < std::min<int64_t>(n, 12); ++i) {
        auto frame = recording.frame(i, true, true);
        if (!fine(frame)) continue;
        require(frame->q.empty() || frame->q.size() == geometry.q_bytes());
        require(frame->k.size() == geometry.k_bytes());
        require(frame->visible.size() == size_t(geometry.n_mask_groups));
    }
    for (int32_t layer = 0; layer < std::min(geometry.n_layer(), 4); ++layer) {
        (void)fine(recording.keys(layer, 0, n));
        const std::vector<int32_t> layers{layer};
        const std::vector<int32_t> heads{0};
        if (geometry.max_heads() == 0) continue;
        for (const int64_t index : {int64_t(0), n / 2, n - 1}) {
            auto rows = recording.rows(index, {layers, heads});
            if (fine(rows)) require(rows->weights.size() == size_t(rows->n_columns));
        }
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
    (void)fine(recording.check([](double) {}));
    (void)fine(recording.refresh());
}

void write_seeds(const fs::path& folder) {
    for (const int64_t n : {0, 3, 10}) {
        for (const bool complete : {true, false}) {
            Geometry geometry;
            for (int32_t i = 0; i < 2; ++i) {
                LayerInfo layer;
                layer.layer = layer.k_layer = i;
                layer.n_head = 2;
                layer.n_head_kv = 1;
                layer.head_dim = layer.head_dim_v = 4;
                geometry.layers.push_back(layer);
            }
            remove_files();
            auto writer = recording::create_writer(path(), {}, {.commit_interval_ms = 0}, recording::Layout{512, 4});
            require(writer.ok() && (*writer)->begin(geometry).ok());
            for (int64_t i = 0; i < n; ++i) {
                Frame frame;
                frame.index = i;
                frame.token = static_cast<int32_t>(i % 4);
                frame.position = static_cast<int32_t>(i);
                frame.q.assign(geometry.q_bytes(), uint8_t(i));
                frame.k.assign(geometry.k_bytes(), uint8_t(i));
                frame.visible = {{{0, i + 1}}};
                frame.witnesses = {{0, 1, 0.0f, 0.0f, 1.0f, 0.5}};
                (*writer)->token_text(frame.token, "p");
                require((*writer)->push(std::move(frame)).ok());
            }
            int64_t total = n;
            if (n >= 3) { // another one that leaves the first after two frames, and a picture in it
                Sequence child;
                child.id = 1;
                child.parent = 0;
                child.n_shared = 2;
                child.label = "child";
                require((*writer)->begin_sequence(child).ok());
                Media picture;
                picture.sequence = 1;
                picture.begin = 2;
                picture.end = 4;
                require((*writer)->add_media(picture).ok());
                for (int64_t i = 2; i < n; ++i, ++total) {
                    Frame frame;
                    frame.sequence = 1;
                    frame.index = i;
                    frame.k.assign(geometry.k_bytes(), uint8_t(i));
                    frame.visible = {{{0, i + 1}}};
                    require((*writer)->push(std::move(frame)).ok());
                }
            }
            if (complete) require((*writer)->close().ok());
            while (!complete && (*writer)->recorded() < total) usleep(1000);
            const auto read = [](const std::string& name) {
                std::ifstream in(name, std::ios::binary);
                return std::string(std::istreambuf_iterator<char>(in), {});
            };
            const std::string file = read(path());
            std::string seed = file;
            if (!complete) {
                const auto size = static_cast<uint32_t>(file.size());
                seed = log_mark;
                seed.append(reinterpret_cast<const char*>(&size), sizeof size);
                seed += file + read(path() + "-wal");
            }
            std::ofstream(folder / ("v2-" + std::to_string(n).append(complete ? "-complete" : "-log")),
                          std::ios::binary)
                << seed;
        }
    }
    remove_files();
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    if (const char* folder = std::getenv("ATTNSCOPE_WRITE_SEEDS")) {
        write_seeds(folder);
        std::exit(0);
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    remove_files();
    uint32_t file_bytes = 0;
    const size_t head = mark_bytes + sizeof file_bytes;
    if (size > head && std::memcmp(data, log_mark, mark_bytes) == 0) {
        std::memcpy(&file_bytes, data + mark_bytes, sizeof file_bytes);
        const size_t n = std::min<size_t>(file_bytes, size - head);
        put(path(), data + head, n);
        put(path() + "-wal", data + head + n, size - head - n);
    } else {
        put(path(), data, size);
    }
    read_everything();
    return 0;
}
