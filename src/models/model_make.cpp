// Writing a made model: keys first, then the tensors, piece by piece, on as many threads as there are cores.
#include "models/model_make.h"
#include "base/cores.h"
#include "base/output_file.h"
#include "models/model_plan.h"
#include "models/random_weights.h"

#include <fmt/format.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

namespace attnscope::models {
namespace fs = std::filesystem;

namespace {

struct Piece {
    const PlannedTensor* tensor;
    int64_t number;  // within the tensor
    uint64_t offset; // in the file
    size_t bytes;
};

struct Layout {
    std::vector<Piece> pieces;
    uint64_t file_bytes = 0;
};

// Adds the tensors to the keys, and says where every piece of them will lie.
Layout lay_out(const ModelPlan& plan) {
    const size_t n = plan.tensors.size();
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> names(
        ggml_init({.mem_size = (n + 1) * ggml_tensor_overhead(), .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
    for (const PlannedTensor& t : plan.tensors) {
        ggml_tensor* tensor = ggml_new_tensor(names.get(), t.type, int(t.ne.size()), t.ne.data());
        ggml_set_name(tensor, t.name.c_str());
        gguf_add_tensor(plan.keys.get(), tensor);
    }
    Layout layout;
    const uint64_t start = gguf_get_meta_size(plan.keys.get());
    const uint64_t alignment = gguf_get_alignment(plan.keys.get());
    for (size_t i = 0; i < n; ++i) {
        const PlannedTensor& t = plan.tensors[i];
        const uint64_t offset = start + gguf_get_tensor_offset(plan.keys.get(), int64_t(i));
        const uint64_t size = gguf_get_tensor_size(plan.keys.get(), int64_t(i));
        const uint64_t step = ggml_row_size(t.type, weights_piece);
        for (uint64_t at = 0; at < size; at += step) {
            layout.pieces.push_back({&t, int64_t(at / step), offset + at, size_t(std::min(step, size - at))});
        }
        layout.file_bytes = (offset + size + alignment - 1) / alignment * alignment;
    }
    return layout;
}

// Removes the unfinished file unless it was kept.
class PartFile {
public:
    // Beside `final_path`, which it is to become, and which is what errors name.
    explicit PartFile(std::string final_path)
        : final_path_(std::move(final_path)), path_(fmt::format("{}.part-{}", final_path_, getpid())) {}
    PartFile(const PartFile&) = delete;
    PartFile& operator=(const PartFile&) = delete;
    ~PartFile() {
        if (fd_ >= 0) close(fd_);
        if (!kept_) unlink(path_.c_str());
    }
    const std::string& path() const { return path_; }
    int fd() const { return fd_; }
    Result<void> open_at(uint64_t bytes) {
        fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd_ < 0 || ftruncate(fd_, off_t(bytes)) != 0) return failed(errno);
        return {};
    }
    Result<void> keep() {
        const int fd = std::exchange(fd_, -1);
        if (close(fd) != 0) return failed(errno);
        if (rename(path_.c_str(), final_path_.c_str()) != 0) return failed(errno);
        kept_ = true;
        return {};
    }
    Error failed(int why) const {
        return {ErrorKind::io, fmt::format("cannot write {}: {}", final_path_, std::strerror(why))};
    }

private:
    std::string final_path_, path_;
    int fd_ = -1;
    bool kept_ = false;
};

int write_all(int fd, std::span<const uint8_t> data, uint64_t offset) {
    while (!data.empty()) {
        const ssize_t n = pwrite(fd, data.data(), data.size(), off_t(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        data = data.subspan(size_t(n));
        offset += uint64_t(n);
    }
    return 0;
}

// Writes all pieces; returns errno of the first failure, else 0.
int write_pieces(const Layout& layout, uint64_t seed, int fd, const MakeProgress& progress) {
    std::atomic<size_t> next{0};
    std::atomic<int> failure{0};
    std::mutex reporting;
    uint64_t done = 0;
    const auto work = [&] {
        std::vector<uint8_t> data;
        for (size_t i = next++; i < layout.pieces.size() && failure == 0; i = next++) {
            const Piece& piece = layout.pieces[i];
            data.resize(piece.bytes);
            random_weights(*piece.tensor, seed, piece.number, data);
            if (const int why = write_all(fd, data, piece.offset)) failure = why;
            if (progress) {
                const std::lock_guard lock(reporting);
                done += piece.bytes;
                progress(done, layout.file_bytes);
            }
        }
    };
    std::vector<std::thread> threads;
    const size_t n_threads = layout.file_bytes < (uint64_t(8) << 20) ? 1 : base::n_cores();
    for (size_t i = 1; i < n_threads; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    return failure;
}

} // namespace

Result<void> make_model(const ModelShape& wanted, const std::string& path, const MakeProgress& progress) {
    if (auto free = base::may_replace(path); !free) return free;
    auto shape = complete_shape(wanted);
    if (!shape) return shape.error();
    const GgufPtr tokenizer(gguf_init_empty(), gguf_free);
    const auto n_vocab = add_vocabulary(*shape, tokenizer.get());
    if (!n_vocab) return n_vocab.error();
    shape->n_vocab = *n_vocab;
    const ModelPlan plan = plan_model(*shape);
    gguf_set_val_u32(plan.keys.get(), fmt::format("{}.vocab_size", shape->arch).c_str(), uint32_t(*n_vocab));
    gguf_set_kv(plan.keys.get(), tokenizer.get());
    const Layout layout = lay_out(plan);

    std::error_code ec;
    const fs::path folder = fs::absolute(path, ec).parent_path();
    const auto space = fs::space(folder, ec);
    if (!ec && space.available < layout.file_bytes) {
        return Error{ErrorKind::io, fmt::format("{} needs {} MB, and its folder has {} MB left", path,
                                                layout.file_bytes / 1000000 + 1, space.available / 1000000)};
    }
    PartFile file(path);
    if (auto r = file.open_at(layout.file_bytes); !r) return r;
    std::vector<uint8_t> meta(gguf_get_meta_size(plan.keys.get()));
    gguf_get_meta_data(plan.keys.get(), meta.data());
    if (const int why = write_all(file.fd(), meta, 0)) return file.failed(why);
    if (const int why = write_pieces(layout, shape->seed, file.fd(), progress)) return file.failed(why);
    return file.keep();
}

} // namespace attnscope::models
